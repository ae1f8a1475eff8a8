// What may differ from the old primary's disks after a failover, for the way back: storage/failback_map.h.
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {

bool ReplicaImpl::FailbackKnown() const { return record_.failback_known && !failback_lost_; }

void ReplicaImpl::TrustFailbackMap(const Chain& chain, const Incarnation& incarnation) {
  bool lost = false;
  for (const auto& disk : chain.disks) {
    const absl::Status told = disk->TrustFailback(context_.options.data_dir, incarnation);
    if (told.ok()) continue;
    lost = true;
    base::LogWarning("failback_map_unknown").With("group", name_).With("status", told);
  }
  base::MutexLock lock(mutex_);
  failback_lost_ = lost;
}

// What is not known now must not be known again after the next restart: the VM's writes may be missing by then.
absl::Status ReplicaImpl::LoadFailbackMap() {
  const GroupRecord record = this->record();
  const absl::Status loaded = failback_map_.Load();
  if (!loaded.ok())
    base::LogWarning("failback_map_unknown").With("group", name_).With("status", loaded);
  bool lost = !loaded.ok();
  for (const VolumeRecord& volume : record.volumes) {
    lost = lost || !SecondaryDisk::FailbackTrusted(context_.file_system, volume,
                                                   context_.options.data_dir, record.incarnation);
  }
  {
    base::MutexLock lock(mutex_);
    failback_lost_ = lost;
  }
  if (!lost || !record.failback_known || !damage_.ok()) return absl::OkStatus();
  base::Turn::Hold commit_turn(commit_turn_);
  GroupRecord unknown = this->record();
  unknown.failback_known = false;
  return WriteGroup(unknown, Index::Batch(context_.index));
}

// Of a failover: for the commit job, behind its answer. A restart before that leaves the map unknown.
void ReplicaImpl::RememberGivenUp(const std::shared_ptr<Overlay>& hidden,
                                  const OverlayList& dropped,
                                  const std::deque<PendingFrame>& frames) {
  if (!failed_.ok() || hidden == nullptr) return;  // what was received is not known whole
  std::set<std::shared_ptr<Overlay>> overlays(dropped.begin(), dropped.end());
  overlays.insert(hidden);
  for (const PendingFrame& frame : frames) {
    overlays.insert(frame.overlay);
    if (frame.checkpoint == nullptr) continue;
    overlays.insert(frame.checkpoint->sealed);
    for (const PreparedOverlay& before : frame.checkpoint->before) overlays.insert(before.overlay);
  }
  given_up_overlays_.emplace(overlays.begin(), overlays.end());
}

// A failure costs the map, not the failover.
void ReplicaImpl::MarkGivenUp() {
  std::optional<OverlayList> overlays;
  {
    base::MutexLock lock(mutex_);
    overlays = std::exchange(given_up_overlays_, std::nullopt);
  }
  if (!overlays.has_value()) return;
  // Writes to active that began before the failover have ended; later ones are marked by themselves.
  HoldAllWrites().clear();
  overlays->push_back(chain()->active);
  absl::Status marked = failback_map_.MarkOverlays(*overlays);
  if (marked.ok()) {
    base::Turn::Hold commit_turn(commit_turn_);
    GroupRecord record = this->record();
    record.failback_known = true;
    marked = WriteGroup(record, Index::Batch(context_.index));
  }
  base::LogInfo("failback_map_begun")
      .With("group", name_)
      .With("marked_bytes", failback_map_.regions() * FailbackMap::kRegionBytes)
      .With("status", marked);
}

// REQUIRES: the failover's stage is in chain_.
void ReplicaImpl::MarkForFailback(VolumeId volume, std::span<const ByteRange> ranges) {
  const absl::Status marked = failback_map_.Mark(volume, ranges);
  if (!marked.ok()) LoseFailbackMap(marked);
}

// The VM goes on. The index takes nothing any more, but may hold the map as it was when it comes back: so the disks say that it is not
// whole, by what is no longer beside them.
void ReplicaImpl::LoseFailbackMap(const absl::Status& cause) {
  // Whoever comes meanwhile writes to the disk when it says so, not before.
  base::Turn::Hold marker_turn(marker_turn_);
  {
    base::MutexLock lock(mutex_);
    if (std::exchange(failback_lost_, true)) return;
  }
  DistrustFailbackMap(*chain());
  Report({.operation = "failback",
          .status = Annotate(cause,
                             "the VM's writes cannot be marked any more, so a failback "
                             "will compare the whole disks")});
}

void ReplicaImpl::DistrustFailbackMap(const Chain& chain) {
  for (const auto& disk : chain.disks) {
    if (disk == nullptr) continue;
    const absl::Status told = disk->DistrustFailback(context_.options.data_dir);
    if (!told.ok()) base::LogError("disk_not_marked").With("group", name_).With("status", told);
  }
}

absl::StatusOr<FailbackRegions> ReplicaImpl::Failback() const {
  FailbackRegions regions;
  bool known = false;
  {
    base::MutexLock lock(mutex_);
    if (record_.stage != Stage::kDone) {
      return absl::FailedPreconditionError(
          absl::StrCat("group ", name_, ": its failback map is whole in stage DONE; it is ",
                       StageName(record_.stage)));
    }
    regions.incarnation = record_.incarnation;
    regions.agent_id = record_.agent_id;
    known = FailbackKnown();
  }
  regions.mark = known ? failback_map_.regions() + 1 : std::numeric_limits<uint64_t>::max();
  for (const VolumeInfo& volume : volumes_) {
    regions.runs.push_back(known ? failback_map_.Runs(volume.id)
                                 : std::vector<ByteRange>{{0, volume.size_bytes}});
  }
  return regions;
}

absl::StatusOr<ReplicaImpl::RangeHolds> ReplicaImpl::HoldUnlessWritten(
    std::optional<uint64_t> mark) {
  if (!mark.has_value()) return RangeHolds();
  RangeHolds holds = HoldAllWrites();
  ASSIGN_OR_RETURN(const FailbackRegions failback, Failback());
  if (failback.mark == *mark) return holds;
  return absl::AbortedError(
      absl::StrCat("group ", name_,
                   ": its VM has written since the failback map was taken: pause "
                   "it, and take the map again"));
}

}  // namespace understudy::storage
