// The handshake: whether the secondary's view of the stream and ours fit together, and where the stream goes on.
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"

#include "client/forwarder.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

constexpr uint64_t kFrameTargetBytes = 256 << 10;
constexpr int kCrcFailuresMax = 3;  // of the same frame, then it is an error

}  // namespace

void Forwarder::OnReply(uint64_t session, const HandshakeReply& reply) {
  base::MutexLock lock(mutex_);
  if (session != session_ || session_state_ != Session::kConnecting) return;
  ContactLocked();
  reply_ = reply;
  wake_.NotifyOne();
}

void Forwarder::AcceptReply(const HandshakeReply& reply) {
  uint64_t session = 0;
  bool new_grant = false;
  bool taken_back = false;
  bool unknown = false;
  {
    base::MutexLock lock(mutex_);
    if (session_state_ != Session::kConnecting) return;
    unknown = UnknownLocked(reply);
    taken_back = TakeBackHandoverLocked(reply);
    session = session_;
    new_grant = reply.grant != grant_;
  }
  absl::Status status;
  uint64_t next_sequence = 0;
  bool incomplete = false;
  // In this order: a grant that is stored vouches for what is known under it.
  if (unknown && listener_ != nullptr) status = listener_->OnUnknown();
  if (status.ok() && new_grant && listener_ != nullptr) status = listener_->OnGrant(reply.grant);
  if (status.ok() && taken_back && listener_ != nullptr) status = listener_->OnHandoverTakenBack();
  {
    base::MutexLock lock(mutex_);
    if (taken_back && !status.ok()) handover_ = Handover::kDone;  // the next handshake tries again
    if (taken_back && status.ok()) TellLocked({.kind = base::EventKind::kHandoverTakenBack});
    if (session != session_ || session_state_ != Session::kConnecting || !running_) return;
    if (status.ok()) status = CheckReplyLocked(reply);
    if (status.ok()) ResumeLocked(reply);
    next_sequence = window_.next_sequence();
    incomplete = incomplete_;
  }
  if (!status.ok()) {
    if (!HasReason(status, kReasonIncomplete)) errors_.Latch("", "connect", status);
    CloseSession();
    return;
  }
  base::LogInfo("stream_connected")
      .With("group", options_.group)
      .With("term", reply.grant.term.value())
      .With("received_sequence", reply.received_sequence)
      .With("next_sequence", next_sequence)
      .With("incomplete", incomplete);
  Pump();
}

bool Forwarder::KnownLocked(const HandshakeReply& reply) const {
  return reply.received_sequence + 1 >= window_.first_available_sequence() &&
         // Not next_sequence(): what was queued and never sent cannot be there. Whoever has more of this stream has it from an earlier
         // run of ours, whose operations are not the ones we have.
         reply.received_sequence <= window_.sent_sequence();
}

bool Forwarder::LossKnownLocked(const HandshakeReply& reply) const {
  return KnownLocked(reply) || (reply.received_sequence >= window_.durable_sequence() &&
                                reply.received_sequence <= window_.sent_sequence());
}

bool Forwarder::UnknownLocked(const HandshakeReply& reply) const {
  if (!LossKnownLocked(reply)) return true;
  if (!BehindLocked(reply.incomplete, reply.received_sequence)) return false;
  if (reply.grant != grant_) return true;  // under another one another primary may have written
  return !incomplete_ && !(volume_ids_.empty() && covered_);
}

absl::Status Forwarder::CheckReplyLocked(const HandshakeReply& reply) {
  const bool ids_fit = reply.volume_ids.size() == options_.volumes.size() &&
                       (volume_ids_.empty() || volume_ids_ == reply.volume_ids);
  if (reply.grant.none() || !ids_fit) {
    return absl::InternalError(
        "the standby's handshake is malformed (no incarnation, or other volumes than before); "
        "remedy: "
        "update both ends to the same release");
  }
  grant_ = reply.grant;
  takeover_ = false;
  if (closed_by_crc_) CountCrcFailureLocked(reply.received_sequence);
  if (KnownLocked(reply)) return absl::OkStatus();
  // The difference is unknown: a new stream, which says so before anything else.
  const absl::Status gap =
      WithReason(absl::AbortedError(
                     "the standby lost operations that this agent has no longer; remedy: none "
                     "needed in tee mode, a resync compares the disks; in forward mode mirror the "
                     "volumes again"),
                 kReasonIncomplete);
  LatchWindowLocked(gap);
  MissWindowLocked();
  NewStreamLocked();
  FailMarkersLocked(gap);
  incomplete_ = false;
  DegradeLocked(gap, 0, {});
  return gap;
}

