#include "client/frame.h"

#include <utility>

#include "storage/base/crc32c.h"

namespace understudy::client {
namespace {
// Kept for reuse at most; what is above goes back to the system after a burst.
constexpr size_t kSpareFramesMax = 1024;
constexpr size_t kSpareChunksMax = 32;
}  // namespace

FrameHeader MakeFrameHeader(const Frame& frame, const Grant& grant) {
  const uint64_t fixed[4] = {grant.term.value(), grant.incarnation.high, grant.incarnation.low,
                             frame.first_sequence};
  uint32_t crc = base::Crc32c(fixed, sizeof(fixed));
  crc = base::ExtendCrc32c(crc, frame.operation_bytes().data(), frame.operation_bytes().size());
  crc = base::ExtendCrc32c(crc, frame.payload, frame.payload_bytes);
  return {.grant = grant, .first_sequence = frame.first_sequence, .crc32c = crc};
}

std::shared_ptr<Frame> FramePool::TakeFrame() {
  std::unique_ptr<Frame> frame;
  {
    base::MutexLock lock(mutex_);
    if (!frames_.empty()) {
      frame = std::move(frames_.back());
      frames_.pop_back();
    }
  }
  if (frame == nullptr) frame = std::make_unique<Frame>();
  return {frame.release(), [pool = shared_from_this()](Frame* done) {
            pool->Recycle(std::unique_ptr<Frame>(done));
          }};
}

std::shared_ptr<Chunk> FramePool::TakeChunk() {
  std::unique_ptr<Chunk> chunk;
  {
    base::MutexLock lock(mutex_);
    if (!chunks_.empty()) {
      chunk = std::move(chunks_.back());
      chunks_.pop_back();
    }
  }
  if (chunk == nullptr) {
    chunk = std::make_unique<Chunk>();
    chunk->bytes = std::make_unique_for_overwrite<char[]>(kChunkBytes);
  }
  return {chunk.release(), [pool = shared_from_this()](Chunk* done) {
            pool->Recycle(std::unique_ptr<Chunk>(done));
          }};
}

void FramePool::Recycle(std::unique_ptr<Frame> frame) {
  std::vector<Operation> operations = std::move(frame->operations);
  operations.clear();
  *frame = Frame{};  // gives the chunk back before the lock is taken
  frame->operations = std::move(operations);
  base::MutexLock lock(mutex_);
  if (frames_.size() < kSpareFramesMax) frames_.push_back(std::move(frame));
}

void FramePool::Recycle(std::unique_ptr<Chunk> chunk) {
  chunk->used = 0;
  base::MutexLock lock(mutex_);
  if (chunks_.size() < kSpareChunksMax) chunks_.push_back(std::move(chunk));
}

}  // namespace understudy::client
