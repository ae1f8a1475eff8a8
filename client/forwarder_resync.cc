// The resync: how what was missed joins the stream behind the VM's own writes, and how the stream is complete again.
#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

#include "client/forwarder.h"
#include "storage/base/block_hash.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {
constexpr int kTicketSequenceBits = 48;
constexpr absl::Duration kLook = absl::Milliseconds(100);
}  // namespace

uint64_t Forwarder::TicketLocked(uint64_t sequence) const {
  return (streams_ << kTicketSequenceBits) | sequence;
}

uint64_t Forwarder::durable_ticket() const {
  base::MutexLock lock(mutex_);
  return TicketLocked(window_.durable_sequence());
}

bool Forwarder::BehindLocked(bool incomplete, uint64_t received) const {
  return incomplete && received >= complete_sequence_;
}

absl::Status Forwarder::BeginResync(const base::Deadline& deadline) {
  base::MutexLock lock(mutex_);
  while (true) {
    RETURN_IF_ERROR(CheckRunningLocked());
    // A window that is still half full may stall again at once.
    const bool room = window_.bytes() <= options_.window_bytes / 2;
    if (incomplete_ && session_state_ == Session::kConnected && room && !draining_) break;
    const absl::Duration left = deadline.left();
    if (left <= absl::ZeroDuration()) {
      return deadline.Passed(absl::StrCat("group ", options_.group, ": nothing to resync"));
    }
    changed_.WaitFor(mutex_, std::min(deadline.Slice(left), kLook));
  }
  skipping_ = false;
  return absl::OkStatus();
}

absl::Status Forwarder::CheckResyncLocked() const {
  RETURN_IF_ERROR(CheckRunningLocked());
  if (!skipping_ && !draining_) return absl::OkStatus();
  return WithReason(
      absl::AbortedError(absl::StrCat(
          "group ", options_.group,
          draining_ ? ": replication is being stopped" : ": the standby fell behind the resync")),
      kReasonIncomplete);
}

// Leaves a quarter of the window to the VM. More than half is full, so that a durable point is asked for, which makes room.
absl::Status Forwarder::AwaitSpareRoom(uint64_t bytes, const base::Deadline& deadline) {
  base::MutexLock lock(mutex_);
  while (true) {
    RETURN_IF_ERROR(CheckResyncLocked());
    if (session_state_ != Session::kConnected) {
      return absl::UnavailableError(
          absl::StrCat("group ", options_.group, ": the connection to the standby is gone"));
    }
    const uint64_t bound = options_.window_bytes / 4 * 3;
    if (window_.empty() || window_.bytes() + bytes <= bound) return absl::OkStatus();
    const absl::Duration left = deadline.left();
    if (left <= absl::ZeroDuration()) {
      return deadline.Passed(absl::StrCat("group ", options_.group, ": no room in the window"));
    }
    changed_.WaitFor(mutex_, deadline.Slice(left));
  }
}

absl::Status Forwarder::Resend(uint32_t volume, uint64_t offset, std::span<const char> data,
                               uint64_t* ticket) {
  RETURN_IF_ERROR(CheckRange(volume, offset, data.size()));
  const bool zero = base::AllZero(data);
  while (!data.empty()) {
    Window::Slot slot;
    {
      base::MutexLock lock(mutex_);
      if (const absl::Status status = CheckResyncLocked(); !status.ok()) {
        // Under the lock: a start that asks meanwhile whether anything is missing must not find it in no place at all.
        TellMissedLocked(volume, ByteRange::OfLength(offset, data.size()));
        return status;
      }
      const absl::Duration now = clock_.Monotonic();
      if (zero) {
        *ticket = TicketLocked(window_.Append({.volume = volume,
                                               .kind = OperationKind::kZero,
                                               .offset = offset,
                                               .length = data.size()},
                                              now));
        slot.length = data.size();
      } else {
        slot = window_.AppendData(volume, offset, data.size(), now);
        *ticket = TicketLocked(slot.sequence);
        ++slot.frame->copies_pending;
      }
    }
    if (!zero) {
      std::memcpy(slot.data, data.data(), slot.length);
      base::MutexLock lock(mutex_);
      --slot.frame->copies_pending;
    }
    offset += slot.length;
    data = data.subspan(slot.length);
    Pump();
  }
  return absl::OkStatus();
}

