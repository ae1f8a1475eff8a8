// The connection: start and stop, the thread that keeps it, the handshake, what the secondary says.
#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"

#include "client/forwarder.h"
#include "storage/base/error_reason.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

constexpr absl::Duration kRefusedBackoff = absl::Seconds(2);

constexpr size_t kCheckpointDurationsMax = 1024;
// How long after a reconnect a marker that was received before it may still be answered.
constexpr int kAnswerHeartbeats = 3;

uint64_t RandomId() {
  std::random_device device;
  uint64_t id = 0;
  while (id == 0) id = (static_cast<uint64_t>(device()) << 32) | device();
  return id;
}

// Refusals that pass by themselves: nobody needs to look. UNKNOWN is gRPC's word for a connection whose bytes make no sense.
bool Transient(const absl::Status& status) {
  return status.ok() || absl::IsUnavailable(status) || absl::IsCancelled(status) ||
         absl::IsDeadlineExceeded(status) || absl::IsDataLoss(status) || absl::IsUnknown(status) ||
         HasReason(status, kReasonNotRunning) || HasReason(status, kReasonHandedOver);
}

}  // namespace

absl::Status Forwarder::Start(const StartOptions& options) {
  RETURN_IF_ERROR(options_.Validate());
  {
    base::MutexLock lock(mutex_);
    if (running_ || changing_) {
      return absl::FailedPreconditionError(
          absl::StrCat("group ", options_.group, ": Block replication is running or done"));
    }
    changing_ = true;
    // A start is a new pairing: what the secondary knows of an older stream means nothing in it.
    NewStreamLocked();
    committed_epoch_ = Epoch();
    committed_time_ = absl::UnixEpoch();
    if (options.resume.stream_id != 0 && !skipped_while_stopped_) {
      stream_id_ = options.resume.stream_id;
      window_.Reset(options.resume.next_sequence);
    }
    fenced_ = fenced_reported_ = lost_ = draining_ = closed_by_crc_ = false;
    incomplete_ = skipping_ = missed_told_ = false;
    covered_ = options.covered;
    skipped_while_stopped_ = resumable_ = false;
    grant_ = options.grant;
    takeover_ = options.takeover;
    handover_ = options.handed_over ? Handover::kDone : Handover::kNone;
    volume_ids_.clear();
    for (ForwarderVolumeState& figures : figures_) figures.missed_bytes = 0;
    last_contact_ = last_progress_ = next_attempt_ = clock_.Monotonic();
    backoff_ = options_.backoff_min;
    running_ = true;
    incomplete_at_start_ = options.incomplete || (options.missing != nullptr && options.missing());
    // Who has handed over writes nothing, and need not say it before it is let in again.
    if (!options.handed_over) MarkStartIncompleteLocked();
  }
  thread_ = std::thread([this] { Run(); });
  sender_ = std::thread([this] { RunSender(); });
  base::MutexLock lock(mutex_);
  changing_ = false;
  return absl::OkStatus();
}

void Forwarder::MarkStartIncompleteLocked() {
  if (!std::exchange(incomplete_at_start_, false)) return;
  MarkIncompleteLocked(absl::AbortedError(
      "what was written before this start may be missing at the standby; remedy: none needed in "
      "tee mode, a resync compares and sends it when the standby answers"));
}

void Forwarder::NewStreamLocked() {
  stream_id_ = RandomId();
  ++streams_;
  window_.Reset(1);
  committed_sequence_ = complete_sequence_ = 0;
  durable_needed_ = durable_asked_ = 0;
}

absl::Status Forwarder::WaitUntilDurable(const base::Deadline& deadline) {
  // First without holding writers back, then the little that came meanwhile.
  for (const bool hold_writers : {false, true}) {
    uint64_t through = 0;
    {
      base::MutexLock lock(mutex_);
      RETURN_IF_ERROR(CheckRunningLocked());
      draining_ = hold_writers;
      through = window_.next_sequence() - 1;
      durable_needed_ = std::max(durable_needed_, through);
    }
    Pump();
    base::MutexLock lock(mutex_);
    while (window_.durable_sequence() < through && running_ && !fenced_) {
      const absl::Duration left = deadline.left();
      const bool in_vain = hold_writers && lost_ && options_.on_full == OnFull::kDegrade;
      if (in_vain || left <= absl::ZeroDuration()) {
        draining_ = false;
        NotifyLocked();
        return absl::UnavailableError(absl::StrCat("group ", options_.group, ": ", window_.bytes(),
                                                   " bytes could not be drained to the standby "
                                                   "before the deadline; try again, or stop with "
                                                   "failover to drop them"));
      }
      changed_.WaitFor(mutex_, deadline.Slice(left));
    }
  }
  base::MutexLock lock(mutex_);
  return CheckRunningLocked();
}

