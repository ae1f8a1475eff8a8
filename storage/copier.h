// storage/copier.h
//
// Copier brings what overlays hold to a secondary disk, for the apply and the commit job. Every block is checked before it
// goes. A piece with a damaged one is told to `on_damage` and left out; the others are copied.
//
// How      Steps of at most 1 MiB, in the order of the disk: pieces that lie back to back in their segment are read at once and
//          become one write. Zeroes, whether they came as such or as data of at least 64 KiB, become holes; less zero data than
//          that is left out where the disk has a hole, so a sparse image stays sparse and a dense one is not cut up.
//          Where disk and segment can share blocks, runs of at least 64 KiB are cloned instead of written. The blocks stay the
//          segment's too: when it is used again, the file system gives the new bytes a place of their own, so what the disk
//          has does not change. A copy inside the kernel that shares nothing (copy_file_range elsewhere) is no gain: the bytes
//          were read for their checksums and are still in the processor's cache.
// Dirty    WriteBack() keeps what waits in the page cache for the disk below 32 MiB, so that the Sync() at the end of a job is
//          short and the log's syncs do not queue behind gigabytes.
// Threads  one at a time.
// Errors   as File, and as Overlay::Read but for kDataLoss; range() tells where.
#ifndef UNDERSTUDY_STORAGE_COPIER_H_
#define UNDERSTUDY_STORAGE_COPIER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"

#include "storage/base/byte_range.h"
#include "storage/piece.h"

namespace understudy::storage {

class SecondaryDisk;

// What became of the bytes that were brought to a disk.
struct CopyCounts {
  uint64_t written_bytes = 0;
  uint64_t cloned_bytes = 0;
  uint64_t hole_bytes = 0;     // punched
  uint64_t skipped_bytes = 0;  // zero data over a hole
};

class Copier {
 public:
  using DamageCallback = std::function<void(ByteRange, const absl::Status&)>;

  explicit Copier(DamageCallback on_damage);

  // `pieces`: in order, all of overlays.
  absl::Status Copy(SecondaryDisk& disk, std::span<const Piece> pieces);
  // `bytes` in `range` were written, behind everything before on this disk: begins to bring them to the device, and waits for
  // earlier ones when too many are under way. Promises nothing about durability.
  absl::Status WriteBack(SecondaryDisk& disk, ByteRange range, uint64_t bytes);

  ByteRange range() const { return range_; }  // the step it was at last
  const CopyCounts& counts() const { return counts_; }

 private:
  // A range whose bytes lie back to back in one segment.
  struct Source {
    const Segment* segment = nullptr;
    uint64_t position = 0;
    ByteRange range;
  };
  struct DirtyBatch {
    ByteRange range;
    uint64_t bytes = 0;
  };

  absl::Status CopyStep(SecondaryDisk& disk);
  absl::Status CopyEach(SecondaryDisk& disk, const absl::Status& damage);
  absl::Status ReadStep();
  absl::Status ReadTogether(std::span<const Piece> pieces, std::span<char> out);
  absl::Status WriteStep(SecondaryDisk& disk);
  absl::Status WriteData(SecondaryDisk& disk, ByteRange range);
  absl::Status WriteBuffered(SecondaryDisk& disk, ByteRange range);
  std::span<char> Buffered(ByteRange range) const;

  struct FreeDeleter {
    void operator()(char* memory) const;
  };
  const DamageCallback on_damage_;
  const std::unique_ptr<char, FreeDeleter> buffer_;
  std::vector<Piece> step_;
  std::vector<Source> sources_;  // of step_
  ByteRange range_;              // of step_
  std::vector<uint32_t> computed_;
  std::vector<uint32_t> stored_;
  const SecondaryDisk* dirty_disk_ = nullptr;
  DirtyBatch filling_;
  DirtyBatch leaving_;
  CopyCounts counts_;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_COPIER_H_
