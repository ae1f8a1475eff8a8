// Writes with data: alone, in pieces, or many at once.
#include <algorithm>
#include <cstring>

#include "absl/container/inlined_vector.h"

#include "client/forwarder.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {
constexpr uint64_t kCopyUnderLockBytesMax = 16 << 10;
constexpr uint64_t kPieceBytes = 256 << 10;  // what one turn at the window takes of writes
// A frame of one small write costs both ends as much as one of many. After one has begun, fewer
// bytes than these wait for company, for so long.
constexpr uint64_t kLeftBytesMax = 32 << 10;
constexpr absl::Duration kFrameGap = absl::Microseconds(100);
constexpr int kLooksInVain = 20;  // of the sender, before it sleeps
}  // namespace

absl::StatusOr<Window::Slot> Forwarder::QueuePiece(uint32_t volume, uint64_t offset,
                                                   std::span<const char> data, uint64_t* ticket) {
  const uint64_t wanted = std::min<uint64_t>(data.size(), kPieceBytes);
  Window::Slot slot;
  {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(WaitForRoom(volume, ByteRange::OfLength(offset, data.size()), wanted));
    slot = window_.AppendData(volume, offset, wanted, clock_.Monotonic());
    slot.stream = stream_id_;
    if (ticket != nullptr) *ticket = TicketLocked(slot.sequence);
    if (slot.length <= kCopyUnderLockBytesMax) {
      std::memcpy(slot.data, data.data(), slot.length);
      return slot;
    }
    ++slot.frame->copies_pending;
  }
  std::memcpy(slot.data, data.data(), slot.length);
  base::MutexLock lock(mutex_);
  --slot.frame->copies_pending;
  return slot;
}

absl::Status Forwarder::QueueWrite(uint32_t volume, uint64_t offset, std::span<const char> data,
                                   uint64_t* ticket, Place* last) {
  RETURN_IF_ERROR(CheckRange(volume, offset, data.size()));
  while (!data.empty()) {
    ASSIGN_OR_RETURN(const Window::Slot slot, QueuePiece(volume, offset, data, ticket));
    *last = {.stream = slot.stream, .sequence = slot.sequence};
    offset += slot.length;
    data = data.subspan(slot.length);
    Pump();
  }
  return absl::OkStatus();
}

absl::Status Forwarder::Write(uint32_t volume, uint64_t offset, std::span<const char> data,
                              uint64_t* ticket) {
  Place last;
  RETURN_IF_ERROR(QueueWrite(volume, offset, data, ticket, &last));
  return WaitForAck(last);
}

bool Forwarder::TakesAtOnceLocked() const {
  return running_ && !fenced_ && !HandedOverLocked() && !skipping_ && !draining_;
}

size_t Forwarder::QueueFitting(uint32_t volume, std::span<const BlockWrite> writes, bool overtakes,
                               uint64_t* ticket, Place* last) {
  uint64_t bytes = 0;
  size_t count = 0;
  for (const BlockWrite& write : writes) {
    bytes += write.data.size();
    if (bytes > kPieceBytes || !CheckRange(volume, write.offset, write.data.size()).ok()) break;
    ++count;
  }
  if (count == 0) return 0;
  struct Copy {
    Window::Slot slot;
    const char* data;
  };
  absl::InlinedVector<Copy, 16> copies;
  copies.reserve(count + 1);
  const auto run_copies = [&copies] {
    for (const Copy& copy : copies) std::memcpy(copy.slot.data, copy.data, copy.slot.length);
  };
  size_t taken = 0;
  {
    base::MutexLock lock(mutex_);
    if (!TakesAtOnceLocked() || (room_waiters_ > 0 && !overtakes)) return 0;
    const absl::Duration now = clock_.Monotonic();
    for (bytes = 0; taken < count; ++taken) {
      std::span<const char> data = writes[taken].data;
      // One that the rest of a frame is filled with is two operations.
      const uint64_t room =
          options_.window_bytes - std::min(options_.window_bytes, window_.bytes());
      if (data.size() + 2 * kOperationBytes > room) break;
      bytes += data.size();
      for (uint64_t at = writes[taken].offset; !data.empty();) {
        copies.push_back({window_.AppendData(volume, at, data.size(), now), data.data()});
        const uint64_t length = copies.back().slot.length;
        at += length;
        data = data.subspan(length);
      }
    }
    if (taken == 0) return 0;
    left_bytes_ += bytes;
    *last = {.stream = stream_id_, .sequence = copies.back().slot.sequence};
    if (ticket != nullptr) *ticket = TicketLocked(last->sequence);
    if (bytes <= kCopyUnderLockBytesMax) {
      run_copies();
      return taken;
    }
    for (const Copy& copy : copies) ++copy.slot.frame->copies_pending;
  }
  run_copies();
  base::MutexLock lock(mutex_);
  for (const Copy& copy : copies) --copy.slot.frame->copies_pending;
  return taken;
}