absl::Status Forwarder::Stop(bool drain, const base::Deadline& deadline) {
  if (drain) RETURN_IF_ERROR(WaitUntilDurable(deadline));
  uint64_t session = 0;
  {
    base::MutexLock lock(mutex_);
    if (!running_ || changing_) {
      return absl::FailedPreconditionError(
          absl::StrCat("group ", options_.group, ": Block replication is not running"));
    }
    changing_ = true;
    running_ = false;
    draining_ = false;
    const bool begun = !grant_.none() || window_.next_sequence() == 1;  // else nobody was told
    resumable_ = !incomplete_ && !fenced_ && begun &&
                 window_.received_sequence() + 1 == window_.next_sequence();
    durable_at_stop_ = window_.durable_sequence();
    received_at_stop_ = window_.received_sequence();
    MissWindowLocked();
    window_.Reset(window_.next_sequence());
    FailMarkersLocked(absl::AbortedError("replication was stopped"));
    NotifyLocked();
    wake_.NotifyOne();
    sender_wake_.NotifyOne();
  }
  thread_.join();
  sender_.join();
  {
    base::MutexLock lock(mutex_);
    session = session_state_ == Session::kNone ? 0 : session_;
  }
  if (session != 0) transport_->Close(session);
  base::MutexLock lock(mutex_);
  while (session_state_ != Session::kNone) changed_.Wait(mutex_);
  changing_ = false;
  return absl::OkStatus();
}

void Forwarder::Run() {
  while (true) {
    const absl::Duration wait = RunOnce();
    base::MutexLock lock(mutex_);
    if (!running_) return;
    const bool due = reply_.has_value() || (fenced_ && !fenced_reported_);
    if (!due && wait > absl::ZeroDuration()) wake_.WaitFor(mutex_, wait);
  }
}

absl::Duration Forwarder::RunOnce() {
  enum { kNothing, kConnect, kAccept, kFenced, kBeat, kLose } todo = kNothing;
  std::optional<HandshakeReply> reply;
  absl::Status fenced;
  absl::Duration wait = options_.heartbeat;
  absl::Duration lost_for;  // zero: it is not lost, or that was said
  {
    base::MutexLock lock(mutex_);
    if (!running_) return wait;
    const absl::Duration now = clock_.Monotonic();
    const bool silent = now - std::max(last_contact_, session_began_) >= options_.lost_peer;
    if (!lost_ && now - last_contact_ >= options_.lost_peer) {
      lost_ = true;
      lost_for = now - last_contact_;
      NotifyLocked();
    }
    if (fenced_ && !fenced_reported_) {
      fenced_reported_ = true;
      fenced = fenced_status_;
      todo = kFenced;
    } else if (reply_.has_value()) {
      reply.swap(reply_);
      todo = kAccept;
    } else if (session_state_ == Session::kNone && !fenced_) {
      wait = next_attempt_ - now;
      if (wait <= absl::ZeroDuration()) todo = kConnect;
    } else if (session_state_ == Session::kConnected || session_state_ == Session::kConnecting) {
      if (silent) {
        todo = kLose;
      } else if (session_state_ == Session::kConnected) {
        wait = last_heartbeat_ + options_.heartbeat - now;
        if (wait <= absl::ZeroDuration()) todo = kBeat;
      }
    }
  }
  if (lost_for > absl::ZeroDuration()) {
    base::LogWarning("peer_lost").With("group", options_.group).With("silent", lost_for);
  }
  switch (todo) {
    case kNothing:
      return wait;
    case kConnect:
      Connect();
      break;
    case kAccept:
      AcceptReply(*reply);
      break;
    case kFenced:
      if (listener_ != nullptr) listener_->OnFenced(fenced);
      break;
    case kBeat:
      RepeatUnansweredMarkers();
      SendHeartbeat();
      break;
    case kLose:
      CloseSession();
      break;
  }
  return absl::ZeroDuration();
}

