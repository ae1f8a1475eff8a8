// The hand-over half of server/group.h: a primary gives up writing so that the standby can take over without loss.
#include <algorithm>

#include "absl/strings/str_cat.h"

#include "server/group.h"
#include "server/stage_table.h"
#include "server/stream_session.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

absl::Status Group::HandedOverError() const {
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "group ", name(), ": this primary has handed over: the standby is to take over")),
      kReasonHandedOver);
}

absl::Status Group::HandOver(const base::Deadline& deadline) {
  const storage::ReplicaState state = replica_->state();
  if (state.handed_over) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool ignored, Decide(Verb::kCheckpoint, state.stage));
  if (ignored) {
    return absl::FailedPreconditionError(
        absl::StrCat("group ", name(), " is in stage ", StageName(state.stage),
                     ": its replication has ended without a hand-over"));
  }
  if (state.incomplete) return IncompleteError();
  const std::shared_ptr<StreamSession> stream = session();
  if (stream == nullptr && !state.handing_over) {
    return absl::UnavailableError(absl::StrCat("group ", name(),
                                               ": no agent is connected, so nobody can hand over; "
                                               "nothing has changed; remedy: look at the "
                                               "primary, or promote the standby with force"));
  }
  RETURN_IF_ERROR(AwaitHandover(stream, deadline));
  if (replica_->state().handed_over) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat("group ", name(), ": a takeover has taken the hand-over back"));
}

absl::Status Group::AwaitHandover(const std::shared_ptr<StreamSession>& stream,
                                  const base::Deadline& deadline) {
  const auto waiter = std::make_shared<MarkerWaiter>();
  {
    base::MutexLock lock(mutex_);
    waiter->handover = true;
    waiter->stream_lost = session_ != stream || stream == nullptr;
    waiters_.push_back(waiter);
  }
  // One that was committed before the waiter was there tells nobody.
  const bool committed = replica_->state().handed_over;
  if (stream != nullptr) stream->WantHandover();
  base::MutexLock lock(mutex_);
  const auto waiting = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !waiter->result && (!waiter->stream_lost || MarkerPendingLocked(*waiter));
  };
  while (!committed && waiting()) {
    if (!deadline.Wait(marker_done_, mutex_) && waiting()) break;
  }
  std::erase(waiters_, waiter);
  if (committed) return absl::OkStatus();
  if (waiter->result) return waiter->result->status();
  if (waiter->stream_lost && !MarkerPendingLocked(*waiter)) {
    return absl::UnavailableError(absl::StrCat(
        "group ", name(),
        ": the agent's stream has ended before its hand-over came; it may still come when "
        "the agent is back: call again"));
  }
  return deadline.Passed(absl::StrCat(
      "group ", name(),
      ": the agent has not handed over in time; it may still do so: call again to wait for it"));
}

void Group::FailHandoverWaiters(const absl::Status& status) {
  base::MutexLock lock(mutex_);
  for (const auto& waiter : waiters_) {
    if (waiter->handover && !waiter->result) waiter->result = status;
  }
  marker_done_.NotifyAll();
}

absl::Status Group::TakeBackHandover(const base::Deadline& deadline) {
  ASSIGN_OR_RETURN(const base::Gate::Pass pass, gate_.Enter(deadline));
  const storage::ReplicaState state = replica_->state();
  ASSIGN_OR_RETURN(const bool ignored, Decide(Verb::kCheckpoint, state.stage));
  if (ignored) {
    return absl::FailedPreconditionError(
        absl::StrCat("group ", name(), " is in stage ", StageName(state.stage),
                     ": there is nothing to take back; start the pair afresh, from the disk that "
                     "is in use now"));
  }
  if (!state.handing_over) return absl::OkStatus();
  RETURN_IF_ERROR(replica_->TakeBackHandover());
  // Its next handshake tells the agent.
  const absl::Status again =
      absl::UnavailableError(absl::StrCat("group ", name(), ": the hand-over was taken back"));
  for (const auto& stream : TakeStreams(again)) stream->End(again);
  return absl::OkStatus();
}

}  // namespace understudy::server
