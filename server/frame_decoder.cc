#include "server/frame_decoder.h"

#include <array>

#include "absl/strings/str_cat.h"

#include "server/wire_cursor.h"
#include "storage/base/crc32c.h"
#include "storage/base/status_macros.h"

namespace understudy::server {
namespace {

// Field numbers of WriteRequest, Frame and Heartbeat.
constexpr uint64_t kRequestHandshake = 1, kRequestFrame = 2, kRequestHeartbeat = 3;
constexpr uint64_t kFrameTerm = 1, kFrameIncarnationHigh = 2, kFrameIncarnationLow = 3,
                   kFrameFirstSequence = 4, kFrameCrc = 5, kFrameOperations = 6, kFramePayload = 7;
constexpr uint64_t kHeartbeatDurableWanted = 1, kHeartbeatSentMicros = 2, kHeartbeatProof = 3;

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("write stream: malformed message: ", what));
}

absl::Status BadFrame(const FrameParts& parts, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("write stream: frame at sequence ", parts.first_sequence, ": ", what));
}

// Reads a bytes field of at most `bytes_max` into `out`, replacing what an earlier occurrence left there.
absl::Status TakeBytes(WireCursor& cursor, absl::string_view what, uint64_t bytes_max,
                       uint64_t& bytes, std::vector<std::span<const char>>& out) {
  out.clear();
  if (!cursor.ReadVarint(bytes)) return Malformed("truncated frame");
  if (bytes > bytes_max) {
    return absl::InvalidArgumentError(absl::StrCat("write stream: frame over the limit: ", bytes,
                                                   " bytes of ", what, ", at most ", bytes_max));
  }
  return cursor.Take(bytes, out) ? absl::OkStatus() : Malformed("truncated frame");
}

