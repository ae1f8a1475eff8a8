// The way of an operation: how it takes its place in the window, waits for room, for its
// acknowledgement, and is sent.
#include "client/forwarder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/error_reason.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

absl::Status NotRunning(const std::string& group) {
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat("group ", group, ": replication is not running")),
      kReasonNotRunning);
}

}  // namespace

Forwarder::Forwarder(ForwarderOptions options, Transport* transport, const base::Clock& clock,
                     ForwarderListener* listener, base::EventJournal* journal)
    : options_(std::move(options)),
      transport_(transport),
      clock_(clock),
      listener_(listener),
      journal_(journal),
      errors_(options_.group, clock, journal),
      window_(FramePool::Create(), options_.volumes.size()),
      checkpoints_({{"ok", 0}, {"failed", 0}, {"aborted", 0}}),
      figures_(options_.volumes.size()) {
  for (const absl::string_view reason : base::kErrorReasonNames) {
    failures_[std::string(reason)] = 0;
  }
}

Forwarder::~Forwarder() { Stop(false).IgnoreError(); }

absl::Status Forwarder::CheckRange(uint32_t volume, uint64_t offset, uint64_t length) const {
  if (volume >= options_.volumes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("group ", options_.group, " has no volume with index ", volume));
  }
  const VolumeSpec& spec = options_.volumes[volume];
  if (length == 0 || offset % kSectorBytes != 0 || length % kSectorBytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("volume ", spec.name, ": request at ", offset,
                                                   " of ", length,
                                                   " bytes is empty or not sector-aligned"));
  }
  if (offset > spec.size_bytes || length > spec.size_bytes - offset) {
    return absl::OutOfRangeError(absl::StrCat("volume ", spec.name, ": request at ", offset, " of ",
                                              length, " bytes ends past ", spec.size_bytes));
  }
  return absl::OkStatus();
}

absl::Status Forwarder::CheckRunningLocked() const {
  if (!running_) return NotRunning(options_.group);
  if (fenced_) return fenced_status_;
  return absl::OkStatus();
}

absl::Status Forwarder::MissLocked(uint32_t volume, ByteRange range) {
  const absl::Status missed = WithReason(
      absl::AbortedError("writes were not forwarded (dirty_bytes counts them) and the standby "
                         "stays at its last checkpoint until they are; remedy: none needed in tee "
                         "mode, a resync sends them when the standby answers; in forward mode "
                         "mirror the volume again"),
      kReasonIncomplete);
  // A flush misses nothing by itself.
  if (!range.empty()) {
    figures_[volume].missed_bytes += range.size();
    errors_.Latch(options_.volumes[volume].name, "forward", missed, range);
    missed_told_ = true;
    TellMissedLocked(volume, range);
  }
  // Not IncompleteError(): that many writes may be skipped in a second.
  return WithReason(
      absl::AbortedError(absl::StrCat("group ", options_.group, ": the standby misses writes")),
      kReasonIncomplete);
}

absl::Status Forwarder::IncompleteError() const {
  std::string extents = errors_.MissedExtents();
  if (extents.empty()) extents = "which ones is not known here, the service's errors may tell";
  return WithReason(absl::AbortedError(absl::StrCat(
                        "group ", options_.group, ": the standby misses writes (", extents,
                        "); it stays at its last checkpoint until a resync has ended, see "
                        "understudyctl status")),
                    kReasonIncomplete);
}

void Forwarder::TellMissedLocked(uint32_t volume, ByteRange range) {
  if (listener_ != nullptr && !range.empty()) listener_->OnMissed(volume, range);
}

void Forwarder::DegradeLocked(const absl::Status& cause, uint32_t volume, ByteRange range) {
  skipping_ = true;
  MarkIncompleteLocked(cause, volume, range);
}

void Forwarder::MarkIncompleteLocked(const absl::Status& cause, uint32_t volume, ByteRange range) {
  if (incomplete_) return;
  incomplete_ = true;
  incomplete_since_ = clock_.Monotonic();
  // One operation beyond the bound, so that nothing later can pass for complete.
  window_.Append({.volume = volume,
                  .kind = OperationKind::kIncomplete,
                  .offset = range.start,
                  .length = range.size()},
                 incomplete_since_);
  TellLocked({.kind = base::EventKind::kIncomplete});
  errors_.Latch("", "forward", WithReason(cause, kReasonIncomplete));
  missed_told_ = true;
  NotifyLocked();
}

// A standby that has received everything may only be syncing. That is given more time where whatever is missed has to be copied anew.
absl::Duration Forwarder::StallLimitLocked() const {
  const bool syncing = window_.unreceived_bytes() == 0 && options_.remembered_ranges_max == 0;
  return syncing ? std::max(options_.stall_timeout, options_.lost_peer) : options_.stall_timeout;
}

