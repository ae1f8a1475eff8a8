// Committed epochs that are kept instead of applied: which ones, failover to one of them, clones of one of them.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {
namespace {

uint64_t OrNoLimit(uint64_t limit) {
  return limit == 0 ? std::numeric_limits<uint64_t>::max() : limit;
}

}  // namespace

// ---- what is kept, what is applied ------------------------------------------------------------------------------------------

// How many of the newest committed epochs stay out of the apply job's hands.
size_t ReplicaImpl::KeptEpochs(const OverlayList& committed) const {
  const StoreOptions& options = context_.options;
  size_t kept = 0;
  if (!refusing_ && options.history_epochs + options.history_bytes > 0) {
    uint64_t bytes = 0;
    while (kept < committed.size() && kept < OrNoLimit(options.history_epochs) &&
           !committed[kept]->first_sync_step()) {
      bytes += committed[kept]->bytes();
      if (bytes > OrNoLimit(options.history_bytes)) break;
      ++kept;
    }
    if (OverSoftMark() && kept > 0 && kept == committed.size()) --kept;  // history gives way
  }
  // A clone needs the secondary disk as it was at its epoch.
  for (const auto& [name, clone] : clones_) {
    const Epoch needed = clone->info().spec.epoch;
    while (kept < committed.size() && committed[kept]->epoch() > needed) ++kept;
  }
  return kept;
}

// After each change of the chain, the clones or refusing_. REQUIRES: commit_turn_.
void ReplicaImpl::UpdateBacklog() {
  const std::shared_ptr<const Chain> chain = this->chain();
  base::MutexLock lock(mutex_);
  history_epochs_ = KeptEpochs(chain->committed);
  backlog_epochs_ = chain->committed.size() - history_epochs_;
}

// The committed epochs to apply now. From here on none before the newest of them can be chosen any more: the secondary disk
// will hold parts of it.
absl::StatusOr<OverlayList> ReplicaImpl::BeginApply() {
  // Order rule 2: what is applied must be durable first. A published epoch already is, unless --durability=none.
  RETURN_IF_ERROR(MakeCommittedDurable());
  base::Turn::Hold commit_turn(commit_turn_);
  GroupRecord record = this->record();
  const std::shared_ptr<const Chain> chain = this->chain();
  UpdateBacklog();
  size_t first = 0;
  {
    base::MutexLock lock(mutex_);
    first = history_epochs_;
  }
  while (first < chain->committed.size() &&
         chain->committed[first]->epoch() > record.committed_epoch) {
    ++first;  // published after the flush
  }
  OverlayList run(chain->committed.begin() + static_cast<std::ptrdiff_t>(first),
                  chain->committed.end());
  if (run.empty() || record.stage != Stage::kRunning) return OverlayList();
  if (record.applying_through < run.front()->epoch()) {
    record.applying_through = run.front()->epoch();
    RETURN_IF_ERROR(WriteGroup(record, Index::Batch(context_.index)));
  }
  return run;
}

std::vector<EpochInfo> ReplicaImpl::History() const {
  // In this order: an epoch whose apply ends in between is then missing from neither.
  const std::shared_ptr<const Chain> chain = this->chain();
  const GroupRecord record = this->record();
  std::vector<EpochInfo> history;
  if (chain->stage != Stage::kRunning || !chain->valid) return history;
  for (const auto& overlay : chain->committed) {
    if (overlay->first_sync_step()) return history;  // nothing older is a checkpoint either
    if (overlay->epoch() < record.applying_through || overlay->epoch() <= record.applied_epoch) {
      break;
    }
    EpochInfo info{.epoch = overlay->epoch(),
                   .time = absl::FromUnixMicros(overlay->committed_micros())};
    for (const VolumeInfo& volume : volumes_) info.bytes.push_back(overlay->bytes(volume.id));
    history.push_back(std::move(info));
  }
  const bool step = record.applied_micros == 0;  // of the first sync
  if (record.applied_epoch != Epoch() && record.applying_through <= record.applied_epoch && !step) {
    history.push_back({.epoch = record.applied_epoch,
                       .time = absl::FromUnixMicros(record.applied_micros),
                       .on_disk = true});
  }
  return history;
}

