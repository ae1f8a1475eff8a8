// storage/extent_map.h
//
// ExtentMap answers "where do the current bytes of this range live?" for one volume in one overlay. A range it does not cover
// belongs to the parent overlay and, below the oldest, to the secondary disk.
//
// Shape    ordered, non-overlapping [start, end) -> Extent. Each entry mirrors one record of the index
//          (docs/on_disk_format.md, "extents"). The volume is divided into regions of kRegionBytes; an extent is cut at their bounds,
//          so a region is complete in itself: a sorted array of 20-byte slots, in a tree by region.
// Cold     a region may be cold: its extents are in the index only. Whoever changes a range makes its regions resident first
//          (Overlay::Hold); who only looks may read the index instead (Overlay::Extents()).
// Units    bytes, multiples of a 512-byte sector; half-open ranges.
// Invariants (CheckInvariants(), called by every test after every mutation)
//          1. extents never overlap, are never empty and lie in one region;  2. an extent lies inside its origin;
//          3. covered() is the sum of the extents' sizes, cold ones included;  4. a cold region has no slots.
// Threads  none of its own: Overlay guards it.
#ifndef UNDERSTUDY_STORAGE_EXTENT_MAP_H_
#define UNDERSTUDY_STORAGE_EXTENT_MAP_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
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

struct ExtentEntry {
  ByteRange range;
  Extent extent;
};

class ExtentMap {
 public:
  ExtentMap() = default;
  // All regions are cold, and cover this much together.
  static ExtentMap Cold(CoveredBytes covered);

  // Makes `extent` the current content of [extent.start, end), splitting and trimming what it covers, and appends what
  // happened to the records to `mutations`. `change` numbers it: Evict() leaves regions alone whose change is not in the index.
  // REQUIRES: sector-aligned, not empty, inside its origin; no region of the range is cold.
  void Put(VolumeId volume, uint64_t end, const Extent& extent, uint64_t change,
           std::vector<ExtentMutation>* mutations);
  // Covers nothing of `range` any more. REQUIRES: no region of it is cold.
  void Erase(VolumeId volume, ByteRange range, uint64_t change,
             std::vector<ExtentMutation>* mutations);

  // Appends the resident extents that overlap `range`, in order.
  void Collect(ByteRange range, std::vector<ExtentEntry>* entries) const;
  // The first byte at or after `offset` that a resident extent holds.
  std::optional<uint64_t> Next(uint64_t offset) const;

  // The first run of cold regions that touches `range`, as whole regions; empty: none.
  ByteRange NextCold(ByteRange range) const;
  // `run`, as NextCold() gave it, becomes resident with what the index holds of it.
  void Install(ByteRange run, std::span<const ExtentEntry> entries);
  // Looks at up to `regions_max` regions from number `*cursor` on and makes cold which were not touched since it looked last, whose
  // changes up to `indexed` are in the index, and which `held` does not want, until `bytes` are freed. Advances the cursor; it
  // is 0 again at the end. Returns the bytes freed.
  uint64_t Evict(uint32_t* cursor, size_t regions_max, uint64_t bytes, uint64_t indexed,
                 const std::function<bool(ByteRange)>& held);

  const CoveredBytes& covered() const { return covered_; }
  uint64_t memory_bytes() const { return memory_bytes_; }  // about what the map takes
  uint64_t resident_extents() const;                       // counts them

  void CheckInvariants() const;

 private:
  // An extent within its region; sectors, but position and checksums.
  struct Slot {
    uint16_t start;
    uint16_t end;
    uint16_t origin_before;  // from origin_start to start
    uint16_t origin_sectors;
    uint32_t segment;
    uint32_t position;
    uint32_t checksums;

    void TrimStart(uint16_t to) {
      if (segment != 0) origin_before = static_cast<uint16_t>(origin_before + (to - start));
      start = to;
    }
  };
  static_assert(sizeof(Slot) == 20);
  struct Region {
    std::vector<Slot> slots;
    uint64_t changed = 0;         // number of the newest change
    mutable uint8_t touched = 1;  // since Evict() looked; readers set it
  };

  static Slot Pack(uint64_t base, const ExtentEntry& entry);
  static ExtentEntry Unpack(uint64_t base, const Slot& slot);
  // Returns where in the slots the first one behind `range` is.
  size_t EraseSlots(VolumeId volume, uint64_t base, ByteRange range, Region& region,
                    std::vector<ExtentMutation>* mutations);
  void Insert(Region& region, size_t at, const Slot& slot);
  void Uncover(const Slot& slot, uint16_t start, uint16_t end);
  uint64_t FindCold(uint64_t from, uint64_t to, bool cold) const;
  void SetCold(uint64_t region, bool cold);

  absl::btree_map<uint32_t, Region> regions_;  // by start / kRegionBytes; none of them cold
  std::vector<uint64_t> cold_;                 // a bit per region; empty until one is evicted ...
  bool rest_cold_ = false;                     // ... of those behind it
  CoveredBytes covered_;
  uint64_t memory_bytes_ = 0;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_EXTENT_MAP_H_