bool Forwarder::StalledLocked(absl::Duration since) const {
  return lost_ || clock_.Monotonic() - std::max(since, last_progress_) >= StallLimitLocked();
}

absl::Status Forwarder::WaitForRoom(uint32_t volume, ByteRange range, uint64_t bytes) {
  const absl::Duration began = clock_.Monotonic();
  while (true) {
    if (absl::Status status = CheckRunningLocked(); !status.ok()) {
      if (!running_) skipped_while_stopped_ = true;
      TellMissedLocked(volume, range);
      return status;
    }
    if (HandedOverLocked()) {  // only when the standby knew of it first: the local disk has the write
      incomplete_at_start_ = incomplete_at_start_ || !range.empty();
      TellMissedLocked(volume, range);
      return HandedOverError();
    }
    if (skipping_) return MissLocked(volume, range);
    const bool fits = window_.bytes() + bytes + kOperationBytes <= options_.window_bytes;
    if (!draining_ && (fits || window_.empty())) return absl::OkStatus();
    const bool degrade = options_.on_full == OnFull::kDegrade;
    if (!draining_ && degrade && window_.ForgetReceived(options_.remembered_ranges_max)) continue;
    ++room_waiters_;
    if (draining_ || !degrade) {
      changed_.Wait(mutex_);
    } else if (StalledLocked(began)) {
      DegradeLocked(
          absl::ResourceExhaustedError(absl::StrCat("the window of ", options_.window_bytes,
                                                    " bytes was full and the standby acknowledged "
                                                    "nothing for --stall-timeout; remedy: look at "
                                                    "the standby, its disk and the link")),
          volume, range);
    } else {
      changed_.WaitFor(mutex_,
                       std::max(began, last_progress_) + StallLimitLocked() - clock_.Monotonic());
    }
    --room_waiters_;
  }
}

absl::Status Forwarder::QueueRange(OperationKind kind, uint32_t volume, uint64_t offset,
                                   uint64_t length, uint64_t* ticket) {
  Place place;
  {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(WaitForRoom(volume, ByteRange::OfLength(offset, length), 0));
    place = {.stream = stream_id_,
             .sequence = window_.Append(
                 {.volume = volume, .kind = kind, .offset = offset, .length = length},
                 clock_.Monotonic())};
    if (ticket != nullptr) *ticket = TicketLocked(place.sequence);
  }
  Pump();
  return WaitForAck(place);
}

absl::Status Forwarder::WriteZeroes(uint32_t volume, uint64_t offset, uint64_t length,
                                    uint64_t* ticket) {
  RETURN_IF_ERROR(CheckRange(volume, offset, length));
  return QueueRange(OperationKind::kZero, volume, offset, length, ticket);
}

absl::Status Forwarder::Discard(uint32_t volume, uint64_t offset, uint64_t length,
                                uint64_t* ticket) {
  RETURN_IF_ERROR(CheckRange(volume, offset, length));
  return QueueRange(OperationKind::kDiscard, volume, offset, length, ticket);
}

absl::Status Forwarder::Flush(uint32_t volume) {
  RETURN_IF_ERROR(CheckRange(volume, 0, kSectorBytes));
  Place last;
  {
    base::MutexLock lock(mutex_);
    if (HandedOverLocked()) {  // what is to be flushed went before it
      last = {.stream = stream_id_, .sequence = window_.next_sequence() - 1};
    } else if (running_ && !fenced_ && !skipping_ && window_.flushed(volume)) {
      last = {.stream = stream_id_, .sequence = window_.last_change(volume)};
    }
  }
  if (last.stream != 0) return WaitForAck(last);
  return QueueRange(OperationKind::kFlush, volume, 0, 0, nullptr);
}

void Forwarder::NoteMissed(uint32_t volume, ByteRange range, const absl::Status& cause) {
  {
    base::MutexLock lock(mutex_);
    if (!running_ || fenced_) {
      if (!running_) skipped_while_stopped_ = true;
      TellMissedLocked(volume, range);
      return;
    }
    MarkIncompleteLocked(cause, volume, range);
    MissLocked(volume, range).IgnoreError();
  }
  Pump();
}

uint64_t Forwarder::AcknowledgedLocked() const {
  const bool durable = options_.ack == AckMode::kDurable;
  if (!running_) return durable ? durable_at_stop_ : received_at_stop_;
  return durable ? window_.durable_sequence() : window_.received_sequence();
}