void Forwarder::MissWindowLocked() {
  window_.ForEachRange([this](size_t volume, ByteRange range) {
    figures_[volume].missed_bytes += range.size();
    TellMissedLocked(static_cast<uint32_t>(volume), range);
  });
}

// By volume, from the first operation to the end of the last.
void Forwarder::LatchWindowLocked(const absl::Status& cause) {
  std::vector<ByteRange> ranges(figures_.size());
  window_.ForEachRange([&](size_t volume, ByteRange range) {
    ByteRange& all = ranges[volume];
    if (all.empty()) all = range;
    all.start = std::min(all.start, range.start);
    all.end = std::max(all.end, range.end);
  });
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (!ranges[i].empty()) errors_.Latch(options_.volumes[i].name, "forward", cause, ranges[i]);
  }
}

void Forwarder::CountCrcFailureLocked(uint64_t received) {
  closed_by_crc_ = false;
  crc_failures_ = crc_failures_ > 0 && crc_sequence_ == received ? crc_failures_ + 1 : 1;
  crc_sequence_ = received;
  if (crc_failures_ != kCrcFailuresMax) return;
  errors_.Latch("", "forward",
                absl::DataLossError(absl::StrCat(
                    "the frame after sequence ", received, " arrived damaged ", kCrcFailuresMax,
                    " times; remedy: look for faulty memory or network hardware on the way")));
}

void Forwarder::ResumeLocked(const HandshakeReply& reply) {
  // What was committed before this start is no news; what was committed while there was no connection is.
  const bool first = volume_ids_.empty();
  if (!first && reply.committed_epoch > committed_epoch_) {
    TellLocked({.kind = base::EventKind::kCheckpoint, .epoch = reply.committed_epoch});
  }
  if (first) {
    volume_ids_ = reply.volume_ids;
    window_.MapVolumes(volume_ids_);
  }
  window_.set_frame_payload_bytes(kFrameTargetBytes, reply.frame_payload_bytes_max == 0
                                                         ? kFramePayloadBytesMax
                                                         : reply.frame_payload_bytes_max);
  window_.Rewind(reply.received_sequence);
  window_.Durable(reply.durable_sequence);
  durable_asked_ = 0;
  const bool newer = reply.committed_epoch > committed_epoch_;
  committed_epoch_ = std::max(committed_epoch_, reply.committed_epoch);
  if (reply.committed_sequence != 0) {
    CommittedLocked({.epoch = reply.committed_epoch, .sequence = reply.committed_sequence});
  }
  if (newer) {  // whatever was waiting for it: it is not of this moment
    committed_at_ = reply.committed_age.has_value() ? clock_.Monotonic() - *reply.committed_age
                                                    : clock_.MonotonicOf(reply.committed_time);
    committed_time_ = clock_.TimeOf(committed_at_);
  }
  MarkStartIncompleteLocked();
  if (BehindLocked(reply.incomplete, reply.received_sequence)) {
    MarkIncompleteLocked(absl::AbortedError(
        "the standby misses operations of an earlier stream; remedy: none needed in tee mode, a "
        "resync compares and sends them; in forward mode mirror the volumes again"));
  }
  session_state_ = Session::kConnected;
  connected_once_ = true;
  connected_at_ = clock_.Monotonic();
  received_at_connect_ = reply.received_sequence;
  lost_ = false;
  ++sessions_ok_;
  backoff_ = options_.backoff_min;
  last_progress_ = last_heartbeat_ = clock_.Monotonic();
  ContactLocked();
  NotifyLocked();
  TellLocked({.kind = base::EventKind::kConnected, .term = grant_.term});
}

}  // namespace understudy::client
