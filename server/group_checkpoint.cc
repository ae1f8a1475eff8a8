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

constexpr size_t kGivenUpMax = 64;

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

absl::StatusOr<CheckpointAnswer> Group::Checkpoint(const Expected& expected,
                                                   const base::Deadline& deadline,
                                                   const std::string& request_id) {
  RETURN_IF_ERROR(CheckExpected(expected));
  const absl::Duration begun = clock_.Monotonic();
  std::shared_ptr<MarkerWaiter> waiter = TakeGivenUp(request_id);
  const storage::ReplicaState state = replica_->state();
  if (waiter == nullptr) {
    ASSIGN_OR_RETURN(const bool ignored, Decide(Verb::kCheckpoint, state.stage));
    if (ignored) return CheckpointAnswer{.stage = state.stage, .ignored = true};
    if (state.incomplete) {
      stats_.checkpoints[static_cast<size_t>(CheckpointOutcome::kAborted)].Add();
      return IncompleteError();
    }
    // Who has handed over puts no more markers.
    const std::shared_ptr<StreamSession> stream = state.handing_over ? nullptr : session();
    waiter = stream != nullptr ? AwaitMarker(*stream) : RequestCommit();
  }
  while (true) {
    const auto result = Await(waiter, deadline);
    if (!result.ok()) {
      const bool unanswered =
          absl::IsDeadlineExceeded(result.status()) || absl::IsCancelled(result.status());
      if (unanswered) KeepGivenUp(request_id, waiter);
      return Explain(result.status());
    }
    if (result->has_value()) {
      service_stats_.checkpoint_total.Observe(clock_.Monotonic() - begun);
      return CheckpointAnswer{.stage = replica_->state().stage, .result = **result};
    }
    waiter = RequestCommit();
  }
}

absl::StatusOr<CheckpointAnswer> Group::CommitPrepared(Epoch epoch, const Expected& expected) {
  ASSIGN_OR_RETURN(const bool ignored, Ask(Verb::kCheckpoint, expected));
  if (ignored) return CheckpointAnswer{.stage = replica_->state().stage, .ignored = true};
  const Epoch before = replica_->state().committed_epoch;
  ASSIGN_OR_RETURN(const storage::CheckpointResult result, replica_->CommitPrepared(epoch));
  const storage::ReplicaState state = replica_->state();
  if (before < result.epoch) {
    stats_.checkpoints[static_cast<size_t>(CheckpointOutcome::kOk)].Add();
    service_stats_.checkpoint_commit.Observe(result.duration);
    TellCommitted({.stream_id = state.committed_sequence == result.sequence ? state.stream_id : 0,
                   .sequence = result.sequence},
                  result);
  }
  return CheckpointAnswer{.stage = state.stage, .result = result};
}

absl::StatusOr<CheckpointAnswer> Group::AbandonPrepared(const Expected& expected) {
  ASSIGN_OR_RETURN(const bool ignored, Ask(Verb::kCheckpoint, expected));
  Epoch abandoned;
  if (!ignored) {
    ASSIGN_OR_RETURN(abandoned, replica_->AbandonPrepared());
  }
  return CheckpointAnswer{.stage = replica_->state().stage,
                          .ignored = abandoned == Epoch(),
                          .result = {.epoch = abandoned}};
}

storage::CheckpointCallback Group::BeginPrepare(uint64_t stream_id, uint64_t sequence) {
  return [weak = weak_from_this(), stream_id,
          sequence](const absl::StatusOr<storage::CheckpointResult>& result) {
    const std::shared_ptr<Group> self = weak.lock();
    if (self == nullptr || result.ok()) return;
    if (OutcomeOf(result.status()) == CheckpointOutcome::kFailed &&
        !absl::IsFailedPrecondition(result.status())) {
      self->Latch(std::nullopt, "checkpoint", {}, result.status());
    }
    const std::shared_ptr<StreamSession> stream = self->session();
    if (stream != nullptr && stream->stream_id() == stream_id) stream->OnMarkerRefused(sequence);
  };
}

std::shared_ptr<Group::MarkerWaiter> Group::TakeGivenUp(const std::string& request_id) {
  base::MutexLock lock(mutex_);
  const auto found = given_up_.find(request_id);
  if (request_id.empty() || found == given_up_.end()) return nullptr;
  std::shared_ptr<MarkerWaiter> waiter = std::move(found->second);
  given_up_.erase(found);
  return waiter;
}