void Forwarder::Connect() {
  Handshake handshake{
      .group = options_.group, .agent_id = options_.agent_id, .volumes = options_.volumes};
  handshake.may_checkpoint = options_.may_checkpoint;
  uint64_t session = 0;
  {
    base::MutexLock lock(mutex_);
    if (!running_) return;
    handshake.grant = grant_;
    handshake.stream_id = stream_id_;
    handshake.first_available_sequence = window_.first_available_sequence();
    handshake.takeover = takeover_;
    handshake.last_committed_epoch = committed_epoch_;
    handshake.last_committed_sequence = committed_sequence_;
    session = ++session_;
    session_state_ = Session::kConnecting;
    sending_ = connected_once_ = false;
    session_began_ = clock_.Monotonic();  // an attempt gets the whole of lost_peer to be answered
  }
  transport_->Connect(session, handshake, this);
}

void Forwarder::CommittedLocked(const CheckpointResult& result) {
  const auto finished = markers_.Committed(result);
  if (result.epoch > committed_epoch_) {
    TellLocked({.kind = base::EventKind::kCheckpoint,
                .epoch = result.epoch,
                .bytes = result.bytes,
                .duration = result.duration});
  }
  if (result.epoch > committed_epoch_ || !finished.empty()) {
    committed_epoch_ = std::max(committed_epoch_, result.epoch);
    committed_time_ = clock_.Now();
    committed_at_ = clock_.Monotonic();
  }
  committed_sequence_ = std::max(committed_sequence_, result.sequence);
  EndMissedLocked(committed_sequence_);
  CountMarkersLocked(finished);
  prepares_.Aborted(result.sequence, 0,
                    absl::AbortedError(absl::StrCat("group ", options_.group,
                                                    ": a checkpoint has overtaken what was to be "
                                                    "prepared: prepare again")));
}

void Forwarder::FailMarkersLocked(const absl::Status& status) {
  CountMarkersLocked(markers_.FailAll(status));
  prepares_.FailAll(status);
}

void Forwarder::CountMarkersLocked(const std::vector<Markers::Finished>& finished) {
  const absl::Duration now = clock_.Monotonic();
  for (const Markers::Finished& marker : finished) {
    if (!marker.status.ok()) {
      ++checkpoints_[HasReason(marker.status, kReasonIncomplete) ? "aborted" : "failed"];
      continue;
    }
    ++checkpoints_["ok"];
    if (checkpoint_durations_.size() < kCheckpointDurationsMax) {
      checkpoint_durations_.push_back(now - marker.queued_at);
    }
  }
}

void Forwarder::OnAck(uint64_t session, const Ack& ack) {
  bool unknown = false;
  {
    base::MutexLock lock(mutex_);
    if (session != session_ || session_state_ != Session::kConnected) return;
    ContactLocked();
    const uint64_t before = window_.received_sequence() + window_.durable_sequence();
    window_.Durable(ack.durable_sequence);
    window_.Received(ack.received_sequence);
    if (window_.received_sequence() + window_.durable_sequence() != before) {
      last_progress_ = last_contact_;
      crc_failures_ = 0;
    }
    if (ack.prepared_sequence != 0) {
      prepares_.Committed({.epoch = ack.prepared_epoch, .sequence = ack.prepared_sequence});
    }
    if (ack.aborted_sequence != 0) {
      const absl::Status aborted = IncompleteError();
      CountMarkersLocked(markers_.Aborted(ack.aborted_sequence, ack.committed_sequence, aborted));
      prepares_.Aborted(ack.aborted_sequence, ack.prepared_sequence, aborted);
    }
    if (ack.committed_sequence != 0) {
      CommittedLocked({.epoch = ack.committed_epoch,
                       .sequence = ack.committed_sequence,
                       .bytes = ack.committed_bytes,
                       .duration = ack.committed_duration});
    }
    // It misses what we know nothing of: the handshake settles that.
    unknown = BehindLocked(ack.incomplete, ack.received_sequence) && !incomplete_;
    if (ack.echo_micros != 0) {
      round_trip_ = last_contact_ - absl::Microseconds(static_cast<int64_t>(ack.echo_micros));
    }
    NotifyLocked();
  }
  if (unknown) CloseSession();
  PumpUnlessLeft();
}

void Forwarder::OnCheckpointWanted(uint64_t session) {
  {
    base::MutexLock lock(mutex_);
    if (session != session_ || session_state_ != Session::kConnected) return;
    ContactLocked();
    // Once drained the stream ends, and the secondary commits what it has received.
    if (!draining_ && !HandedOverLocked()) AppendMarkerLocked(MarkerOwner::kSecondary);
  }
  Pump();
}

void Forwarder::OnFrameSent(uint64_t session) {
  {
    base::MutexLock lock(mutex_);
    if (session != session_) return;
    sending_ = false;
  }
  PumpUnlessLeft();
}