absl::StatusOr<CheckpointResult> Forwarder::EndResync(absl::FunctionRef<bool()> nothing_missing,
                                                      const base::Deadline& deadline) {
  uint64_t marker = 0;
  {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(WaitWhileDrainingLocked(deadline));
    // Before this start's first handshake nobody knows what its standby misses.
    if (skipping_ || !incomplete_ || volume_ids_.empty() || !nothing_missing()) {
      return WithReason(
          absl::AbortedError(absl::StrCat("group ", options_.group, ": more was missed meanwhile")),
          kReasonIncomplete);
    }
    complete_sequence_ = window_.Append({.kind = OperationKind::kComplete}, clock_.Monotonic());
    incomplete_ = false;
    marker = AppendMarkerLocked(MarkerOwner::kCaller);
    TellLocked({.kind = base::EventKind::kComplete});
  }
  Pump();
  base::MutexLock lock(mutex_);
  if (auto outcome = AwaitLocked(markers_, marker, deadline); outcome.has_value()) {
    return *std::move(outcome);
  }
  markers_.Abandon(marker);
  return TooLateLocked(deadline, "the resync is complete, its checkpoint may still happen");
}

// The checkpoint that commits a resync takes the errors of what it made good away.
void Forwarder::EndMissedLocked(uint64_t committed) {
  if (!missed_told_ || incomplete_ || complete_sequence_ == 0 || committed < complete_sequence_) {
    return;
  }
  missed_told_ = false;
  for (ForwarderVolumeState& figures : figures_) figures.missed_bytes = 0;
  errors_.ClearMissed();
}

absl::Status Forwarder::CheckTakesWrites() const {
  base::MutexLock lock(mutex_);
  RETURN_IF_ERROR(CheckRunningLocked());
  return HandedOverLocked() ? HandedOverError() : absl::OkStatus();
}

absl::Status Forwarder::MakeIncomplete(const absl::Status& cause) {
  {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(CheckRunningLocked());
    if (HandedOverLocked()) return HandedOverError();
    MarkIncompleteLocked(cause);
  }
  Pump();
  return absl::OkStatus();
}

absl::Status Forwarder::AwaitReceived(const base::Deadline& deadline) {
  return AwaitQueued(/*durable=*/false, deadline);
}

absl::Status Forwarder::AwaitDurable(const base::Deadline& deadline) {
  return AwaitQueued(/*durable=*/true, deadline);
}

absl::Status Forwarder::AwaitQueued(bool durable, const base::Deadline& deadline) {
  uint64_t stream = 0;
  uint64_t through = 0;
  {
    base::MutexLock lock(mutex_);
    stream = stream_id_;
    through = window_.next_sequence() - 1;
    if (durable) durable_needed_ = std::max(durable_needed_, through);
  }
  Pump();
  base::MutexLock lock(mutex_);
  while (true) {
    RETURN_IF_ERROR(CheckRunningLocked());
    if (stream != stream_id_) return absl::AbortedError("a new stream has begun");
    if ((durable ? window_.durable_sequence() : window_.received_sequence()) >= through) {
      return absl::OkStatus();
    }
    const absl::Duration left = deadline.left();
    if (left <= absl::ZeroDuration()) {
      return absl::UnavailableError(absl::StrCat("group ", options_.group, ": the standby has not ",
                                                 durable ? "made durable" : "received",
                                                 " what was sent"));
    }
    changed_.WaitFor(mutex_, deadline.Slice(left));
  }
}

}  // namespace understudy::client
