// storage/format.h
//
// The bytes on disk, shared by writer and reader; docs/on_disk_format.md explains them with an example. All numbers are
// little-endian, except in index keys, which are big-endian so that they sort.
//
//   segment file   [SegmentHeader, padded to 4 KiB] [frame] [frame] ...
//   frame          [FrameHeader][Operation x operation_count][u32 CRC32C x checksum_count] padded to 4 KiB,
//                  [payload, as received] padded to 4 KiB
//
// A DATA operation has one checksum per 4 KiB block of the *volume* that it touches; its first and last block may be shorter. It is
// kept XOR SegmentHeader::checksum_mask().
// A frame is valid when its magic, its segment's incarnation, its place in the chain of positions, its CRC and all its checksums
// are right; everything else is the end of the log.
#ifndef UNDERSTUDY_STORAGE_FORMAT_H_
#define UNDERSTUDY_STORAGE_FORMAT_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "storage/base/byte_range.h"
#include "storage/base/file_system.h"
#include "storage/base/ids.h"
#include "storage/base/operation.h"

namespace understudy::storage {

// Of the data directory as a whole, in the file VERSION: "understudy 1\n".
inline constexpr int kFormatVersion = 1;
// Of a segment. 1: the checksums of its frames are not of this use of its file.
inline constexpr uint32_t kSegmentVersion = 2;

enum class LogRole : uint8_t { kHidden = 0, kActive = 1, kClone = 2 };  // kClone: never recovered

// A place in a log: the segment's ordinal (from 1; 0: before the first) and a byte offset in its file.
struct LogPosition {
  uint32_t ordinal = 0;
  uint32_t offset = 0;
  friend auto operator<=>(const LogPosition&, const LogPosition&) = default;
  std::string ToString() const;
};

inline constexpr uint64_t kSegmentMagic = 0x3147455359545355;  // "USTYSEG1"
inline constexpr uint32_t kFrameMagic = 0x52465355;            // "USFR"

struct SegmentHeader {
  uint64_t magic = kSegmentMagic;
  uint32_t version = kSegmentVersion;
  uint32_t ordinal = 0;  // place in its log
  uint64_t incarnation =
      0;               // random, new at every use of the file: frames of earlier uses are foreign
  uint64_t group = 0;  // the group's number; with role, names the log
  uint8_t role = 0;    // LogRole
  uint8_t zero[3] = {};
  uint32_t crc32c = 0;  // of the bytes before it

  // A frame's checksums are kept with this over them (XOR): a frame of an earlier use, where a write was lost, has others.
  uint32_t checksum_mask() const {
    return version < 2 ? 0 : static_cast<uint32_t>(incarnation ^ (incarnation >> 32));
  }
};
static_assert(sizeof(SegmentHeader) == 40 && offsetof(SegmentHeader, crc32c) == 36);

// The frame moves bytes within its overlay: its operations are not the stream's. What is not in the index of it is passed over at
// recovery, the bytes are still where they were.
inline constexpr uint32_t kFrameCompaction = 1;

struct FrameHeader {
  uint32_t magic = kFrameMagic;
  uint32_t operation_count = 0;
  uint64_t segment_incarnation = 0;
  uint64_t overlay = 0;
  uint64_t stream_id = 0;  // hidden: of the write stream; active: 0
  uint64_t term = 0;
  uint64_t first_sequence = 0;
  uint64_t payload_bytes = 0;
  uint32_t checksum_count = 0;
  uint32_t previous_ordinal = 0;  // LogPosition this frame follows
  uint32_t previous_offset = 0;
  uint32_t flags = 0;  // kFrameCompaction; unknown ones are the end of the log
  // A frame that ends an epoch (hidden log only) is the write-ahead record of the checkpoint; else all four are 0.
  uint64_t epoch = 0;        // the one it ends
  uint64_t next_hidden = 0;  // overlay ids of the epoch after it
  uint64_t next_active = 0;  // 0: the epoch is prepared, not committed
  int64_t unix_micros = 0;   // when
  uint32_t zero = 0;
  uint32_t crc32c = 0;  // of the header before it, the operations and the checksums
};
static_assert(sizeof(FrameHeader) == 112 && offsetof(FrameHeader, crc32c) == 108);

inline uint64_t FrameMetadataBytes(const FrameHeader& header) {
  return sizeof(FrameHeader) + uint64_t{header.operation_count} * kOperationBytes +
         uint64_t{header.checksum_count} * sizeof(uint32_t);
}
inline uint64_t FrameBytes(const FrameHeader& header) {
  return RoundUp(FrameMetadataBytes(header), kBlockBytes) +
         RoundUp(header.payload_bytes, kBlockBytes);
}

// Checksummed blocks that a DATA operation over `range` of a volume touches.
inline uint64_t ChecksumCount(const ByteRange& range) {
  return (RoundUp(range.end, kBlockBytes) - RoundDown(range.start, kBlockBytes)) / kBlockBytes;
}

void SealSegmentHeader(SegmentHeader& header);  // fills in crc32c
bool SegmentHeaderValid(const SegmentHeader& header);
// Over FrameHeader (without its crc32c) and the rest of the metadata, which follows it in memory.
uint32_t FrameMetadataCrc(const FrameHeader& header, absl::string_view rest);

// ---- index records -------------------------------------------------------------------------------------------------------

// An extent is cut at the multiples of this: the records of a region can be read, kept in memory and dropped on their own.
inline constexpr uint64_t kRegionBytes = 1 << 20;
inline constexpr uint64_t kVolumeBytesMax = uint64_t{1} << 52;  // regions are numbered with 32 bits

// Where the current bytes of [start, end) of a volume are; `end` is in the key.
struct Extent {
  uint64_t start = 0;
  // The range of the DATA operation the bytes came with: its checksums are cut on its bounds and stay so when the extent is
  // trimmed.
  uint64_t origin_start = 0;
  uint32_t origin_bytes = 0;
  uint32_t segment = 0;  // ordinal in the overlay's log; 0: reads as zeroes, the fields below are 0
  uint32_t position = 0;   // of origin_start's byte in the segment file
  uint32_t checksums = 0;  // of the checksum of origin_start's block in the segment file

