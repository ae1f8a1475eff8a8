#include "storage/copier.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/overlay.h"
#include "storage/secondary_disk.h"
#include "storage/segment_pool.h"

namespace understudy::storage {
namespace {

constexpr uint64_t kCopyBytesMax = 1 << 20;  // stays in the cache between checking and writing
constexpr uint64_t kHoleBytesMin = 64 << 10;
constexpr uint64_t kCloneBytesMin = 64 << 10;
constexpr uint64_t kDirtyBatchBytes = 16 << 20;

uint64_t PositionOf(const Piece& piece) {
  return piece.extent.position + (piece.range.start - piece.extent.origin_start);
}

uint64_t ChecksumsOf(const Piece& piece) {
  const uint64_t first_block = RoundDown(piece.extent.origin_start, kBlockBytes);
  const uint64_t index = (RoundDown(piece.range.start, kBlockBytes) - first_block) / kBlockBytes;
  return piece.extent.checksums + index * sizeof(uint32_t);
}

// Whether its checksums are of exactly its bytes.
bool IsWhole(const Piece& piece) {
  const ByteRange origin = piece.extent.origin();
  return (piece.range.start % kBlockBytes == 0 || piece.range.start == origin.start) &&
         (piece.range.end % kBlockBytes == 0 || piece.range.end == origin.end);
}

// Whether `next` goes on where `piece` ends, on the volume, in the segment and in the frame's checksums.
bool LieTogether(const Piece& piece, const Piece& next) {
  return piece.segment == next.segment && piece.overlay == next.overlay && IsWhole(piece) &&
         IsWhole(next) && PositionOf(piece) + piece.range.size() == PositionOf(next) &&
         ChecksumsOf(piece) + ChecksumCount(piece.range) * sizeof(uint32_t) == ChecksumsOf(next);
}

bool IsZero(std::span<const char> data) {
  return data.empty() ||
         (data[0] == 0 && std::memcmp(data.data(), data.data() + 1, data.size() - 1) == 0);
}

ByteRange WholeBlocks(ByteRange range) {
  const uint64_t start = RoundUp(range.start, kBlockBytes);
  return {start, std::max(start, RoundDown(range.end, kBlockBytes))};
}

}  // namespace

void Copier::FreeDeleter::operator()(char* memory) const { std::free(memory); }

Copier::Copier(DamageCallback on_damage)
    : on_damage_(std::move(on_damage)),
      buffer_(static_cast<char*>(std::aligned_alloc(kBlockBytes, kCopyBytesMax))) {
  UNDERSTUDY_CHECK(buffer_ != nullptr, "no memory for a job's buffer");
}

std::span<char> Copier::Buffered(ByteRange range) const {
  return {buffer_.get() + (range.start - range_.start), range.size()};
}

absl::Status Copier::Copy(SecondaryDisk& disk, std::span<const Piece> pieces) {
  for (Piece piece : pieces) {
    ByteRange rest = piece.range;
    while (!rest.empty()) {
      const bool follows = !step_.empty() && step_.back().range.end == rest.start &&
                           step_.back().extent.zero() == piece.extent.zero();
      if (!follows) RETURN_IF_ERROR(CopyStep(disk));
      const uint64_t from = step_.empty() ? rest.start : step_.front().range.start;
      const uint64_t limit = RoundDown(from, kCopyBytesMax) + kCopyBytesMax;
      piece.range = piece.extent.zero() ? rest : rest.Intersect({rest.start, limit});
      if (piece.range.empty()) {
        RETURN_IF_ERROR(CopyStep(disk));
        continue;
      }
      step_.push_back(piece);
      rest.start = piece.range.end;
    }
  }
  return CopyStep(disk);
}

absl::Status Copier::CopyStep(SecondaryDisk& disk) {
  if (step_.empty()) return absl::OkStatus();
  range_ = {step_.front().range.start, step_.back().range.end};
  absl::Status status;
  if (step_.front().extent.zero()) {
    counts_.hole_bytes += range_.size();
    status = disk.PunchHole(range_);
  } else {
    status = ReadStep();
    if (absl::IsDataLoss(status)) return CopyEach(disk, status);
    if (status.ok()) status = WriteStep(disk);
  }
  step_.clear();
  return status;
}

// The pieces of the step one by one, around the damaged ones.
absl::Status Copier::CopyEach(SecondaryDisk& disk, const absl::Status& damage) {
  const std::vector<Piece> pieces = std::exchange(step_, {});
  if (pieces.size() == 1) {
    on_damage_(range_, damage);
    return absl::OkStatus();
  }
  for (const Piece& piece : pieces) {
    step_ = {piece};
    RETURN_IF_ERROR(CopyStep(disk));
  }
  return absl::OkStatus();
}

// ---- from the segments -------------------------------------------------------------------------------------------------------

absl::Status Copier::ReadStep() {
  sources_.clear();
  for (size_t first = 0; first < step_.size();) {
    size_t end = first + 1;
    while (end < step_.size() && LieTogether(step_[end - 1], step_[end])) ++end;
    const ByteRange range = {step_[first].range.start, step_[end - 1].range.end};
    sources_.push_back({step_[first].segment.get(), PositionOf(step_[first]), range});
    RETURN_IF_ERROR(ReadTogether(std::span(step_).subspan(first, end - first), Buffered(range)));
    first = end;
  }
  return absl::OkStatus();
}

absl::Status Copier::ReadTogether(std::span<const Piece> pieces, std::span<char> out) {
  if (pieces.size() > 1) {
    RETURN_IF_ERROR(pieces[0].segment->file().Read(PositionOf(pieces[0]), out));
    computed_.clear();
    for (const Piece& piece : pieces) {
      const std::span<char> part = Buffered(piece.range);
      AppendChecksums(piece.range, {part.data(), part.size()}, &computed_);
    }
    stored_.resize(computed_.size());
    RETURN_IF_ERROR(pieces[0].segment->ReadChecksums(ChecksumsOf(pieces[0]), stored_));
    if (computed_ == stored_) return absl::OkStatus();
  }
  for (const Piece& piece : pieces) {  // each by itself: this names the damaged one
    RETURN_IF_ERROR(
        piece.overlay->Read(piece.segment.get(), piece.extent, piece.range, Buffered(piece.range)));
  }
  return absl::OkStatus();
}

// ---- to the disk ---------------------------------------------------------------------------------------------------------------

// Cuts the step into runs of zero blocks and data.
absl::Status Copier::WriteStep(SecondaryDisk& disk) {
  uint64_t data_start = range_.start;  // not written yet
  for (uint64_t at = RoundUp(range_.start, kBlockBytes); at + kBlockBytes <= range_.end;) {
    ByteRange zeroes = {at, at};
    while (zeroes.end + kBlockBytes <= range_.end &&
           IsZero(Buffered({zeroes.end, zeroes.end + kBlockBytes}))) {
      zeroes.end += kBlockBytes;
    }
    at = zeroes.end + kBlockBytes;  // the block behind the zeroes is data
    if (zeroes.empty()) continue;
    const bool punch = zeroes.size() >= kHoleBytesMin;
    if (!punch) {
      ASSIGN_OR_RETURN(const bool is_hole, disk.IsHole(zeroes));
      if (!is_hole) continue;
    }
    RETURN_IF_ERROR(WriteData(disk, {data_start, zeroes.start}));
    if (punch) RETURN_IF_ERROR(disk.PunchHole(zeroes));
    (punch ? counts_.hole_bytes : counts_.skipped_bytes) += zeroes.size();
    data_start = zeroes.end;
  }
  return WriteData(disk, {data_start, range_.end});
}

absl::Status Copier::WriteData(SecondaryDisk& disk, ByteRange range) {
  for (const Source& source : sources_) {
    if (!disk.can_clone()) break;
    const ByteRange part = WholeBlocks(source.range.Intersect(range));
    const uint64_t position = source.position + (part.start - source.range.start);
    if (part.size() < kCloneBytesMin || position % kBlockBytes != 0) continue;
    ASSIGN_OR_RETURN(const bool cloned, disk.Clone(source.segment->file(), position, part));
    if (!cloned) break;
    counts_.cloned_bytes += part.size();
    RETURN_IF_ERROR(WriteBuffered(disk, {range.start, part.start}));
    range.start = part.end;
  }
  return WriteBuffered(disk, range);
}

absl::Status Copier::WriteBuffered(SecondaryDisk& disk, ByteRange range) {
  if (range.empty()) return absl::OkStatus();
  const std::span<char> data = Buffered(range);
  const iovec whole = {.iov_base = data.data(), .iov_len = data.size()};
  counts_.written_bytes += range.size();
  return disk.Write(range.start, std::span(&whole, 1));
}

absl::Status Copier::WriteBack(SecondaryDisk& disk, ByteRange range, uint64_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  if (&disk != dirty_disk_) {  // what waits for the one before is left to its Sync()
    dirty_disk_ = &disk;
    filling_ = leaving_ = {};
  }
  if (filling_.bytes == 0) filling_.range.start = range.start;
  filling_.range.end = range.end;
  filling_.bytes += bytes;
  RETURN_IF_ERROR(disk.WriteBack(range, /*wait=*/false));
  if (filling_.bytes < kDirtyBatchBytes) return absl::OkStatus();
  std::swap(filling_, leaving_);
  const ByteRange left = filling_.range;
  filling_ = {};
  return left.empty() ? absl::OkStatus() : disk.WriteBack(left, /*wait=*/true);
}

}  // namespace understudy::storage
