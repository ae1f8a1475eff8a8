// client/frame.h
//
// A Frame is what goes over the wire at once: packed operations with consecutive sequence numbers and the data of the DATA
// operations back to back. The window builds it in place: each write's data is copied once, into the frame.
//
// Shape    `operations` are in wire form (storage/base/operation.h); `payload` is one contiguous run inside a chunk that
//          consecutive frames share, so that a window of small frames does not cost a large buffer each.
// Memory   frames and chunks are recycled by their FramePool. A frame lives until the window has released it *and* the
//          transport has let go of the slices it made of it: both hold a shared_ptr.
// Threads  a frame is changed only by the window's owner until it is closed, and is constant from then on. The pool is
//          thread-safe.
#ifndef UNDERSTUDY_CLIENT_FRAME_H_
#define UNDERSTUDY_CLIENT_FRAME_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/time/time.h"

#include "client/client_types.h"
#include "storage/base/mutex.h"
#include "storage/base/operation.h"

namespace understudy::client {

inline constexpr uint64_t kChunkBytes = 1 << 20;  // payload memory is taken from the pool in these

struct Chunk {
  std::unique_ptr<char[]> bytes;
  uint64_t used = 0;  // what earlier frames and the open one have taken
};

struct Frame {
  uint64_t first_sequence = 0;
  std::vector<Operation> operations;
  std::shared_ptr<Chunk> chunk;  // null while there is no payload
  char* payload = nullptr;
  uint64_t payload_bytes = 0;
  absl::Duration queued_at;  // monotonic, of the first operation
  int copies_pending =
      0;  // large copies into the payload that are still running; guarded like the window
  bool closed = false;

  uint64_t last_sequence() const { return first_sequence + operations.size() - 1; }
  uint64_t bytes() const { return payload_bytes + operations.size() * kOperationBytes; }
  std::span<const char> operation_bytes() const {
    return {reinterpret_cast<const char*>(operations.data()), operations.size() * kOperationBytes};
  }
  std::span<const char> payload_span() const { return {payload, payload_bytes}; }
};

// What differs each time a frame is sent: a takeover changes the term.
struct FrameHeader {
  Grant grant;
  uint64_t first_sequence = 0;
  uint32_t crc32c = 0;
};

// The header of `frame` under `grant`, with the CRC32C of proto/understudy/v1/primary_writes.proto.
FrameHeader MakeFrameHeader(const Frame& frame, const Grant& grant);

class FramePool : public std::enable_shared_from_this<FramePool> {
 public:
  static std::shared_ptr<FramePool> Create() { return std::shared_ptr<FramePool>(new FramePool); }

  std::shared_ptr<Frame> TakeFrame();
  std::shared_ptr<Chunk> TakeChunk();

 private:
  FramePool() = default;
  void Recycle(std::unique_ptr<Frame> frame);
  void Recycle(std::unique_ptr<Chunk> chunk);

  base::Mutex mutex_;
  std::vector<std::unique_ptr<Frame>> frames_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Chunk>> chunks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_FRAME_H_
