// storage/base/operation.h
//
// One operation of the write stream, and its packed form, which is the same on the wire (Frame.operations) and on disk
// (segment frames): 24 bytes, little-endian, no padding.
//
//   0  volume  u32    index of the volume in its group
//   4  kind    u8     OperationKind
//   5  zero    u8[3]
//   8  offset  u64    bytes; 0 for kinds without a range
//   16 length  u64    bytes; 0 for kinds without a range
//
// The sequence number of an operation is the frame's first sequence plus its index.
#ifndef UNDERSTUDY_STORAGE_BASE_OPERATION_H_
#define UNDERSTUDY_STORAGE_BASE_OPERATION_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "storage/base/byte_range.h"
#include "storage/base/ids.h"

namespace understudy {

enum class OperationKind : uint8_t {
  kData = 1,     // `length` bytes of the frame's payload
  kZero = 2,     // the range reads as zeroes
  kDiscard = 3,  // as kZero, so that both sides read the same; a hint that space may be given back
  kFlush = 4,    // the guest flushed: what came before should be durable soon
  kCheckpoint = 5,  // everything before it belongs to the epoch; the last operation of its frame
  kIncomplete = 6,  // from here on operations are missing: no checkpoint may commit
  kComplete = 7,    // a resync has sent everything that was missing
  kPrepare = 8,     // as kCheckpoint, but the epoch waits for somebody to commit it
  kHandover = 9,    // as kCheckpoint, and the last of the stream: the primary has given up writing
};

// Ends its frame, and an epoch with it.
constexpr bool IsMarker(OperationKind kind) {
  return kind == OperationKind::kCheckpoint || kind == OperationKind::kPrepare ||
         kind == OperationKind::kHandover;
}

struct Operation {
  uint32_t volume = 0;
  OperationKind kind = OperationKind::kData;
  uint8_t reserved[3] = {};
  uint64_t offset = 0;
  uint64_t length = 0;

  bool has_range() const { return kind <= OperationKind::kDiscard; }
  uint64_t payload_bytes() const { return kind == OperationKind::kData ? length : 0; }
  ByteRange range() const { return ByteRange::OfLength(offset, length); }
  friend bool operator==(const Operation&, const Operation&) = default;
};

// The struct is its packed form.
inline constexpr size_t kOperationBytes = 24;
static_assert(sizeof(Operation) == kOperationBytes && std::is_trivially_copyable_v<Operation>);
static_assert(offsetof(Operation, kind) == 4 && offsetof(Operation, offset) == 8 &&
              offsetof(Operation, length) == 16);
static_assert(std::endian::native == std::endian::little, "formats are little-endian");

// Bounds of a frame, the same for both ends. A frame over either is refused.
inline constexpr uint64_t kFramePayloadBytesMax = 1 << 20;
inline constexpr uint64_t kFrameOperationsMax = 8192;

}  // namespace understudy

#endif  // UNDERSTUDY_STORAGE_BASE_OPERATION_H_