size_t Forwarder::TryWrite(uint32_t volume, std::span<const BlockWrite> writes) {
  if (options_.ack != AckMode::kForwarded) return 0;
  Place last;
  size_t taken = 0;
  while (taken < writes.size()) {
    const size_t more = QueueFitting(volume, writes.subspan(taken), false, nullptr, &last);
    if (more == 0) break;
    taken += more;
    if (writes.size() == 1) {
      Pump();  // who sends one at a time waits for each
    } else {
      PumpUnlessLeft();
    }
  }
  return taken;
}

bool Forwarder::LeftLocked() const {
  return !urgent_ && left_bytes_ > 0 && left_bytes_ < kLeftBytesMax &&
         clock_.Monotonic() - frame_began_ < kFrameGap;
}

void Forwarder::PumpUnlessLeft() {
  {
    base::MutexLock lock(mutex_);
    if (LeftLocked()) {
      if (sender_asleep_) sender_wake_.NotifyOne();
      return;
    }
  }
  Pump();
}

void Forwarder::RunSender() {
  int in_vain = 0;
  mutex_.Lock();
  while (running_) {
    sender_asleep_ = in_vain == kLooksInVain;
    if (sender_asleep_) {
      sender_wake_.Wait(mutex_);
      in_vain = 0;
      continue;
    }
    sender_wake_.WaitFor(mutex_, kFrameGap);
    in_vain = left_bytes_ > 0 ? 0 : in_vain + 1;
    if (left_bytes_ == 0 || LeftLocked()) continue;
    mutex_.Unlock();
    Pump();
    mutex_.Lock();
  }
  mutex_.Unlock();
}

void Forwarder::WriteAll(uint32_t volume, std::span<const BlockWrite> writes,
                         std::span<absl::Status> results, uint64_t* ticket) {
  struct Turn {
    size_t begin;  // of the writes that it has queued
    size_t end;
    Place last;
  };
  std::vector<Turn> turns;
  const auto refused = [](const absl::Status& status) { return !status.ok(); };
  for (size_t at = 0; at < writes.size();) {
    const auto end = std::find_if(results.begin() + at, results.end(), refused);
    const size_t ready = static_cast<size_t>(end - results.begin()) - at;
    if (ready == 0) {
      ++at;
      continue;
    }
    Turn turn{.begin = at};
    const size_t taken = QueueFitting(volume, writes.subspan(at, ready), true, ticket, &turn.last);
    if (taken > 0) {
      Pump();
    } else {
      results[at] = QueueWrite(volume, writes[at].offset, writes[at].data, ticket, &turn.last);
    }
    at += std::max<size_t>(taken, 1);
    turn.end = at;
    if (options_.ack != AckMode::kForwarded) turns.push_back(turn);
  }
  // From the last one on: whoever waits for it has waited for those before it in its stream, and
  // a stream that has ended is not waited for.
  absl::Status acknowledged;
  uint64_t stream = 0;
  for (auto turn = turns.rbegin(); turn != turns.rend(); ++turn) {
    const Place& last = turn->last;
    if (last.stream == 0) continue;
    if (stream != last.stream) {
      acknowledged = WaitForAck(last);
    } else if (!acknowledged.ok()) {
      base::MutexLock lock(mutex_);
      const bool is = stream_id_ == stream && AcknowledgedLocked() >= last.sequence;
      if (is) acknowledged = absl::OkStatus();
    }
    stream = last.stream;
    for (size_t at = turn->begin; at < turn->end; ++at) {
      if (results[at].ok()) results[at] = acknowledged;
    }
  }
}

}  // namespace understudy::client