absl::Status Forwarder::WaitForAck(Place place) {
  if (options_.ack == AckMode::kForwarded) return absl::OkStatus();
  if (options_.ack == AckMode::kDurable) {
    {
      base::MutexLock lock(mutex_);
      if (place.stream == stream_id_) {
        durable_needed_ = std::max(durable_needed_, place.sequence);
      }
    }
    Pump();
  }
  base::MutexLock lock(mutex_);
  // A standby that answers every handshake and refuses every frame, or whose sync hangs, is never lost, and as useless.
  absl::Duration progress = clock_.Monotonic();
  uint64_t before = 0;
  while (true) {
    const uint64_t acknowledged = AcknowledgedLocked();
    if (acknowledged > before) progress = clock_.Monotonic();
    before = acknowledged;
    const bool useless = clock_.Monotonic() - progress >= options_.lost_peer;
    if (place.stream == stream_id_ && acknowledged >= place.sequence) return absl::OkStatus();
    RETURN_IF_ERROR(CheckRunningLocked());
    if (place.stream != stream_id_) return IncompleteError();
    if ((lost_ || useless) && options_.on_full == OnFull::kDegrade) {
      const absl::Status lost = absl::UnavailableError(
          "writes were answered without the standby's acknowledgement that --ack asks for: it "
          "cannot be reached, or takes or syncs nothing; they stay queued; remedy: look at the "
          "standby, its disk and the link");
      errors_.Latch("", "write", lost);
      return lost;
    }
    changed_.WaitFor(mutex_, options_.heartbeat);
  }
}

uint64_t Forwarder::AppendMarkerLocked(MarkerOwner owner) {
  const absl::Duration now = clock_.Monotonic();
  const uint64_t sequence = window_.Append({.kind = OperationKind::kCheckpoint}, now);
  return markers_.Add(sequence, owner, now);
}

// Nothing joins a stream that is being drained to its end, markers neither.
absl::Status Forwarder::WaitWhileDrainingLocked(const base::Deadline& deadline) {
  if (running_ && !fenced_ && HandedOverLocked()) return HandedOverError();
  while (draining_ && running_ && !fenced_) {
    const absl::Duration left = deadline.left();
    if (left <= absl::ZeroDuration()) {
      return deadline.Passed(
          absl::StrCat("group ", options_.group, ": replication is being stopped"));
    }
    changed_.WaitFor(mutex_, deadline.Slice(left));
  }
  return CheckRunningLocked();
}

absl::StatusOr<CheckpointResult> Forwarder::Checkpoint(const base::Deadline& deadline) {
  uint64_t marker = 0;
  {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(WaitWhileDrainingLocked(deadline));
    if (incomplete_) {
      ++checkpoints_["aborted"];
      return IncompleteError();
    }
    const auto adopted = markers_.Adopt(window_.next_sequence());
    marker = adopted.has_value() ? *adopted : AppendMarkerLocked(MarkerOwner::kCaller);
  }
  Pump();
  base::MutexLock lock(mutex_);
  if (auto outcome = AwaitLocked(markers_, marker, deadline); outcome.has_value()) {
    return *std::move(outcome);
  }
  markers_.Abandon(marker);
  return TooLateLocked(deadline,
                       "the checkpoint may still happen, a repeated call returns its epoch");
}

absl::StatusOr<CheckpointResult> Forwarder::Prepare(const base::Deadline& deadline) {
  uint64_t marker = 0;
  {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(WaitWhileDrainingLocked(deadline));
    if (incomplete_) return IncompleteError();
    const absl::Duration now = clock_.Monotonic();
    const uint64_t sequence = window_.Append({.kind = OperationKind::kPrepare}, now);
    marker = prepares_.Add(sequence, MarkerOwner::kCaller, now);
  }
  Pump();
  base::MutexLock lock(mutex_);
  if (auto outcome = AwaitLocked(prepares_, marker, deadline); outcome.has_value()) {
    return *std::move(outcome);
  }
  prepares_.Forget(marker);
  return TooLateLocked(deadline, "abandon it at the standby, or prepare again");
}

std::optional<absl::StatusOr<CheckpointResult>> Forwarder::AwaitLocked(
    Markers& markers, uint64_t marker, const base::Deadline& deadline) {
  while (true) {
    if (auto outcome = markers.Take(marker); outcome.has_value()) return outcome;
    const absl::Duration left = deadline.left();
    if (left <= absl::ZeroDuration()) return std::nullopt;
    changed_.WaitFor(mutex_, deadline.Slice(left));
  }
}

absl::Status Forwarder::TooLateLocked(const base::Deadline& deadline,
                                      absl::string_view consequence) const {
  const bool connected = session_state_ == Session::kConnected;
  const std::string text =
      absl::StrCat("group ", options_.group, ": ",
                   connected ? "the standby has not answered" : "no connection to the standby",
                   " before the deadline; ", consequence);
  return connected || deadline.gone() ? deadline.Passed(text) : absl::UnavailableError(text);
}