void Forwarder::OnClosed(uint64_t session, const absl::Status& status) {
  bool news = false;
  bool was_connected = false;
  // Whoever ends this object waits for the end of the session, and for nothing after that.
  const std::string group = options_.group;
  {
    base::MutexLock lock(mutex_);
    if (session != session_) return;
    was_connected = connected_once_ && running_ && !fenced_;
    news = OnClosedLocked(status);
  }
  if (was_connected) base::LogWarning("stream_closed").With("group", group).With("status", status);
  if (news && listener_ != nullptr) listener_->OnHandoverWanted();
}

// True when the standby knows of a hand-over that we do not.
bool Forwarder::OnClosedLocked(const absl::Status& status) {
  session_state_ = Session::kNone;
  sending_ = false;
  reply_.reset();
  if (connected_once_) {
    base::Event event{.kind = base::EventKind::kDisconnected};
    event.detail = status.ok() ? "the stream was ended" : std::string(status.message());
    TellLocked(std::move(event));
  }
  const bool handed_over = HasReason(status, kReasonHandedOver);
  // A standby that has no room says so again and again: asking twice a second helps nobody.
  const bool refused = absl::IsResourceExhausted(status) || handed_over;
  next_attempt_ = clock_.Monotonic() + (refused ? kRefusedBackoff : backoff_);
  backoff_ = std::min(backoff_ * 2, options_.backoff_max);
  ClassifyCloseLocked(status, connected_once_);
  if (handover_ == Handover::kWanted) handover_ = Handover::kNone;  // whoever wanted it is gone
  const bool news = handed_over && SettleHandoverLocked();
  NotifyLocked();
  wake_.NotifyOne();
  return news;
}

void Forwarder::ClassifyCloseLocked(const absl::Status& status, bool was_connected) {
  if (!was_connected) ++sessions_failed_;
  // An attempt that finds nobody is no failure of its own: the loss that led to it was counted.
  if (running_ && (was_connected || !Transient(status))) {
    ++failures_[std::string(base::NameOf(base::ErrorReasonOf(status)))];
  }
  if (!running_ || fenced_) return;
  if (HasReason(status, kReasonFenced)) {
    fenced_ = true;
    fenced_status_ = status;
    errors_.Latch("", "connect", status);
    FailMarkersLocked(status);
    return;
  }
  closed_by_crc_ = absl::IsDataLoss(status);
  if (!Transient(status)) errors_.Latch("", "connect", status);
}

void Forwarder::RepeatUnansweredMarkers() {
  uint64_t through = 0;
  uint64_t sequence = 0;
  {
    base::MutexLock lock(mutex_);
    if (session_state_ != Session::kConnected || draining_ || HandedOverLocked()) return;
    if (clock_.Monotonic() - connected_at_ < kAnswerHeartbeats * options_.heartbeat) return;
    through = std::exchange(received_at_connect_, 0);
    if (through == 0 || !markers_.ForgetUnwanted(through)) return;
    const absl::Duration now = clock_.Monotonic();
    sequence = window_.Append({.kind = OperationKind::kCheckpoint}, now);
    markers_.Repeat(through, sequence);
  }
  base::LogWarning("marker_repeated")
      .With("group", options_.group)
      .With("unanswered_through", through)
      .With("sequence", sequence);
  Pump();
}

void Forwarder::SendHeartbeat() {
  uint64_t session = 0;
  Heartbeat heartbeat;
  {
    base::MutexLock lock(mutex_);
    session = session_;
    last_heartbeat_ = clock_.Monotonic();
    heartbeat.sent_micros = static_cast<uint64_t>(absl::ToInt64Microseconds(last_heartbeat_));
    heartbeat.durable_wanted = window_.durable_sequence() < durable_asked_;
  }
  if (listener_ != nullptr) heartbeat.proof = listener_->KnownOfDisks();
  transport_->SendHeartbeat(session, heartbeat);
}

void Forwarder::CloseSession() {
  uint64_t session = 0;
  {
    base::MutexLock lock(mutex_);
    if (session_state_ == Session::kNone || session_state_ == Session::kClosing) return;
    session_state_ = Session::kClosing;
    session = session_;
  }
  transport_->Close(session);
}

void Forwarder::ContactLocked() {
  last_contact_ = clock_.Monotonic();
  last_contact_time_ = clock_.Now();
}

void Forwarder::NotifyLocked() { changed_.NotifyAll(); }

void Forwarder::TellLocked(base::Event event) {
  if (journal_ == nullptr) return;
  event.group = options_.group;
  journal_->Append(std::move(event));
}

}  // namespace understudy::client
