// storage/overlay.h
//
// Overlay is the writes of one epoch over its parent, for every volume of a group: an extent map per volume, and the segments
// that hold the bytes. Hidden overlays become committed ones; the active overlay is dropped at a checkpoint.
//
// State    open, then sealed, then committed and applied, or dropped. A sealed overlay never changes.
// Memory   regions whose changes are all in the index may become cold at any time (ExtentMemory), sealed or not. One that was
//          loaded from the index begins cold as a whole: loading costs nothing per extent.
// Threads  any may read. Changes: one at a time, each numbered and queued for the index in the order it was made.
// Lifetime its segments and its records in the index live as long as it does: it may end only when its drop is durable, or at
//          shutdown.
// Errors   kDataLoss when a record of the index cannot be read: never a silent miss.
//
// Why a cold read is right: it reads the index at one instant, without a lock. The region was cold when the reader looked, so
// the index had all of it then; and changes go to the index whole and in order. So the reader sees the region as it was at some
// instant between its look and its read, even if a writer loaded and changed it meanwhile.
#ifndef UNDERSTUDY_STORAGE_OVERLAY_H_
#define UNDERSTUDY_STORAGE_OVERLAY_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/byte_range.h"
#include "storage/base/mutex.h"
#include "storage/extent_map.h"
#include "storage/extent_memory.h"
#include "storage/format.h"
#include "storage/segment_log.h"

namespace understudy::storage {

class Index;

// What one change did, for the index.
struct OverlayChange {
  uint64_t number = 0;  // in its overlay, from 1
  std::vector<ExtentMutation> mutations;
  absl::InlinedVector<CoveredBytes, 2>
      covered;  // by VolumeId: by the overlay, after it; empty: no change
};

// An extent of an overlay. It can be read as long as this lives.
struct OverlayExtent {
  ByteRange range;
  Extent extent;
  std::shared_ptr<Segment> segment;  // nullptr: zeroes
};

// The segments that `record` names, each as `find` knows it by its ordinal. kDataLoss when one is missing, or is not the one that
// the record was written with.
absl::StatusOr<std::vector<std::shared_ptr<Segment>>> SegmentsOf(
    const OverlayRecord& record,
    absl::FunctionRef<std::shared_ptr<Segment>(uint32_t ordinal)> find);

class Overlay : private ExtentMemory::Holder {
 public:
  enum class Origin { kNew, kIndex };
  // `index` and `memory` outlive it.
  Overlay(OverlayId id, OverlayRecord record, size_t volume_count, Index& index,
          ExtentMemory& memory, Origin origin);
  ~Overlay() override;

  // Keeps the regions of what is about to change in memory until it ends. The overlay outlives it.
  class Hold {
   public:
    Hold(Overlay& overlay, std::span<const Operation> operations);
    Hold(Overlay& overlay, VolumeId volume, ByteRange range);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    // Reads what is cold from the index: I/O, no locks. REQUIRED before a change, unless the overlay is not in the index.
    absl::Status Load();

   private:
    friend class Overlay;
    bool Covers(VolumeId volume, ByteRange region) const;
    // The first cold run that an operation from number `*next` on touches; advances it to that operation.
    ByteRange NextCold(size_t* next) const;

    Overlay& overlay_;
    const Operation single_;
    const std::span<const Operation> operations_;
  };

  OverlayId id() const { return id_; }
  // As it was when the overlay was opened or loaded.
  const OverlayRecord& record() const { return record_; }
  // As it is when the index has the changes up to the one after which it covers `covered`.
  OverlayRecord RecordAfter(std::span<const CoveredBytes> covered) const;
  Epoch epoch() const { return record_.epoch; }
  // When its checkpoint was; 0 before.
  int64_t committed_micros() const { return committed_micros_.load(std::memory_order_relaxed); }
  // Of a committed one: what it commits is no state of the primary's disks, and nobody may go back to it.
  bool first_sync_step() const { return committed_micros() == 0; }
  void SetCommitted(int64_t unix_micros) { committed_micros_.store(unix_micros); }
  size_t volume_count() const { return bytes_.size(); }
  // What it covers.
  uint64_t bytes(VolumeId volume) const {
    return bytes_[volume.value()].load(std::memory_order_relaxed);
  }
  uint64_t bytes() const;
  std::vector<CoveredBytes> covered() const;
  uint64_t data_bytes() const;  // without zeroes

