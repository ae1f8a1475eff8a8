// storage/overlay.h
//
// Overlay is the writes of one epoch over its parent, for every volume of a group: an extent map per volume, and the segments
// that hold the bytes. Hidden overlays become committed ones; the active overlay is dropped at a checkpoint.
//
// State    open, then sealed, then committed and applied, or dropped. A sealed overlay never changes.
// Threads  the maps follow ExtentMap's rule; bytes() may be read by anybody at any time.
// Lifetime its segments live as long as it does: it may end only when its drop is durable, or at shutdown.
#ifndef UNDERSTUDY_STORAGE_OVERLAY_H_
#define UNDERSTUDY_STORAGE_OVERLAY_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"

#include "storage/base/byte_range.h"
#include "storage/extent_map.h"
#include "storage/format.h"
#include "storage/segment_log.h"

namespace understudy::storage {

class Overlay {
 public:
  Overlay(OverlayId id, OverlayRecord record, size_t volume_count)
      : id_(id), record_(record), maps_(volume_count), bytes_(volume_count) {}

  OverlayId id() const { return id_; }
  const OverlayRecord& record() const { return record_; }
  Epoch epoch() const { return record_.epoch; }
  const ExtentMap& map(VolumeId volume) const { return maps_[volume.value()]; }
  size_t volume_count() const { return maps_.size(); }
  uint64_t bytes(VolumeId volume) const {
    return bytes_[volume.value()].load(std::memory_order_relaxed);
  }
  uint64_t bytes() const;

  // Takes the operations of a frame that was appended to this overlay's log.
  void Apply(std::span<const Operation> operations, const std::shared_ptr<Segment>& segment,
             OperationPlacement placement, std::vector<ExtentMutation>* mutations);
  void Erase(VolumeId volume, ByteRange range, std::vector<ExtentMutation>* mutations);
  void Load(VolumeId volume, uint64_t end, const Extent& extent);
  void Hold(const std::shared_ptr<Segment>& segment);

  // Where the extent's bytes are; nullptr for zeroes. Under the same rule as the maps; the segment lives as long as the overlay.
  const Segment* SegmentOf(const Extent& extent) const;
  // Reads `range`, which must lie inside the extent, from `segment`, which SegmentOf() gave, and checks every block it
  // touches: kDataLoss on a mismatch. Any thread.
  absl::Status Read(const Segment* segment, const Extent& extent, ByteRange range,
                    std::span<char> out) const;

 private:
  absl::Status ReadBlocks(const Segment& segment, const Extent& extent, ByteRange blocks,
                          std::span<char> out) const;
  void UpdateBytes(VolumeId volume) {
    bytes_[volume.value()].store(maps_[volume.value()].bytes(), std::memory_order_relaxed);
  }

  const OverlayId id_;
  const OverlayRecord record_;                // as it was when the overlay was opened or loaded
  std::vector<ExtentMap> maps_;               // by VolumeId
  std::vector<std::atomic<uint64_t>> bytes_;  // by VolumeId
  std::map<uint32_t, std::shared_ptr<Segment>> segments_;  // by ordinal
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_OVERLAY_H_
