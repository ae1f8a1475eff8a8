// client/window.h
//
// Window holds the frames of one stream from the moment an operation is queued until the secondary has made it durable:
// what may have to be sent again. It also remembers how far the secondary has received.
//
//     [ durable there: gone | received | sent | closed, to send | open, being built ]
//       ^ first_available                ^ next to send           ^ next_sequence
//
// Whoever can read again what it has written may let go of what was received (ForgetReceived()): the ranges of its operations are
// remembered until they are durable, and nothing else.
//
// Units    bytes() counts payload and packed operations of every frame held.
// Order    sequence numbers begin at 1 and have no gaps; frames are sent in order; Rewind() goes back to what the secondary
//          says after a reconnect.
// Threads  none of its own: the owner guards it. A frame that NextToSend() gave out is constant.
#ifndef UNDERSTUDY_CLIENT_WINDOW_H_
#define UNDERSTUDY_CLIENT_WINDOW_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"

#include "client/frame.h"

namespace understudy::client {

class Window {
 public:
  // `volumes`: how many; for unacknowledged_bytes().
  Window(std::shared_ptr<FramePool> pool, size_t volumes);

  // Where the caller copies the data of a DATA operation, and what to hand to Copied() when it does so without the owner's lock.
  struct Slot {
    uint64_t sequence = 0;
    uint64_t stream = 0;  // for the owner's use
    uint64_t length =
        0;  // what was taken of the length asked for: at least 1, a multiple of a sector
    char* data = nullptr;
    std::shared_ptr<Frame> frame;
  };

  // Queues DATA for up to `length` bytes at `offset`. Takes less when the frame or its chunk is nearly full and the request
  // is large: the caller asks again for the rest.
  Slot AppendData(uint32_t volume, uint64_t offset, uint64_t length, absl::Duration now);
  // Queues any other operation; returns its sequence. CHECKPOINT closes its frame.
  uint64_t Append(const Operation& operation, absl::Duration now);

  // The next frame to send, closed by this call; null when there is none or its data is still being copied. It counts as sent
  // until Rewind() says otherwise.
  std::shared_ptr<const Frame> NextToSend();

  void Received(uint64_t sequence);
  // Frees what is durable there.
  void Durable(uint64_t sequence);
  // Lets go of frames that were received whole, while at most `ranges_max` ranges are remembered in their place. False: of none.
  bool ForgetReceived(uint64_t ranges_max);
  // The connection is new and the secondary has everything through `received`: send again what comes after.
  void Rewind(uint64_t received);
  // Forgets everything; sequences go on at `next_sequence`.
  void Reset(uint64_t next_sequence);

  // `ids[i]` is what the wire says for our volume i; identity until then. Rewrites what is queued.
  // REQUIRES: nothing was sent yet, or the ids are the same.
  void MapVolumes(const std::vector<uint32_t>& ids);
  size_t IndexOf(uint32_t id) const;  // of the volume that the wire calls `id`
  // Data frames grow to this at most; smaller than kFramePayloadBytesMax when the secondary grants less.
  void set_frame_payload_bytes(uint64_t target, uint64_t max);

  bool empty() const { return frames_.empty(); }
  bool all_sent() const { return next_to_send_ == frames_.size(); }
  uint64_t bytes() const { return bytes_; }
  uint64_t unreceived_bytes() const { return bytes_ - received_bytes_; }
  // Of each operation held or remembered that has a range, in their order.
  void ForEachRange(absl::FunctionRef<void(size_t volume, ByteRange range)> visit) const;
  uint64_t undurable_bytes(size_t volume) const {
    return volume_bytes_[volume];
  }  // of ranges, zeroes included
  // A FLUSH, of whichever volume, was queued behind the volume's newest operation that has a range.
  bool flushed(size_t volume) const { return changed_[volume] < flush_; }
  // That operation's sequence; 0: none since the last Reset().
  uint64_t last_change(size_t volume) const { return changed_[volume]; }
  uint64_t next_sequence() const { return next_sequence_; }
  uint64_t first_available_sequence() const;
  uint64_t sent_sequence() const;  // of the last operation given out by NextToSend()
  uint64_t received_sequence() const { return received_; }
  uint64_t durable_sequence() const { return durable_; }
  // When the oldest operation held or remembered was queued.
  std::optional<absl::Duration> oldest() const;

 private:
  Frame& OpenFrame(absl::Duration now);
  void CloseOpenFrame();
  void EnsureChunk(Frame& frame, uint64_t length);
  uint64_t Push(Frame& frame, Operation operation);
  void PopFront();  // a received frame

  struct Remembered {
    uint64_t sequence = 0;
    size_t volume = 0;
    ByteRange range;
    absl::Duration queued_at;
  };

  const std::shared_ptr<FramePool> pool_;
  std::deque<std::shared_ptr<Frame>> frames_;
  std::deque<Remembered> remembered_;  // before frames_
  std::shared_ptr<Chunk> chunk_;       // the one that payload is taken from
  size_t next_to_send_ = 0;            // index into frames_
  size_t frames_received_ =
      0;  // the first so many are received whole; they count in received_bytes_
  uint64_t next_sequence_ = 1;
  uint64_t received_ = 0;
  uint64_t durable_ = 0;
  uint64_t bytes_ = 0;
  uint64_t received_bytes_ = 0;
  uint64_t payload_target_ = 256 << 10;
  uint64_t payload_max_ = kFramePayloadBytesMax;
  std::vector<uint32_t> ids_;           // by our index
  std::vector<uint64_t> volume_bytes_;  // by our index
  std::vector<uint64_t> changed_;       // by our index: see last_change()
  uint64_t flush_ = 0;                  // of the newest FLUSH
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_WINDOW_H_
