// The points in time that a rig's group offers: gone back to, and compared.
#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/segment_pool.h"
#include "tests/crash/rig.h"

namespace understudy::crash {
namespace {

constexpr char kProbe[] = "probe";
constexpr char kClone[] = "drill";

bool IsOfClone(const storage::SegmentFile& file) {
  return file.content == storage::SegmentFile::Content::kLog &&
         file.header.role == static_cast<uint8_t>(storage::LogRole::kClone);
}

}  // namespace

std::vector<Epoch> Rig::History() const {
  std::vector<Epoch> epochs;
  for (const storage::EpochInfo& info : replica_->History()) epochs.push_back(info.epoch);
  return epochs;
}

absl::Status Rig::FailoverTo(Epoch epoch) {
  const storage::ReplicaState state = replica_->state();
  if (epoch == state.committed_epoch) return Failover();
  model_.stages.insert({Stage::kFailover, Stage::kFailoverFailed, Stage::kDone});
  model_.term_max = state.term.Next();
  const size_t index = model_.BeginGoingBack(epoch);
  RETURN_IF_ERROR(replica_->Failover({.epoch = epoch}));
  model_.AnswerCheckpoint(index, /*is_durable=*/true);
  model_.stages.erase(Stage::kRunning);
  model_.term_min = model_.term_max;
  return absl::OkStatus();
}

absl::StatusOr<Images> Rig::ReadAll(storage::BlockView& view) {
  Images images(kVolumes);
  for (uint32_t v = 0; v < kVolumes; ++v) {
    images[v].resize(kVolumeBytes);
    RETURN_IF_ERROR(view.Read(VolumeId(v), 0, images[v]));
  }
  return images;
}

absl::Status Rig::CheckHistory() {
  if (options_.history_epochs == 0 || replica_ == nullptr) return absl::OkStatus();
  if (replica_->state().stage != Stage::kRunning) return absl::OkStatus();
  const std::vector<Epoch> offered = History();
  RETURN_IF_ERROR(model_.CheckHistory(offered, options_.history_epochs));
  for (const Epoch epoch : offered) RETURN_IF_ERROR(CheckEpoch(epoch));
  return absl::OkStatus();
}

absl::Status Rig::CheckEpoch(Epoch epoch) {
  const absl::Status created = replica_->CreateClone({.name = kProbe, .epoch = epoch});
  // The apply job, which goes on beside this, may have pushed it out.
  if (absl::IsNotFound(created) && History().back() > epoch) return absl::OkStatus();
  RETURN_IF_ERROR(created);
  ASSIGN_OR_RETURN(const auto view, replica_->FindClone(kProbe));
  ASSIGN_OR_RETURN(const Images found, ReadAll(*view));
  RETURN_IF_ERROR(replica_->RemoveClone(kProbe));
  const std::string difference = FirstDifference(found, model_.ViewOf(epoch));
  if (difference.empty()) return absl::OkStatus();
  return Wrong(absl::StrCat("history offers epoch ", epoch.value(),
                            ", which is not its checkpoint: ", difference));
}

// ---- a clone under the eyes of the oracle -----------------------------------------------------------------------------------

absl::Status Rig::CreateClone(Epoch epoch) {
  if (!options_.clones) return absl::OkStatus();
  RETURN_IF_ERROR(replica_->CreateClone({.name = kClone, .epoch = epoch}));
  cloned_ = true;
  ASSIGN_OR_RETURN(auto view, replica_->FindClone(kClone));
  clone_ = LiveClone{.view = std::move(view), .expected = model_.ViewOf(epoch)};
  return CheckClone();
}

absl::Status Rig::CloneWrite() {
  if (!clone_.has_value()) return absl::OkStatus();
  const uint64_t sectors = 1 + clone_random_() % 100;
  const auto volume = static_cast<uint32_t>(clone_random_() % kVolumes);
  const uint64_t offset = clone_random_() % (kVolumeBytes / kSectorBytes - sectors) * kSectorBytes;
  const std::string data = clone_random_.Bytes(sectors * kSectorBytes);
  const absl::Status written = clone_->view->Write(VolumeId(volume), offset, data, /*fua=*/false);
  if (written.ok()) clone_->expected[volume].replace(offset, data.size(), data);
  return CheckClone();
}

absl::Status Rig::CheckClone() {
  const absl::Status found = CompareClone();
  if (clone_verdict_.ok() && absl::IsInternal(found) && !disk_.dead()) clone_verdict_ = found;
  return found;
}

absl::Status Rig::CompareClone() {
  if (!clone_.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Images found, ReadAll(*clone_->view));
  ++clone_reads_;
  const std::string difference = FirstDifference(found, clone_->expected);
  return difference.empty() ? absl::OkStatus()
                            : Wrong(absl::StrCat("a clone shows something else: ", difference));
}

absl::Status Rig::RemoveClone() {
  if (!clone_.has_value()) return absl::OkStatus();
  clone_.reset();
  return replica_->RemoveClone(kClone);
}

absl::StatusOr<uint64_t> Rig::SegmentBytesWithoutClones() {
  const Saved saved = Save();
  const auto files = storage::ListSegmentFiles(disk_, absl::StrCat(kRigDirectory, "/segments"));
  RETURN_IF_ERROR(files.status());
  for (const storage::SegmentFile& file : *files) {
    if (!IsOfClone(file)) continue;
    RETURN_IF_ERROR(disk_.Remove(file.path));
  }
  RETURN_IF_ERROR(OpenStore());
  if (replica_ != nullptr) Settle().IgnoreError();
  const uint64_t bytes = SegmentBytes();
  End(Ending::kClosed);
  Load(saved);
  cloned_ = true;
  return bytes;
}

absl::Status Rig::CheckNoTrace(uint64_t segment_bytes_without) {
  if (replica_ == nullptr) return absl::OkStatus();
  if (!replica_->clones().empty()) return Wrong("a clone has outlived its process");
  Settle().IgnoreError();
  if (SegmentBytes() != segment_bytes_without) {
    return Wrong(absl::StrCat(SegmentBytes(), " bytes of segments are in use, without a clone ",
                              segment_bytes_without));
  }
  const auto files = storage::ListSegmentFiles(disk_, absl::StrCat(kRigDirectory, "/segments"));
  RETURN_IF_ERROR(files.status());
  uint64_t clone_bytes = 0;
  for (const storage::SegmentFile& file : *files) {
    if (IsOfClone(file)) clone_bytes += file.allocated_bytes;
  }
  if (store_->Space()->free_segment_bytes >= clone_bytes) return absl::OkStatus();
  return Wrong("segments of a clone are neither in use nor free");
}

}  // namespace understudy::crash