absl::StatusOr<EpochInfo> ReplicaImpl::FindEpoch(Epoch epoch) const {
  const std::vector<EpochInfo> history = History();
  const auto found = std::find_if(history.begin(), history.end(),
                                  [&](const EpochInfo& info) { return info.epoch == epoch; });
  if (found != history.end()) return *found;
  std::string kept = "none";
  if (!history.empty()) {
    kept = absl::StrCat(history.back().epoch.value(), " to ", history.front().epoch.value());
  }
  return absl::NotFoundError(absl::StrCat(
      "group ", name_, ": epoch ", epoch.value(), " is not kept (", kept,
      " can be chosen): see understudyctl history ", name_, "; --history-epochs keeps more"));
}

// ---- failover to an older checkpoint --------------------------------------------------------------------------------------------

// Makes `target` the newest committed epoch of `next`, `record` and `batch`; what is newer goes to `dropped`. The active overlay
// belongs to the newest one and goes with it. REQUIRES: commit_turn_.
absl::Status ReplicaImpl::GoBackTo(const EpochInfo& target, bool in_use, Chain* next,
                                   GroupRecord* record, Index::Batch* batch, OverlayList* dropped) {
  if (target.epoch > record->committed_epoch && HiddenFailed()) {
    return absl::NotFoundError(absl::StrCat(
        "group ", name_, ": epoch ", target.epoch.value(), " could not be made durable: epoch ",
        record->committed_epoch.value(), " is the newest that can be chosen"));
  }
  if (target.epoch == CommittedEpoch()) return absl::OkStatus();
  if (in_use) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "group ", name_, ": its disks are in use over NBD, and epoch ", target.epoch.value(),
            " is older than the newest, ", CommittedEpoch().value(),
            ": they would change under the VM. Stop it first, or use --force")),
        kReasonInUse);
  }
  if (target.epoch > record->committed_epoch) {
    return absl::UnavailableError(absl::StrCat("group ", name_, ": epoch ", target.epoch.value(),
                                               " is not durable yet: try again"));
  }
  ASSIGN_OR_RETURN(const auto active,
                   NewOverlay(LogRole::kActive, target.epoch.Next(), active_log_.end()));
  batch->DeleteOverlay(record->active);
  batch->PutOverlay(active->id(), active->record());
  record->active = active->id();
  dropped->push_back(std::exchange(next->active, active));
  const auto kept = std::find_if(next->committed.begin(), next->committed.end(),
                                 [&](const auto& o) { return o->epoch() <= target.epoch; });
  for (auto it = next->committed.begin(); it != kept; ++it) {
    batch->DeleteOverlay((*it)->id());
    dropped->push_back(*it);
  }
  next->committed.erase(next->committed.begin(), kept);
  record->committed_epoch = target.epoch;
  record->committed_micros = absl::ToUnixMicros(target.time);
  record->committed_sequence = record->committed_stream = 0;
  record->committed_bytes = record->committed_duration_micros = 0;
  return absl::OkStatus();
}

// The primary's writes could not be made durable: what the index does not have of them is gone. The
// log knows it before the queue of frames has been told (FailPending).
bool ReplicaImpl::HiddenFailed() const {
  if (hidden_log_.broken()) return true;
  base::MutexLock lock(mutex_);
  return !failed_.ok();
}

Epoch ReplicaImpl::CommittedEpoch() const {
  base::MutexLock lock(mutex_);
  return committed_.epoch;
}

// ---- clones -------------------------------------------------------------------------------------------------------------------------

