// client/dirty_map.h
//
// DirtyMap knows which ranges of one volume are missing at the standby: writes that were skipped, refused or dropped from the
// window. A resync takes them from here.
//
// Shape    blocks of 4 KiB in regions of 4 MiB; a region is clean (absent), partly dirty (a bitset of its 1024 blocks) or wholly
//          dirty (no bitset).
// Memory   the bitsets take at most `bytes_max`; the region whose bitset would be one too many becomes wholly dirty instead: more is
//          sent than necessary, never less. Beside the bitsets, about 20 bytes for each region that is not clean.
// Units    bytes; half-open ranges; REQUIRES everywhere: they end within the volume.
// Threads  none of its own: the owner guards it.
// Source   the coarsening: Linux md's bitmap counters; the bitset per region: QEMU's HBitmap.
#ifndef UNDERSTUDY_CLIENT_DIRTY_MAP_H_
#define UNDERSTUDY_CLIENT_DIRTY_MAP_H_

#include <bitset>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "storage/base/byte_range.h"

namespace understudy::client {

class DirtyMap {
 public:
  static constexpr uint64_t kRegionBytes = 4 << 20;

  // Of a volume of `size_bytes`; `bytes_max` may be 0: then every dirty region is wholly dirty.
  DirtyMap(uint64_t size_bytes, uint64_t bytes_max);
  DirtyMap(DirtyMap&&) = default;
  DirtyMap& operator=(DirtyMap&&) = default;

  // Outward to whole blocks.
  void Add(ByteRange range);
  // Inward: only blocks that it covers whole (the volume's short last block when it reaches the volume's end). A wholly dirty region
  // of which it covers a part gets a bitset where `bytes_max` has room for one, else stays wholly dirty.
  void Remove(ByteRange range);
  void Clear();
  void AddAll();
  // Adds what `other`, of the same size, has.
  void Merge(const DirtyMap& other);

  // The first dirty run that ends after `from`, from the block of `from` on; of at most `length_max` (at least one block), ending
  // with the volume at the latest. None: nothing is dirty there.
  std::optional<ByteRange> Next(uint64_t from, uint64_t length_max) const;
  bool Intersects(ByteRange range) const;
  uint64_t bytes() const {
    return bytes_;
  }  // that are dirty; no block past the volume's end counts
  bool empty() const { return regions_.empty(); }
  uint64_t size_bytes() const { return size_bytes_; }

  // For a file, with version and CRC32C.
  std::string Encode() const;
  // kDataLoss when it is damaged; kFailedPrecondition when a newer release wrote it or it is of a volume of another size. A smaller
  // `bytes_max` coarsens.
  static absl::StatusOr<DirtyMap> Decode(absl::string_view encoded, uint64_t size_bytes,
                                         uint64_t bytes_max);

 private:
  static constexpr uint64_t kRegionBlocks = kRegionBytes / kBlockBytes;
  using Blocks = std::bitset<kRegionBlocks>;
  using Regions = absl::btree_map<uint64_t, std::unique_ptr<Blocks>>;  // null: wholly dirty

  ByteRange RegionRange(uint64_t region) const;
  uint64_t BlocksIn(uint64_t region) const;  // fewer in the last one
  uint64_t BytesOf(uint64_t region, const Blocks* blocks) const;
  bool RoomForBitset() const;
  void AddToRegion(uint64_t region, uint64_t first, uint64_t last);
  void RemoveFromRegion(uint64_t region, uint64_t first, uint64_t last);
  void MakeWhole(uint64_t region, std::unique_ptr<Blocks>& blocks);
  void Drop(Regions::iterator at);

  uint64_t size_bytes_;
  uint64_t bytes_max_;
  uint64_t bytes_ = 0;
  uint64_t bitsets_ = 0;
  Regions regions_;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_DIRTY_MAP_H_
