#include "client/window.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "storage/base/log.h"

namespace understudy::client {
namespace {
// Below this a request is never cut to fill the rest of a frame or chunk: it moves to the next one whole.
constexpr uint64_t kCutFromBytes = 64 << 10;
}  // namespace

Window::Window(std::shared_ptr<FramePool> pool, size_t volumes)
    : pool_(std::move(pool)), ids_(volumes), volume_bytes_(volumes, 0), changed_(volumes, 0) {
  std::iota(ids_.begin(), ids_.end(), 0);
}

void Window::MapVolumes(const std::vector<uint32_t>& ids) {
  UNDERSTUDY_CHECK(ids.size() == ids_.size());
  if (ids == ids_) return;
  for (const std::shared_ptr<Frame>& frame : frames_) {
    for (Operation& operation : frame->operations)
      operation.volume = ids[IndexOf(operation.volume)];
  }
  ids_ = ids;
}

size_t Window::IndexOf(uint32_t id) const {
  return static_cast<size_t>(std::find(ids_.begin(), ids_.end(), id) - ids_.begin());
}

void Window::set_frame_payload_bytes(uint64_t target, uint64_t max) {
  payload_max_ = std::min(max, kFramePayloadBytesMax);
  payload_target_ = std::min(target, payload_max_);
}

Frame& Window::OpenFrame(absl::Duration now) {
  if (frames_.empty() || frames_.back()->closed) {
    std::shared_ptr<Frame> frame = pool_->TakeFrame();
    frame->first_sequence = next_sequence_;
    frame->queued_at = now;
    frames_.push_back(std::move(frame));
  }
  return *frames_.back();
}

void Window::CloseOpenFrame() {
  if (!frames_.empty()) frames_.back()->closed = true;
}

void Window::EnsureChunk(Frame& frame, uint64_t length) {
  if (chunk_ == nullptr || kChunkBytes - chunk_->used < length) {
    UNDERSTUDY_CHECK(frame.payload == nullptr, "a frame's payload lies in one chunk");
    chunk_ = pool_->TakeChunk();
  }
  if (frame.payload == nullptr) {
    frame.chunk = chunk_;
    frame.payload = chunk_->bytes.get() + chunk_->used;
  }
}

uint64_t Window::Push(Frame& frame, Operation operation) {
  if (operation.has_range()) {
    volume_bytes_[operation.volume] += operation.length;
    changed_[operation.volume] = next_sequence_;
  }
  if (operation.kind == OperationKind::kFlush) flush_ = next_sequence_;
  operation.volume = ids_[operation.volume];
  frame.operations.push_back(operation);
  bytes_ += kOperationBytes;
  if (frame.operations.size() == kFrameOperationsMax) frame.closed = true;
  return next_sequence_++;
}

Window::Slot Window::AppendData(uint32_t volume, uint64_t offset, uint64_t length,
                                absl::Duration now) {
  const uint64_t wanted = std::min(length, payload_target_);
  Frame* frame = &OpenFrame(now);
  const uint64_t chunk_left = chunk_ == nullptr ? 0 : kChunkBytes - chunk_->used;
  uint64_t room = payload_target_ - std::min(payload_target_, frame->payload_bytes);
  if (frame->payload != nullptr) room = std::min(room, chunk_left);
  uint64_t take = wanted;
  if (room < wanted) {
    take = room >= kCutFromBytes ? RoundDown(room, kSectorBytes) : wanted;
    if (take > room) {  // nothing of use is left here
      if (!frame->operations.empty()) CloseOpenFrame();
      frame = &OpenFrame(now);
    }
  }
  EnsureChunk(*frame, take);
  Slot slot{.sequence = next_sequence_,
            .length = take,
            .data = frame->payload + frame->payload_bytes,
            .frame = frames_.back()};
  chunk_->used += take;
  frame->payload_bytes += take;
  bytes_ += take;
  Push(*frame, {.volume = volume, .kind = OperationKind::kData, .offset = offset, .length = take});
  if (frame->payload_bytes >= payload_target_) frame->closed = true;
  return slot;
}

uint64_t Window::Append(const Operation& operation, absl::Duration now) {
  Frame& frame = OpenFrame(now);
  const uint64_t sequence = Push(frame, operation);
  if (IsMarker(operation.kind)) frame.closed = true;
  return sequence;
}

std::shared_ptr<const Frame> Window::NextToSend() {
  if (all_sent() || frames_[next_to_send_]->copies_pending > 0) return nullptr;
  frames_[next_to_send_]->closed = true;
  return frames_[next_to_send_++];
}

void Window::Received(uint64_t sequence) {
  received_ = std::max(received_, std::min(sequence, next_sequence_ - 1));
  while (frames_received_ < next_to_send_ &&
         frames_[frames_received_]->last_sequence() <= received_) {
    received_bytes_ += frames_[frames_received_++]->bytes();
  }
}

void Window::Durable(uint64_t sequence) {
  Received(sequence);
  durable_ = std::max(durable_, std::min(sequence, received_));
  while (!remembered_.empty() && remembered_.front().sequence <= durable_) {
    volume_bytes_[remembered_.front().volume] -= remembered_.front().range.size();
    remembered_.pop_front();
  }
  while (frames_received_ > 0 && frames_.front()->last_sequence() <= durable_) {
    for (const Operation& operation : frames_.front()->operations) {
      if (operation.has_range()) volume_bytes_[IndexOf(operation.volume)] -= operation.length;
    }
    PopFront();
  }
}

void Window::PopFront() {
  bytes_ -= frames_.front()->bytes();
  received_bytes_ -= frames_.front()->bytes();
  frames_.pop_front();
  --next_to_send_;
  --frames_received_;
}

bool Window::ForgetReceived(uint64_t ranges_max) {
  bool any = false;
  while (frames_received_ > 0 &&
         remembered_.size() + frames_.front()->operations.size() <= ranges_max) {
    uint64_t sequence = frames_.front()->first_sequence;
    for (const Operation& operation : frames_.front()->operations) {
      if (operation.has_range()) {
        remembered_.push_back({.sequence = sequence,
                               .volume = IndexOf(operation.volume),
                               .range = operation.range(),
                               .queued_at = frames_.front()->queued_at});
      }
      ++sequence;
    }
    PopFront();
    any = true;
  }
  return any;
}

void Window::Rewind(uint64_t received) {
  received_ = received;
  durable_ = std::min(durable_, received);
  received_bytes_ = 0;
  frames_received_ = 0;
  while (frames_received_ < frames_.size() && frames_[frames_received_]->closed &&
         frames_[frames_received_]->last_sequence() <= received) {
    received_bytes_ += frames_[frames_received_++]->bytes();
  }
  next_to_send_ = frames_received_;
}

void Window::Reset(uint64_t next_sequence) {
  frames_.clear();
  remembered_.clear();
  chunk_ = nullptr;
  next_to_send_ = frames_received_ = 0;
  next_sequence_ = next_sequence;
  received_ = durable_ = next_sequence - 1;
  bytes_ = received_bytes_ = 0;
  std::fill(volume_bytes_.begin(), volume_bytes_.end(), 0);
  std::fill(changed_.begin(), changed_.end(), 0);
  flush_ = 0;
}

uint64_t Window::first_available_sequence() const {
  return frames_.empty() ? next_sequence_ : frames_.front()->first_sequence;
}

uint64_t Window::sent_sequence() const {
  return next_to_send_ == 0 ? first_available_sequence() - 1
                            : frames_[next_to_send_ - 1]->last_sequence();
}

void Window::ForEachRange(absl::FunctionRef<void(size_t volume, ByteRange range)> visit) const {
  for (const Remembered& operation : remembered_) visit(operation.volume, operation.range);
  for (const auto& frame : frames_) {
    for (const Operation& operation : frame->operations) {
      if (operation.has_range()) visit(IndexOf(operation.volume), operation.range());
    }
  }
}

std::optional<absl::Duration> Window::oldest() const {
  if (!remembered_.empty()) return remembered_.front().queued_at;
  if (frames_.empty()) return std::nullopt;
  return frames_.front()->queued_at;
}

}  // namespace understudy::client