absl::Status ReplicaImpl::CreateClone(const CloneSpec& spec) {
  base::Turn::Hold commit_turn(commit_turn_);
  const GroupRecord record = this->record();
  if (record.stage != Stage::kRunning) {
    return WithReason(absl::FailedPreconditionError("Block replication is not running"),
                      kReasonNotRunning);
  }
  RETURN_IF_ERROR(FindEpoch(spec.epoch).status());
  Chain base = *chain();
  std::erase_if(base.committed, [&](const auto& o) { return o->epoch() > spec.epoch; });
  ASSIGN_OR_RETURN(const uint64_t number, context_.index.NextNumber());
  base.active =
      MakeOverlay(OverlayId(number), NewOverlayRecord(LogRole::kClone, spec.epoch.Next(), {}));
  auto log = std::make_unique<SegmentLog>(context_.segments, record.number, LogRole::kClone);
  auto clone = std::make_shared<Clone>(spec, name_, volumes_, std::move(log), std::move(base),
                                       context_.clock.Now() + spec.time_to_live);
  {
    base::MutexLock lock(mutex_);
    if (refusing_ || closing_) {
      return absl::FailedPreconditionError(absl::StrCat("group ", name_, " is being stopped"));
    }
    if (!clones_.emplace(spec.name, clone).second) {
      return absl::AlreadyExistsError(absl::StrCat("group ", name_, " has a clone ", spec.name,
                                                   ": choose another name, or understudyctl clone ",
                                                   name_, " --remove ", spec.name));
    }
  }
  UpdateBacklog();
  base::LogInfo("clone_created")
      .With("group", name_)
      .With("clone", spec.name)
      .With("epoch", spec.epoch.value())
      .With("time_to_live", spec.time_to_live);
  context_.write_back.SubmitAfter(
      spec.time_to_live, [self = weak_from_this(), clone = std::weak_ptr<Clone>(clone)] {
        const auto replica = self.lock();
        if (const auto expired = clone.lock(); replica != nullptr && expired != nullptr) {
          replica->EndClone(expired, "its time to live is over");
        }
      });
  return absl::OkStatus();
}

void ReplicaImpl::EndClone(const std::shared_ptr<Clone>& clone, absl::string_view why) {
  const std::string name = clone->info().spec.name;
  {
    base::MutexLock lock(mutex_);
    const auto found = clones_.find(name);
    if (found == clones_.end() || found->second != clone) return;  // ended already
    clones_.erase(found);
  }
  // After this no read of the clone returns what the disk holds, so the apply job may change it.
  const std::shared_ptr<Clone::State> freed = clone->End(why);
  base::LogInfo("clone_ended").With("group", name_).With("clone", name).With("why", why);
  {
    base::Turn::Hold commit_turn(commit_turn_);
    UpdateBacklog();
  }
  NotifyChange();
  ScheduleJob();
}

// At a failover, on whose way nothing may take long, and at Stop, Remove and close.
void ReplicaImpl::EndClones(absl::string_view why) {
  std::map<std::string, std::shared_ptr<Clone>> ended;
  {
    base::MutexLock lock(mutex_);
    ended.swap(clones_);
  }
  std::vector<std::shared_ptr<Clone::State>> freed;
  for (const auto& [name, clone] : ended) {
    freed.push_back(clone->End(why));
    base::LogInfo("clone_ended").With("group", name_).With("clone", name).With("why", why);
  }
  if (!ended.empty()) context_.jobs.Submit([ended = std::move(ended), freed = std::move(freed)] {});
}

absl::Status ReplicaImpl::RemoveClone(const std::string& name) {
  std::shared_ptr<Clone> clone;
  {
    base::MutexLock lock(mutex_);
    const auto found = clones_.find(name);
    if (found != clones_.end()) clone = found->second;
  }
  if (clone == nullptr) return FindClone(name).status();
  EndClone(clone, "it was removed");
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<BlockView>> ReplicaImpl::FindClone(const std::string& name) const {
  base::MutexLock lock(mutex_);
  const auto found = clones_.find(name);
  if (found != clones_.end()) return found->second;
  return absl::NotFoundError(absl::StrCat("group ", name_, " has no clone ", name,
                                          ": see understudyctl clone ", name_, " --list"));
}

std::vector<CloneInfo> ReplicaImpl::clones() const {
  std::vector<CloneInfo> infos;
  base::MutexLock lock(mutex_);
  for (const auto& [name, clone] : clones_) infos.push_back(clone->info());
  return infos;
}

}  // namespace understudy::storage
