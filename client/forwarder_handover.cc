// The hand-over: the last operation of the stream, and how the stream goes on when it is taken back.
#include "absl/strings/str_cat.h"

#include "client/forwarder.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::client {

bool Forwarder::HandedOverLocked() const {
  return handover_ == Handover::kQueued || handover_ == Handover::kDone;
}

absl::Status Forwarder::HandedOverError() const {
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat("group ", options_.group,
                                     ": this primary has handed over and takes no writes; remedy: "
                                     "promote the standby, or resync the "
                                     "group with takeover=true there")),
                    kReasonHandedOver);
}

void Forwarder::OnHandoverWanted(uint64_t session) {
  {
    base::MutexLock lock(mutex_);
    if (session != session_ || session_state_ != Session::kConnected) return;
    ContactLocked();
    // Degraded: INCOMPLETE is on its way and says why not. Draining: the stream ends without it.
    if (handover_ != Handover::kNone || incomplete_ || draining_ || listener_ == nullptr) return;
    handover_ = Handover::kWanted;
  }
  listener_->OnHandoverWanted();
}

void Forwarder::RefuseHandover() {
  {
    base::MutexLock lock(mutex_);
    if (handover_ != Handover::kWanted) return;
    handover_ = Handover::kNone;
  }
  CloseSession();
}

absl::StatusOr<ResumePoint> Forwarder::HandOver() {
  uint64_t marker = 0;
  {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(CheckRunningLocked());
    if (handover_ == Handover::kDone) {  // the standby has told us
      TellLocked({.kind = base::EventKind::kHandedOver});
      return ResumePoint{};
    }
    if (handover_ != Handover::kWanted) {
      return absl::CancelledError("the connection over which the hand-over was asked for is gone");
    }
    if (incomplete_) {
      handover_ = Handover::kNone;
      return WithReason(absl::AbortedError("the standby misses writes"), kReasonIncomplete);
    }
    handover_ = Handover::kQueued;
    const absl::Duration now = clock_.Monotonic();
    handover_sequence_ = window_.Append({.kind = OperationKind::kHandover}, now);
    marker = markers_.Add(handover_sequence_, MarkerOwner::kCaller, now);
  }
  Pump();
  base::MutexLock lock(mutex_);
  const auto outcome = AwaitLocked(markers_, marker, base::Deadline::Never());
  if (outcome->ok() && handover_ != Handover::kQueued) {
    return absl::CancelledError("the hand-over was taken back at once");
  }
  if (outcome->ok()) {
    handover_ = Handover::kDone;
    TellLocked({.kind = base::EventKind::kHandedOver});
    return ResumePoint{.stream_id = stream_id_, .next_sequence = window_.next_sequence()};
  }
  if (HasReason(outcome->status(), kReasonIncomplete)) {
    handover_ = Handover::kNone;
    MarkStartIncompleteLocked();  // what was refused meanwhile
  }
  return outcome->status();
}

bool Forwarder::TakeBackHandoverLocked(const HandshakeReply& reply) {
  if (handover_ == Handover::kQueued && reply.received_sequence >= handover_sequence_) {
    handover_ = Handover::kNone;  // HandOver() finds it so
    return false;
  }
  if (handover_ != Handover::kDone) return false;
  handover_ = Handover::kNone;
  return true;
}

bool Forwarder::SettleHandoverLocked() {
  if (!running_ || handover_ == Handover::kDone) return false;
  if (handover_ == Handover::kNone) {
    handover_ = Handover::kDone;
    return true;
  }
  // The answer was lost. It is the last operation, so the standby has everything.
  const uint64_t last = window_.next_sequence() - 1;
  window_.Durable(last);
  CommittedLocked({.epoch = committed_epoch_, .sequence = last});
  return false;
}

}  // namespace understudy::client
