// storage/extent_map.h
//
// ExtentMap answers "where do the current bytes of this range live?" for one volume in one overlay. A range it does not cover
// belongs to the parent overlay and, below the oldest, to the secondary disk.
//
// Shape    ordered, non-overlapping [start, end) -> Extent, keyed by end: the first key above an offset is the only extent
//          that can cover it. Each entry mirrors one record of the index (docs/on_disk_format.md, "extents").
// Units    bytes, multiples of a 512-byte sector; half-open ranges.
// Invariants (CheckInvariants(), called by every test after every mutation)
//          1. extents never overlap and are never empty;  2. an extent lies inside its origin;
//          3. bytes() is the sum of the extents' sizes.
// Threads  none of its own: one owner while it changes, any number of readers once it does not.
// Source   end-keyed extents: Linux bcache.
#ifndef UNDERSTUDY_STORAGE_EXTENT_MAP_H_
#define UNDERSTUDY_STORAGE_EXTENT_MAP_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/btree_map.h"

#include "storage/base/byte_range.h"
#include "storage/format.h"

namespace understudy::storage {

// What one change did to the records of the index: in order, a record set (extent) or removed (nothing).
struct ExtentMutation {
  VolumeId volume;
  uint64_t end = 0;
  std::optional<Extent> extent;
};

class ExtentMap {
 public:
  // Makes `extent` the current content of [extent.start, end), splitting and trimming what it covers, and appends what
  // happened to the records to `mutations`. REQUIRES: sector-aligned, not empty, inside its origin.
  void Put(VolumeId volume, uint64_t end, const Extent& extent,
           std::vector<ExtentMutation>* mutations);
  // Covers nothing of `range` any more.
  void Erase(VolumeId volume, ByteRange range, std::vector<ExtentMutation>* mutations);
  // Takes a record of the index as it is. REQUIRES: called in key order on a map that got nothing else.
  void Load(uint64_t end, const Extent& extent);

  struct Entry {
    ByteRange range;
    Extent extent;
  };
  // The first extent that ends after `offset`, if any: it covers `offset` or begins later.
  std::optional<Entry> Find(uint64_t offset) const;

  bool empty() const { return extents_.empty(); }
  size_t size() const { return extents_.size(); }
  uint64_t bytes() const { return bytes_; }

  void CheckInvariants() const;

 private:
  absl::btree_map<uint64_t, Extent> extents_;  // by end
  uint64_t bytes_ = 0;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_EXTENT_MAP_H_