absl::Status ReadFrameFields(WireCursor& cursor, FrameParts& parts,
                             std::vector<std::span<const char>>& operations,
                             std::vector<std::span<const char>>& payload) {
  const std::array<uint64_t*, 5> numbers = {nullptr, &parts.term, &parts.incarnation_high,
                                            &parts.incarnation_low, &parts.first_sequence};
  WireTag tag;
  while (cursor.remaining() > 0) {
    if (!cursor.ReadTag(tag)) return Malformed("bad tag in a frame");
    if (tag.field >= kFrameTerm && tag.field <= kFrameFirstSequence &&
        tag.type == WireType::kFixed64) {
      if (!cursor.ReadFixed(*numbers[tag.field])) return Malformed("truncated frame");
    } else if (tag.field == kFrameCrc && tag.type == WireType::kFixed32) {
      if (!cursor.ReadFixed(parts.crc32c)) return Malformed("truncated frame");
    } else if (tag.field == kFrameOperations && tag.type == WireType::kBytes) {
      RETURN_IF_ERROR(TakeBytes(cursor, "operations", kFrameOperationsMax * kOperationBytes,
                                parts.operations_bytes, operations));
    } else if (tag.field == kFramePayload && tag.type == WireType::kBytes) {
      RETURN_IF_ERROR(
          TakeBytes(cursor, "payload", kFramePayloadBytesMax, parts.payload_bytes, payload));
    } else if (tag.field <= kFramePayload) {
      return Malformed(absl::StrCat("field ", tag.field, " of a frame has a wrong type"));
    } else if (!cursor.SkipField(tag.type)) {
      return Malformed("truncated frame");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadHeartbeatFields(WireCursor& cursor, bool& durable_wanted, uint64_t& sent_micros,
                                 uint64_t& proof) {
  WireTag tag;
  uint64_t value = 0;
  while (cursor.remaining() > 0) {
    if (!cursor.ReadTag(tag)) return Malformed("bad tag in a heartbeat");
    if (tag.field <= kHeartbeatProof) {
      if (tag.type != WireType::kVarint || !cursor.ReadVarint(value)) {
        return Malformed("bad heartbeat");
      }
      if (tag.field == kHeartbeatDurableWanted) durable_wanted = value != 0;
      if (tag.field == kHeartbeatSentMicros) sent_micros = value;
      if (tag.field == kHeartbeatProof) proof = value;
    } else if (!cursor.SkipField(tag.type)) {
      return Malformed("truncated heartbeat");
    }
  }
  return absl::OkStatus();
}

// The one message of a WriteRequest: which it is, and a cursor over its bytes.
absl::Status FindMessage(Slices message, uint64_t& field, WireCursor& found) {
  WireCursor cursor(message);
  field = 0;
  WireTag tag;
  while (cursor.remaining() > 0) {
    if (!cursor.ReadTag(tag)) return Malformed("bad tag");
    if (tag.field > kRequestHeartbeat) {
      if (!cursor.SkipField(tag.type)) return Malformed("truncated");
      continue;
    }
    uint64_t bytes;
    if (tag.type != WireType::kBytes || !cursor.ReadVarint(bytes)) return Malformed("bad length");
    if (field != 0) return Malformed("two messages in one");
    field = tag.field;
    found = cursor;
    if (!found.Enter(bytes) || !cursor.Skip(bytes)) return Malformed("truncated");
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<SyncState> FrameDecoder::told() const {
  switch (proof_) {  // as understudy.v1.Proof
    case 0:
      return std::nullopt;
    case 2:
      return SyncState::kInSync;
    case 3:
      return SyncState::kDiverged;
    default:
      return SyncState::kAssumed;
  }
}

absl::StatusOr<FrameDecoder::Kind> FrameDecoder::Decode(Slices message) {
  uint64_t field;
  WireCursor cursor({});
  RETURN_IF_ERROR(FindMessage(message, field, cursor));
  if (field == kRequestHeartbeat) {
    durable_wanted_ = false;
    sent_micros_ = proof_ = 0;
    RETURN_IF_ERROR(ReadHeartbeatFields(cursor, durable_wanted_, sent_micros_, proof_));
    return Kind::kHeartbeat;
  }
  if (field == kRequestHandshake) return Malformed("a second handshake");
  if (field != kRequestFrame) return Malformed("empty");
  parts_ = {};
  operation_slices_.clear();
  payload_slices_.clear();
  RETURN_IF_ERROR(ReadFrameFields(cursor, parts_, operation_slices_, payload_slices_));
  RETURN_IF_ERROR(FindOperations());
  RETURN_IF_ERROR(CheckCrc());
  RETURN_IF_ERROR(CheckOperations());
  frame_.incarnation = {.high = parts_.incarnation_high, .low = parts_.incarnation_low};
  frame_.term = Term(parts_.term);
  frame_.first_sequence = parts_.first_sequence;
  frame_.payload = payload_slices_;
  return Kind::kFrame;
}

absl::Status FrameDecoder::FindOperations() {
  if (parts_.operations_bytes == 0) return BadFrame(parts_, "holds no operations");
  if (parts_.operations_bytes % kOperationBytes != 0) {
    return BadFrame(
        parts_, absl::StrCat(parts_.operations_bytes, " bytes of operations are not a multiple of ",
                             kOperationBytes));
  }
  const size_t count = parts_.operations_bytes / kOperationBytes;
  const char* const start = operation_slices_.front().data();
  if (operation_slices_.size() == 1 &&
      reinterpret_cast<uintptr_t>(start) % alignof(Operation) == 0) {
    frame_.operations = {reinterpret_cast<const Operation*>(start), count};
    return absl::OkStatus();
  }
  copied_operations_.resize(count);
  char* to = reinterpret_cast<char*>(copied_operations_.data());
  for (const std::span<const char> slice : operation_slices_) {
    std::memcpy(to, slice.data(), slice.size());
    to += slice.size();
  }
  frame_.operations = copied_operations_;
  return absl::OkStatus();
}

absl::Status FrameDecoder::CheckCrc() const {
  const uint64_t fixed[] = {parts_.term, parts_.incarnation_high, parts_.incarnation_low,
                            parts_.first_sequence};
  uint32_t crc = base::ExtendCrc32c(0, fixed, sizeof(fixed));
  crc = base::ExtendCrc32c(crc, frame_.operations.data(), frame_.operations.size_bytes());
  for (const std::span<const char> slice : payload_slices_) {
    crc = base::ExtendCrc32c(crc, slice.data(), slice.size());
  }
  if (crc == parts_.crc32c) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("write stream: frame at sequence ", parts_.first_sequence,
                   ": CRC32C does not match: damaged on the way; send it again"));
}

absl::Status FrameDecoder::CheckOperations() {
  uint64_t payload_bytes = 0;
  kinds_ = 0;
  for (const Operation& operation : frame_.operations) {
    const int kind = static_cast<int>(operation.kind);
    if (kind < 1 || kind > static_cast<int>(OperationKind::kHandover)) {
      return BadFrame(parts_, absl::StrCat("unknown kind of operation ", kind));
    }
    if (operation.reserved[0] != 0 || operation.reserved[1] != 0 || operation.reserved[2] != 0) {
      return BadFrame(parts_, "reserved bytes of an operation are not zero");
    }
    // That of an INCOMPLETE only tells people what is missing.
    const bool may_have_range =
        operation.has_range() || operation.kind == OperationKind::kIncomplete;
    if (!may_have_range && (operation.offset != 0 || operation.length != 0)) {
      return BadFrame(parts_, absl::StrCat("an operation of kind ", kind, " with a range"));
    }
    if (HoldsMarker()) {
      return BadFrame(parts_, "CHECKPOINT, PREPARE or HANDOVER is not its last operation");
    }
    if (operation.payload_bytes() > kFramePayloadBytesMax) {
      return BadFrame(
          parts_, absl::StrCat("an operation of ", operation.length, " bytes is over the limit"));
    }
    payload_bytes += operation.payload_bytes();
    kinds_ |= 1U << kind;
  }
  if (payload_bytes == parts_.payload_bytes) return absl::OkStatus();
  return BadFrame(parts_, absl::StrCat("its operations name ", payload_bytes,
                                       " bytes of payload, it carries ", parts_.payload_bytes));
}

}  // namespace understudy::server
