// storage/verifier.h
//
// Verifier reads back what the index says of one overlay, and the bytes it names, step by step: every record decodes, lies inside
// its volume, overlaps no other and names a segment that is there; every block has its checksum. It needs no lock: it sees
// what is on disk, not what is in memory. The scrub and understudy-inspect use it.
//
// Threads  one at a time. The overlay's records and segments must stay while a step runs.
#ifndef UNDERSTUDY_STORAGE_VERIFIER_H_
#define UNDERSTUDY_STORAGE_VERIFIER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"

#include "storage/index.h"
#include "storage/replica.h"

namespace understudy::storage {

class Segment;

// What is wrong, and where. An empty range: not known, or none.
struct Damage {
  std::optional<VolumeId> volume;
  ByteRange range;
  absl::Status status;  // kDataLoss, or the error of the file system
};

class Verifier {
 public:
  // nullptr: not there.
  using FindSegment = std::function<std::shared_ptr<Segment>(uint32_t ordinal)>;

  enum class Depth { kRecords, kData };  // whether the bytes are read, too

  // `index` and `volumes` outlive it.
  Verifier(const Index& index, std::span<const VolumeInfo> volumes, OverlayId overlay,
           FindSegment find_segment, Depth depth = Depth::kData);
  // Is called with every record, before it is checked.
  void SetVisitor(std::function<void(const FoundExtent&)> visitor) {
    visitor_ = std::move(visitor);
  }

  struct Step {
    uint64_t extents = 0;
    uint64_t bytes = 0;  // of the volumes
    std::vector<Damage> damages;
    bool done = false;
  };
  // About 1 MiB of data, or 256 extents.
  Step Next();

 private:
  void Check(const FoundExtent& found, Step* step);
  absl::Status CheckRecord(const FoundExtent& found, uint64_t previous_end) const;
  void CheckBytes(const ExtentKey& key, const Extent& extent, std::vector<Damage>* damages) const;
  void SkipUnreadable(const absl::Status& status, Step* step);
  // The record is still the same: else a writer has replaced it, and what it named may be gone.
  bool StillThere(const FoundExtent& found) const;
  // Both records are there at one instant, and the first ends at `previous_end`.
  bool Follows(const FoundExtent& found, uint64_t previous_end) const;

  const Index& index_;
  const std::span<const VolumeInfo> volumes_;
  const OverlayId overlay_;
  const FindSegment find_segment_;
  const Depth depth_;
  std::function<void(const FoundExtent&)> visitor_;
  VolumeId volume_;   // where the next step begins ...
  uint64_t end_ = 0;  // ... behind the record that ends here
};

// The blocks of `range`, inside the extent, whose bytes in `segment` do not have their checksum, as ranges of the volume. An
// error: they could not be read.
absl::StatusOr<std::vector<ByteRange>> MismatchedBlocks(const Segment& segment,
                                                        const Extent& extent, ByteRange range);

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_VERIFIER_H_
