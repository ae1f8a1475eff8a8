// storage/failback_map.h
//
// FailbackMap knows where the disks of a group that has failed over may differ from those of the primary that it had: the primary's
// writes that the failover gave up, and whatever the VM has written since. A failback compares these regions and no others.
//
// Shape    regions of 64 KiB, a bit each, in the index as records of 64 (docs/on_disk_format.md). Bits are only ever added; Remove of
//          the group takes them all.
// Order    a region is durable here before a byte of it changes on the disk: the first write to a region costs a synced batch.
//          Concurrent ones share it, and a writer that goes on behind a marked region finds the next 1 MiB marked ahead.
// Memory   2 MiB per TiB of a volume, once there is a mark.
// Errors   of the index. What could not be marked once is lost for good: mark() fails from then on, and the map says nothing.
// Threads  any.
// Source   marks before writes, ahead of a sequential writer: the activity log and the bitmap of DRBD; client/intent_log.h.
#ifndef UNDERSTUDY_STORAGE_FAILBACK_MAP_H_
#define UNDERSTUDY_STORAGE_FAILBACK_MAP_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"

#include "storage/base/byte_range.h"
#include "storage/base/mutex.h"
#include "storage/piece.h"

namespace understudy::storage {

class Index;

class FailbackMap {
 public:
  static constexpr uint64_t kRegionBytes = 64 << 10;

  // Of group number `group`, with volumes of these sizes. `index` outlives it.
  FailbackMap(Index& index, uint64_t group, std::vector<uint64_t> volume_bytes);

  // What the index has of it. Before anything else.
  absl::Status Load();
  // Durable when it returns OK, in one batch. REQUIRES: the ranges are not empty, and end within
  // the volume.
  absl::Status Mark(VolumeId volume, std::span<const ByteRange> ranges);
  // Likewise every region that one of the overlays touches, in few batches.
  absl::Status MarkOverlays(const OverlayList& overlays);

  // Whole regions in order, but for the volume's end.
  std::vector<ByteRange> Runs(VolumeId volume) const;
  uint64_t bytes(VolumeId volume) const;
  uint64_t regions() const;  // that are marked, of all volumes

 private:
  using Words = std::vector<uint64_t>;                // the lowest bit is the first region
  using WordKey = std::pair<uint32_t, uint64_t>;      // volume, number of the word
  using Wanted = absl::btree_map<WordKey, uint64_t>;  // bits to add

  static constexpr uint64_t kWordRegions = 64;
  // Calls `visit` with the number of each word that `first` to `last` touch, and their bits in it.
  template <typename Visit>
  static void ForEachWord(uint64_t first, uint64_t last, Visit visit);
  bool Marked(VolumeId volume, uint64_t first, uint64_t last) const ABSL_LOCKS_EXCLUDED(mutex_);
  void Want(VolumeId volume, uint64_t first, uint64_t last)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(store_mutex_);
  absl::Status WantOverlay(Overlay& overlay, VolumeId volume);
  absl::Status AwaitStored(VolumeId volume, uint64_t first, uint64_t last)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(store_mutex_);
  void StoreWanted() ABSL_EXCLUSIVE_LOCKS_REQUIRED(store_mutex_);
  uint64_t RegionsIn(VolumeId volume) const;

  Index& index_;
  const uint64_t group_;
  const std::vector<uint64_t> volume_bytes_;

  mutable base::SharedMutex mutex_;                    // a leaf; no I/O
  std::vector<Words> marked_ ABSL_GUARDED_BY(mutex_);  // durable ones, by VolumeId; empty: none
  base::Mutex store_mutex_;                            // not held over I/O; before mutex_
  base::CondVar stored_;
  bool storing_ ABSL_GUARDED_BY(store_mutex_) = false;  // somebody is, for all who wait
  Wanted wanted_ ABSL_GUARDED_BY(store_mutex_);
  absl::Status failed_ ABSL_GUARDED_BY(store_mutex_);
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_FAILBACK_MAP_H_
