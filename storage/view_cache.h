// storage/view_cache.h
//
// ViewCache makes reads through many committed epochs cost what they cost through one: per region of a volume it keeps what all of
// them together hold, as of the newest one when it was last looked up. A checkpoint changes nothing in it; the next look at a
// region asks the epochs that are newer than its entry and brings it up to date.
//
// Why an entry stays right: committed overlays never change. What it takes from one that was applied and dropped since is on the
// secondary disk, as no newer one up to the entry's covers it. An entry that knows more than the reader's chain, because a
// failover went back to an older epoch or the reader is late, is not used.
// Holds    no overlay and no segment: it names overlays by id, and the reader's chain says whether they are still there.
// Memory   64 bytes per extent, of the extent maps' budget, and the first to go.
// Threads  any.
#ifndef UNDERSTUDY_STORAGE_VIEW_CACHE_H_
#define UNDERSTUDY_STORAGE_VIEW_CACHE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"

#include "storage/base/byte_range.h"
#include "storage/base/mutex.h"
#include "storage/extent_memory.h"
#include "storage/piece.h"

namespace understudy::storage {

class ViewCache : private ExtentMemory::Holder {
 public:
  // `memory` outlives it; `age` as in ExtentMemory::Enter().
  ViewCache(uint64_t age, ExtentMemory& memory);
  ~ViewCache() override;

  // As ResolveOver() with the disk. I/O when extents are cold: REQUIRES no locks.
  absl::Status Resolve(std::span<const std::shared_ptr<Overlay>> committed, VolumeId volume,
                       ByteRange range, std::vector<Piece>* pieces);

 private:
  struct Held {
    ByteRange range;
    OverlayId overlay;
    Extent extent;
  };
  struct Entry {
    OverlayId through;            // the newest overlay it knows
    std::vector<Held> held;       // in order
    mutable uint8_t touched = 1;  // since Evict() looked; readers set it
  };
  using Key = std::pair<uint32_t, uint32_t>;  // volume, region

  absl::Status ResolveRegion(std::span<const std::shared_ptr<Overlay>> committed, VolumeId volume,
                             ByteRange range, std::vector<Piece>* pieces);
  // The part of the entry that overlaps `range`, if it is as of `newest`; else all of it, if older.
  Entry Find(const Key& key, OverlayId newest, ByteRange range) const;
  void Store(const Key& key, Entry entry);
  uint64_t Evict(uint64_t bytes, bool* done) override;
  static int64_t BytesOf(const Entry& entry);

  ExtentMemory& memory_;
  const uint64_t age_;
  mutable base::SharedMutex mutex_;  // a leaf; no I/O
  absl::btree_map<Key, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::optional<Key> evict_next_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_VIEW_CACHE_H_
