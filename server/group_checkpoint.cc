// The checkpoint half of server/group.h: markers of the stream, calls that wait for one, checkpoints without a stream.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "server/group.h"
#include "server/stage_table.h"
#include "server/stream_session.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::server {
namespace {

CheckpointOutcome OutcomeOf(const absl::Status& status) {
  if (status.ok()) return CheckpointOutcome::kOk;
  return absl::IsAborted(status) ? CheckpointOutcome::kAborted : CheckpointOutcome::kFailed;
}

}  // namespace

// Travels with the callback of one marker: whether or not it is called, the marker stops being pending.
class Group::MarkerTicket {
 public:
  MarkerTicket(std::weak_ptr<Group> group, const Marker& marker)
      : group_(std::move(group)), marker_(marker) {}
  ~MarkerTicket() {
    if (const auto group = answered_ ? nullptr : group_.lock(); group != nullptr) {
      group->OnMarkerDropped(marker_);
    }
  }
  void Answer(const absl::StatusOr<storage::CheckpointResult>& result) {
    answered_ = true;
    if (const auto group = group_.lock(); group != nullptr)
      group->OnCheckpointDone(marker_, result);
  }

 private:
  const std::weak_ptr<Group> group_;
  const Marker marker_;
  bool answered_ = false;
};

absl::StatusOr<CheckpointAnswer> Group::Checkpoint(const Expected& expected, absl::Time deadline) {
  RETURN_IF_ERROR(CheckExpected(expected));
  const absl::Duration begun = clock_.Monotonic();
  const storage::ReplicaState state = replica_->state();
  const Verdict verdict = Judge(Verb::kCheckpoint, state.stage);
  RETURN_IF_ERROR(verdict.refusal);
  if (verdict.ignored) return CheckpointAnswer{.stage = state.stage, .ignored = true};
  if (state.incomplete) {
    stats_.checkpoints[static_cast<size_t>(CheckpointOutcome::kAborted)].Add();
    return WithReason(absl::AbortedError(absl::StrCat(
                          "group ", name(),
                          ": operations are missing at the standby; the replica stays at epoch ",
                          state.committed_epoch.value(), " until a resync has ended")),
                      kReasonIncomplete);
  }
  const std::shared_ptr<StreamSession> stream = session();
  bool stream_lost = stream == nullptr;
  absl::StatusOr<storage::CheckpointResult> result;
  if (stream != nullptr) result = CommitAtMarker(*stream, deadline, stream_lost);
  if (stream_lost) result = CommitReceived(deadline);
  RETURN_IF_ERROR(result.status());
  service_stats_.checkpoint_total.Observe(clock_.Monotonic() - begun);
  return CheckpointAnswer{.stage = replica_->state().stage, .result = *result};
}

absl::StatusOr<storage::CheckpointResult> Group::CommitAtMarker(StreamSession& session,
                                                                absl::Time deadline,
                                                                bool& stream_lost) {
  const auto waiter = std::make_shared<MarkerWaiter>();
  {
    base::MutexLock lock(mutex_);
    waiter->first_marker = markers_begun_ + 1;
    waiter->stream_lost = session_.get() != &session;
    waiters_.push_back(waiter);
  }
  session.WantCheckpoint();
  base::MutexLock lock(mutex_);
  // A marker that came before its stream was lost still commits; a second checkpoint would be an empty one.
  const auto waiting = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !waiter->result && (!waiter->stream_lost || MarkerPendingLocked(*waiter));
  };
  while (waiting()) {
    if (!marker_done_.WaitUntil(mutex_, deadline) && waiting()) break;
  }
  std::erase(waiters_, waiter);
  if (waiter->result) return *std::move(waiter->result);
  stream_lost = !MarkerPendingLocked(*waiter) && waiter->stream_lost;
  return absl::DeadlineExceededError(
      absl::StrCat("group ", name(),
                   ": the agent has put no marker into the stream in time, or its checkpoint is "
                   "not committed yet; "
                   "it may still commit later: ask for the status"));
}