bool Forwarder::DurableWantedLocked() {
  const uint64_t sent = window_.sent_sequence();
  const bool outstanding = window_.durable_sequence() < durable_asked_;
  if (!outstanding && window_.bytes() > options_.window_bytes / 2) {
    durable_needed_ = std::max(durable_needed_, sent);
  }
  if (durable_needed_ <= durable_asked_ || sent < durable_needed_) return false;
  durable_asked_ = sent;
  return true;
}

void Forwarder::CountSent(const Frame& frame) {
  base::MutexLock lock(mutex_);
  for (const Operation& operation : frame.operations) {
    if (!operation.has_range()) continue;
    ForwarderVolumeState& figures = figures_[window_.IndexOf(operation.volume)];
    (operation.kind == OperationKind::kData ? figures.sent_data_bytes : figures.sent_zero_bytes) +=
        operation.length;
  }
}

void Forwarder::Pump() {
  std::shared_ptr<const Frame> frame;
  Grant grant;
  uint64_t session = 0;
  bool durable_wanted = false;
  {
    base::MutexLock lock(mutex_);
    left_bytes_ = 0;
    urgent_ = true;
    if (session_state_ != Session::kConnected || sending_) return;
    session = session_;
    grant = grant_;
    durable_wanted = DurableWantedLocked();
    frame = window_.NextToSend();
    sending_ = frame != nullptr;
    urgent_ = !window_.all_sent();
    if (sending_) frame_began_ = clock_.Monotonic();
  }
  if (durable_wanted) {
    transport_->SendHeartbeat(
        session,
        {.durable_wanted = true,
         .sent_micros = static_cast<uint64_t>(absl::ToInt64Microseconds(clock_.Monotonic()))});
  }
  if (frame == nullptr) return;
  const FrameHeader header = MakeFrameHeader(*frame, grant);
  CountSent(*frame);
  transport_->SendFrame(session, header, std::move(frame));
}

ForwarderState Forwarder::WaitForAnswer(const base::Deadline& deadline) const {
  base::MutexLock lock(mutex_);
  while (running_ && session_state_ != Session::kConnected && !fenced_) {
    const absl::Duration left = deadline.left();
    if (left <= absl::ZeroDuration()) break;
    changed_.WaitFor(mutex_, deadline.Slice(left));
  }
  return StateLocked();
}

ForwarderState Forwarder::state() const {
  base::MutexLock lock(mutex_);
  return StateLocked();
}

SyncState Forwarder::SyncStateLocked() const {
  if (!running_) return SyncState::kUnspecified;
  if (fenced_) return SyncState::kDiverged;
  if (incomplete_) return SyncState::kBehind;
  if (session_state_ != Session::kConnected) return SyncState::kDisconnected;
  return SyncState::kAssumed;
}

ForwarderState Forwarder::StateLocked() const {
  ForwarderState state{.running = running_,
                       .connected = session_state_ == Session::kConnected,
                       .fenced = fenced_,
                       .incomplete = incomplete_,
                       .skipping = skipping_,
                       .sync_state = SyncStateLocked(),
                       .grant = grant_,
                       .stream_id = stream_id_,
                       .next_sequence = window_.next_sequence(),
                       .received_sequence = window_.received_sequence(),
                       .durable_sequence = window_.durable_sequence(),
                       .committed_epoch = committed_epoch_,
                       .committed_time = committed_time_,
                       .window_bytes = window_.bytes(),
                       .unreceived_bytes = window_.unreceived_bytes(),
                       .last_contact = last_contact_time_,
                       .round_trip = round_trip_,
                       .sessions_ok = sessions_ok_,
                       .sessions_failed = sessions_failed_,
                       .failures = failures_,
                       .checkpoints = checkpoints_,
                       .volumes = figures_};
  std::optional<absl::Duration> oldest = window_.oldest();
  if (incomplete_) oldest = std::min(oldest.value_or(incomplete_since_), incomplete_since_);
  const absl::Duration now = clock_.Monotonic();
  if (oldest.has_value()) state.lag = now - *oldest;
  if (running_ && !fenced_ && !HandedOverLocked()) {
    state.silence = now - last_contact_;
    if (committed_epoch_ != Epoch()) state.checkpoint_age = now - committed_at_;
  }
  for (size_t i = 0; i < state.volumes.size(); ++i) {
    state.volumes[i].unacknowledged_bytes = window_.undurable_bytes(i);
  }
  return state;
}

ResumePoint Forwarder::resume_point() const {
  base::MutexLock lock(mutex_);
  if (!resumable_ || skipped_while_stopped_) return {};
  return {.stream_id = stream_id_, .next_sequence = window_.next_sequence()};
}

std::vector<absl::Duration> Forwarder::TakeCheckpointDurations() {
  base::MutexLock lock(mutex_);
  return std::exchange(checkpoint_durations_, {});
}

}  // namespace understudy::client
