// storage/base/byte_range.h
//
// A half-open run of bytes of a volume or file. Everything in Understudy that names a piece of a disk uses this type.
#ifndef UNDERSTUDY_STORAGE_BASE_BYTE_RANGE_H_
#define UNDERSTUDY_STORAGE_BASE_BYTE_RANGE_H_

#include <algorithm>
#include <compare>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"

namespace understudy {

inline constexpr uint64_t kSectorBytes = 512;  // the alignment of every request
inline constexpr uint64_t kBlockBytes = 4096;  // the alignment of frames and the unit of checksums

struct ByteRange {
  uint64_t start = 0;
  uint64_t end = 0;  // one past the last byte

  static ByteRange OfLength(uint64_t start, uint64_t length) { return {start, start + length}; }
  uint64_t size() const { return end - start; }
  bool empty() const { return start >= end; }
  bool Contains(const ByteRange& other) const { return start <= other.start && other.end <= end; }
  bool Overlaps(const ByteRange& other) const { return start < other.end && other.start < end; }
  ByteRange Intersect(const ByteRange& other) const {
    const uint64_t from = std::max(start, other.start);
    return {from, std::max(from, std::min(end, other.end))};
  }
  bool SectorAligned() const { return start % kSectorBytes == 0 && end % kSectorBytes == 0; }
  std::string ToString() const { return absl::StrCat("[", start, ", ", end, ")"); }

  friend auto operator<=>(const ByteRange&, const ByteRange&) = default;
};

// What becomes of the disk space below a range that is made to read as zeroes.
enum class ZeroedSpace : uint8_t {
  kGivenBack,  // where that can be done
  kKept,       // it is there from then on: no later write finds the file system full
};

constexpr uint64_t RoundDown(uint64_t value, uint64_t unit) { return value - value % unit; }
constexpr uint64_t RoundUp(uint64_t value, uint64_t unit) {
  return RoundDown(value + unit - 1, unit);
}

}  // namespace understudy

#endif  // UNDERSTUDY_STORAGE_BASE_BYTE_RANGE_H_