absl::StatusOr<storage::CheckpointResult> Group::CommitReceived(absl::Time deadline) {
  const auto waiter = std::make_shared<MarkerWaiter>();
  replica_->RequestCheckpoint(
      [weak = weak_from_this(), waiter](absl::StatusOr<storage::CheckpointResult> result) {
        const std::shared_ptr<Group> self = weak.lock();
        if (self == nullptr) return;
        self->OnCheckpointDone({}, result);
        base::MutexLock lock(self->mutex_);
        waiter->result = std::move(result);
        self->marker_done_.NotifyAll();
      });
  base::MutexLock lock(mutex_);
  while (!waiter->result) {
    if (!marker_done_.WaitUntil(mutex_, deadline) && !waiter->result) {
      return absl::DeadlineExceededError(absl::StrCat(
          "group ", name(), ": the checkpoint is not committed yet; it may still commit later"));
    }
  }
  return *std::move(waiter->result);
}

storage::CheckpointCallback Group::BeginMarker(uint64_t stream_id, uint64_t sequence) {
  Marker marker{.stream_id = stream_id, .sequence = sequence};
  {
    base::MutexLock lock(mutex_);
    marker.number = ++markers_begun_;
    markers_pending_.insert(marker.number);
  }
  return [ticket = std::make_unique<MarkerTicket>(weak_from_this(), marker)](
             const absl::StatusOr<storage::CheckpointResult>& result) { ticket->Answer(result); };
}

bool Group::MarkerPendingLocked(const MarkerWaiter& waiter) const {
  return !markers_pending_.empty() && *markers_pending_.rbegin() >= waiter.first_marker;
}

void Group::OnMarkerDropped(const Marker& marker) {
  base::MutexLock lock(mutex_);
  markers_pending_.erase(marker.number);
  marker_done_.NotifyAll();
}

void Group::OnCheckpointDone(const Marker& marker,
                             const absl::StatusOr<storage::CheckpointResult>& result) {
  const CheckpointOutcome outcome = OutcomeOf(result.status());
  stats_.checkpoints[static_cast<size_t>(outcome)].Add();
  if (outcome == CheckpointOutcome::kOk) service_stats_.checkpoint_commit.Observe(result->duration);
  // A stage that no longer allows a checkpoint is an answer, not a failure of this group.
  if (outcome == CheckpointOutcome::kFailed && !absl::IsFailedPrecondition(result.status())) {
    Latch(std::nullopt, "checkpoint", {}, result.status());
  }
  std::shared_ptr<StreamSession> stream;
  {
    base::MutexLock lock(mutex_);
    markers_pending_.erase(marker.number);
    if (result.ok()) {
      if (result->epoch > last_checkpoint_.epoch) last_checkpoint_ = *result;
      if (std::exchange(resync_complete_, false)) {
        errors_.ClearMissedWrites();
        proved_ = true;
      }
    }
    for (const auto& waiter : waiters_) {
      if (marker.number >= waiter->first_marker && !waiter->result) waiter->result = result;
    }
    marker_done_.NotifyAll();
    stream = session_;
  }
  if (stream == nullptr) return;
  const bool same_stream = marker.number > 0 && stream->stream_id() == marker.stream_id;
  if (result.ok()) {
    stream->OnCommitted(result->epoch, same_stream ? marker.sequence : 0, result->bytes,
                        result->duration);
  } else if (same_stream) {
    stream->OnMarkerRefused(marker.sequence);
  }
}

void Group::OnFrameTaken(uint64_t payload_bytes, uint64_t operations) {
  stats_.received_bytes.Add(payload_bytes);
  stats_.received_operations.Add(operations);
}

void Group::OnResyncComplete() {
  base::MutexLock lock(mutex_);
  resync_complete_ = true;
}

}  // namespace understudy::server