void Group::KeepGivenUp(const std::string& request_id,
                        const std::shared_ptr<MarkerWaiter>& waiter) {
  base::MutexLock lock(mutex_);
  if (request_id.empty()) {
    std::erase(waiters_, waiter);
    return;
  }
  if (given_up_.size() >= kGivenUpMax) {
    std::erase(waiters_, given_up_.begin()->second);
    given_up_.erase(given_up_.begin());
  }
  given_up_[request_id] = waiter;  // stays among waiters_: its outcome is wanted
}

bool Group::CheckpointAtWork(const std::string& request_id) const {
  base::MutexLock lock(mutex_);
  return given_up_.contains(request_id);
}

std::shared_ptr<Group::MarkerWaiter> Group::AwaitMarker(StreamSession& session) {
  const auto waiter = std::make_shared<MarkerWaiter>();
  {
    base::MutexLock lock(mutex_);
    waiter->first_marker = markers_begun_ + 1;
    waiter->stream_lost = session_.get() != &session;
    waiters_.push_back(waiter);
  }
  session.WantCheckpoint();
  return waiter;
}

std::shared_ptr<Group::MarkerWaiter> Group::RequestCommit() {
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
  return waiter;
}

absl::StatusOr<std::optional<storage::CheckpointResult>> Group::Await(
    const std::shared_ptr<MarkerWaiter>& waiter, const base::Deadline& deadline) {
  base::MutexLock lock(mutex_);
  // A marker that came before its stream was lost still commits; a second checkpoint would be an empty one.
  const auto waiting = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !waiter->result && (!waiter->stream_lost || MarkerPendingLocked(*waiter));
  };
  while (waiting()) {
    if (deadline.Wait(marker_done_, mutex_) || !waiting()) continue;
    return deadline.Passed(absl::StrCat(
        "group ", name(),
        ": the agent has put no marker into the stream in time, or its checkpoint is not committed "
        "yet; it may still commit later: repeat the call with its request id, or ask for the "
        "status"));
  }
  std::erase(waiters_, waiter);
  if (!waiter->result) return std::optional<storage::CheckpointResult>();
  RETURN_IF_ERROR(waiter->result->status());
  return std::optional<storage::CheckpointResult>(**waiter->result);
}

storage::CheckpointCallback Group::BeginMarker(uint64_t stream_id, uint64_t sequence,
                                               bool handover) {
  Marker marker{.stream_id = stream_id, .sequence = sequence, .handover = handover};
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
  const bool whole = result.ok() && !replica_->state().incomplete;
  {
    base::MutexLock lock(mutex_);
    markers_pending_.erase(marker.number);
    if (result.ok()) {
      const bool resynced = std::exchange(resync_complete_, false);
      // COMPLETE may have come before a restart: what makes an incomplete group whole is a resync.
      if (resynced || (whole && errors_.HasMissedWrites())) {
        errors_.ClearMissedWrites();
        ErrorsChanged();
      }
    }
    for (const auto& waiter : waiters_) {
      const bool meant =
          marker.number >= waiter->first_marker && (marker.handover || !waiter->handover);
      if (meant && !waiter->result) waiter->result = result;
    }
    marker_done_.NotifyAll();
    stream = session_;
  }
  if (result.ok()) {
    TellCommitted(marker, *result);
  } else if (marker.handover && !absl::IsAborted(result.status())) {
    // Whether it counts is not known before a restart: the agent must not believe that it may write again.
  } else if (stream != nullptr && stream->stream_id() == marker.stream_id) {
    stream->OnMarkerRefused(marker.sequence);
  }
}

void Group::TellCommitted(const Marker& marker, const storage::CheckpointResult& result) {
  std::shared_ptr<StreamSession> stream;
  {
    base::MutexLock lock(mutex_);
    if (result.epoch > last_checkpoint_.epoch) last_checkpoint_ = result;
    stream = session_;
  }
  if (stream == nullptr) return;
  const bool same_stream = stream->stream_id() == marker.stream_id;
  stream->OnCommitted(result.epoch, same_stream ? marker.sequence : 0, result.bytes,
                      result.duration);
}

void Group::OnFrameTaken(uint64_t payload_bytes, uint64_t operations) {
  write_refused_.store(false, std::memory_order_relaxed);
  stats_.received_bytes.Add(payload_bytes);
  stats_.received_operations.Add(operations);
}

void Group::OnResyncComplete() {
  base::MutexLock lock(mutex_);
  resync_complete_ = true;
}

}  // namespace understudy::server
