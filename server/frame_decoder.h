// server/frame_decoder.h
//
// FrameDecoder reads one WriteRequest of the write stream where it lies: it walks the protobuf wire format over the slices that
// the transport received and points into them. The payload is never copied; the operations only when they are not contiguous
// and aligned.
//
// Errors   kInvalidArgument malformed or truncated bytes, a second handshake, a frame over the limits of
//          storage/base/operation.h, an operation of unknown kind, a payload that does not match the operations; kDataLoss
//          when the CRC does not match. Unknown fields are skipped, as protobuf does.
// Threads  one at a time. What frame() points to lives until the next Decode() or the end of the slices.
// Source   wire format: protobuf.dev/programming-guides/encoding; the CRC's extent: primary_writes.proto.
#ifndef UNDERSTUDY_SERVER_FRAME_DECODER_H_
#define UNDERSTUDY_SERVER_FRAME_DECODER_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "server/group_status.h"
#include "storage/base/operation.h"
#include "storage/replica.h"

namespace understudy::server {

using Slices = std::span<const std::span<const char>>;

// Where a frame's parts lie and what its fixed fields say, before anything but the wire format has been checked.
struct FrameParts {
  uint64_t term = 0;
  uint64_t incarnation_high = 0;
  uint64_t incarnation_low = 0;
  uint64_t first_sequence = 0;
  uint32_t crc32c = 0;
  uint64_t operations_bytes = 0;
  uint64_t payload_bytes = 0;
};

class FrameDecoder {
 public:
  enum class Kind { kFrame, kHeartbeat };

  // Decodes and checks one message; says which it was.
  absl::StatusOr<Kind> Decode(Slices message);

  // After kFrame; stream_id is left 0 for the caller.
  const storage::IncomingFrame& frame() const { return frame_; }
  bool Holds(OperationKind kind) const { return (kinds_ >> static_cast<int>(kind)) & 1; }
  bool HoldsMarker() const {
    return Holds(OperationKind::kCheckpoint) || Holds(OperationKind::kPrepare) ||
           Holds(OperationKind::kHandover);
  }
  // What changes more than sequences.
  bool HoldsControl() const {
    return HoldsMarker() || Holds(OperationKind::kIncomplete) || Holds(OperationKind::kComplete);
  }
  uint64_t payload_bytes() const { return parts_.payload_bytes; }
  // Also after an error, as far as it was read.
  uint64_t first_sequence() const { return parts_.first_sequence; }

  // After kHeartbeat.
  bool durable_wanted() const { return durable_wanted_; }
  uint64_t sent_micros() const { return sent_micros_; }
  // What the agent knows of the disks: kAssumed, kInSync, kDiverged; nothing: as before.
  std::optional<SyncState> told() const;

 private:
  absl::Status FindOperations();
  absl::Status CheckCrc() const;
  absl::Status CheckOperations();

  FrameParts parts_;
  std::vector<std::span<const char>> operation_slices_;
  std::vector<std::span<const char>> payload_slices_;
  std::vector<Operation> copied_operations_;
  storage::IncomingFrame frame_;
  uint32_t kinds_ = 0;
  bool durable_wanted_ = false;
  uint64_t sent_micros_ = 0;
  uint64_t proof_ = 0;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_FRAME_DECODER_H_