  bool zero() const { return segment == 0; }
  ByteRange origin() const { return ByteRange::OfLength(origin_start, origin_bytes); }
  friend bool operator==(const Extent&, const Extent&) = default;
};

struct VolumeRecord {
  std::string name;
  std::string top_id;
  std::string disk_path;
  uint64_t size_bytes = 0;
  Initial initial = Initial::kEqual;
  base::FileIdentity identity;
  uint64_t merged_through = 0;  // FAILOVER: committed overlays below this offset are on the disk
};

struct GroupRecord {
  uint64_t number = 0;  // never repeats in a data directory
  std::string name;
  Stage stage = Stage::kNone;
  Incarnation incarnation;
  Term term;
  std::string agent_id;
  Epoch epoch;            // the open one
  Epoch committed_epoch;  // 0: none
  uint64_t committed_sequence = 0;
  uint64_t committed_stream = 0;
  int64_t committed_micros = 0;
  uint64_t committed_bytes = 0;            // of volume ranges it changed
  uint64_t committed_duration_micros = 0;  // of ReplicaState::checkpoint_duration
  bool valid = false;
  OverlayId hidden;
  OverlayId active;
  // FAILOVER: committed epochs up to this one may still have to be rolled forward from the log (--durability=none).
  Epoch roll_forward_through;
  Epoch
      applied_epoch;  // the secondary disks hold this one in full, unless applying_through is newer
  int64_t applied_micros = 0;
  Epoch applying_through;  // the disks may hold parts of epochs up to this one
  // The sealed epoch that may be committed, and its marker in its stream; 0: none.
  Epoch prepared_epoch;
  uint64_t prepared_sequence = 0;
  uint64_t prepared_stream = 0;
  bool handed_over = false;  // the primary has given up writing, with the committed epoch
  bool failback_known =
      false;  // after a failover or Stop: the failback map has all that it must have
  std::vector<VolumeRecord> volumes;
};

// How much of a volume extents cover.
struct CoveredBytes {
  uint64_t all = 0;
  uint64_t data = 0;  // without zeroes
  friend bool operator==(const CoveredBytes&, const CoveredBytes&) = default;
};

// 64 regions of the failback map.
struct FailbackWord {
  VolumeId volume;
  uint64_t word = 0;  // its number
  uint64_t bits = 0;  // the lowest is the first region
};

// Segments of a log, by ordinal, both ends included.
struct SegmentRange {
  uint32_t first = 0;
  uint32_t last = 0;
  friend bool operator==(const SegmentRange&, const SegmentRange&) = default;
};

// What has become of an overlay's epoch.
enum class OverlayState : uint8_t { kOpen = 0, kCommitted = 1, kPrepared = 2 };

struct OverlayRecord {
  uint64_t group = 0;
  LogRole role = LogRole::kHidden;
  Epoch epoch;
  OverlayState state = OverlayState::kOpen;
  LogPosition start;
  LogPosition end;          // zero while open
  int64_t unix_micros = 0;  // of the checkpoint that committed it
  // By its extents in the index; empty: there are none yet.
  std::vector<CoveredBytes> covered;   // by VolumeId
  std::vector<SegmentRange> segments;  // that they may name
  uint64_t segment_incarnations = 0;   // theirs, XOR; 0: not known, the record is of release 0.1
};

// How far the index mirrors a log, and what the stream had reached there.
struct IndexedPosition {
  LogPosition position;
  uint64_t stream_id = 0;
  uint64_t sequence = 0;
  bool incomplete = false;
};

std::string EncodeExtentKey(OverlayId overlay, VolumeId volume, uint64_t end);
std::string EncodeExtentPrefix(OverlayId overlay);
struct ExtentKey {
  OverlayId overlay;
  VolumeId volume;
  uint64_t end = 0;
};
absl::StatusOr<ExtentKey> DecodeExtentKey(absl::string_view key);
// kDataLoss unless the record can be one of a volume of that size.
absl::Status CheckExtent(uint64_t end, const Extent& extent, uint64_t volume_bytes);

std::string Encode(const Extent& extent);
std::string Encode(const GroupRecord& record);
std::string Encode(const OverlayRecord& record);
std::string Encode(const IndexedPosition& position);
std::string EncodeFailbackBits(uint64_t bits);
// kDataLoss when the bytes are not such a record.
absl::StatusOr<Extent> DecodeExtent(absl::string_view bytes);
absl::StatusOr<GroupRecord> DecodeGroupRecord(absl::string_view bytes);
absl::StatusOr<OverlayRecord> DecodeOverlayRecord(absl::string_view bytes);
absl::StatusOr<IndexedPosition> DecodeIndexedPosition(absl::string_view bytes);
absl::StatusOr<uint64_t> DecodeFailbackBits(absl::string_view bytes);

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_FORMAT_H_