  // Takes the operations of a frame that was appended to this overlay's log. REQUIRES: a loaded Hold on them.
  OverlayChange Apply(std::span<const Operation> operations,
                      const std::shared_ptr<Segment>& segment, OperationPlacement placement);
  // REQUIRES: a loaded Hold on it.
  OverlayChange Erase(VolumeId volume, ByteRange range);
  // As if something had changed.
  OverlayChange NoChange() const;
  // The changes up to `number` are in the index: their regions may become cold.
  void SetIndexed(uint64_t number);

  // nullptr: zeroes; kDataLoss: it holds no such segment.
  absl::StatusOr<std::shared_ptr<Segment>> SegmentOf(const Extent& extent) const;
  // The segments it holds, by ordinal.
  std::map<uint32_t, std::shared_ptr<Segment>> segments() const;
  uint64_t segment_bytes() const;  // written to them
  void HoldSegment(const std::shared_ptr<Segment>& segment);
  // In two steps, for a segment that no extent names any more: first it is no longer recorded; then, once the index knows durably,
  // it is let go of.
  void RetireSegment(uint32_t ordinal);
  void ReleaseSegment(uint32_t ordinal);

  // Appends the extents that overlap `range`, in order. I/O when some are cold: REQUIRES no locks then. What is read of an active
  // overlay stays in memory, as the VM comes back to what it wrote; of others it does not.
  absl::Status Extents(VolumeId volume, ByteRange range, std::vector<OverlayExtent>* extents);
  // The first byte at or after `offset` that it holds. I/O likewise.
  absl::StatusOr<std::optional<uint64_t>> Next(VolumeId volume, uint64_t offset) const;
  // Reads `range`, which must lie inside the extent, from its segment (nullptr: zeroes), and checks every block it touches:
  // kDataLoss on a mismatch. Any thread.
  absl::Status Read(const Segment* segment, const Extent& extent, ByteRange range,
                    std::span<char> out) const;

  uint64_t resident_extents() const;
  void CheckInvariants() const;

 private:
  uint64_t Evict(uint64_t bytes, bool* done) override;

  absl::Status ReadIndex(VolumeId volume, ByteRange range, size_t count_max,
                         std::vector<ExtentEntry>* entries) const;
  absl::Status ReadBlocks(const Segment& segment, const Extent& extent, ByteRange blocks,
                          std::span<char> out) const;
  absl::Status Name(std::span<const ExtentEntry> entries, std::vector<OverlayExtent>* extents) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  void FinishChange(OverlayChange* change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Account() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const OverlayId id_;
  const OverlayRecord record_;
  Index& index_;
  ExtentMemory& memory_;
  std::atomic<int64_t> committed_micros_;
  std::vector<std::atomic<uint64_t>> bytes_;  // by VolumeId

  mutable base::SharedMutex mutex_;                                                // a leaf; no I/O
  std::vector<ExtentMap> maps_ ABSL_GUARDED_BY(mutex_);                            // by VolumeId
  std::map<uint32_t, std::shared_ptr<Segment>> segments_ ABSL_GUARDED_BY(mutex_);  // by ordinal
  std::set<uint32_t> retired_ ABSL_GUARDED_BY(mutex_);                             // of segments_
  std::vector<const Hold*> holds_ ABSL_GUARDED_BY(mutex_);
  uint64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t indexed_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t accounted_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // as memory_ knows it
  // Where Evict() goes on.
  size_t evict_volume_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t evict_region_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_OVERLAY_H_
