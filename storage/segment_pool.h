// storage/segment_pool.h
//
// SegmentPool hands out segment files and takes them back. Files are recycled, not unlinked: writing over blocks and cached
// pages that exist is many times faster than into a new file.
//
// A Segment is one use of a file by one log. It is alive while a log or an overlay holds it; when the last of them lets go
// of it, its file returns to the pool. So an overlay may be let go of only after its drop is durable.
//
// Order    Take() returns after the directory entry and the header with the new incarnation are synced (order rule 1).
// Threads  any thread.
#ifndef UNDERSTUDY_STORAGE_SEGMENT_POOL_H_
#define UNDERSTUDY_STORAGE_SEGMENT_POOL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/file_system.h"
#include "storage/base/mutex.h"
#include "storage/format.h"

namespace understudy::storage {

class SegmentPool;

class Segment {
 public:
  Segment(SegmentPool& pool, uint64_t number, std::unique_ptr<base::File> file,
          const SegmentHeader& header);
  ~Segment();  // gives the file back to the pool
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  base::File& file() const { return *file_; }
  uint64_t number() const { return number_; }  // of the file
  uint32_t ordinal() const { return header_.ordinal; }
  const SegmentHeader& header() const { return header_; }
  std::string ToString() const;  // "segment 12 (file 0000000000000003.seg)"

 private:
  SegmentPool& pool_;
  const uint64_t number_;
  std::unique_ptr<base::File> file_;
  const SegmentHeader header_;
};

class SegmentPool {
 public:
  // A file found at open: its header when it is a valid one.
  struct Found {
    uint64_t number = 0;
    SegmentHeader header;
  };

  SegmentPool(base::FileSystem& file_system, std::string directory, uint64_t segment_bytes,
              uint64_t free_bytes_max, uint64_t seed);

  uint64_t segment_bytes() const { return segment_bytes_; }

  // Lists the directory. Files whose header is not valid are free. Call Adopt() for each of the others, or Release().
  absl::StatusOr<std::vector<Found>> Scan();
  absl::StatusOr<std::shared_ptr<Segment>> Adopt(const Found& found);
  void Release(const Found& found);

  // A segment for the log (group, role) with this ordinal, its header durable.
  absl::StatusOr<std::shared_ptr<Segment>> Take(uint64_t group, LogRole role, uint32_t ordinal);

  // From now on segments that end leave their files as they are. Before shutdown, when overlays go without being dropped.
  void StopRecycling() { recycling_.store(false); }

  uint64_t free_bytes() const;
  uint64_t used_bytes() const;

 private:
  friend class Segment;
  struct FreeFile {
    uint64_t number = 0;
    uint64_t allocated_bytes = 0;
  };

  std::string Path(uint64_t number) const;
  void Recycle(uint64_t number, std::unique_ptr<base::File> file);
  void AddFree(uint64_t number, uint64_t allocated_bytes);
  absl::StatusOr<std::unique_ptr<base::File>> OpenFreeOrNew(uint64_t* number);
  // kResourceExhausted, with the remedy, when the next segment would leave the index too little.
  absl::Status CheckRoom() const;

  base::FileSystem& file_system_;
  const std::string directory_;
  const uint64_t segment_bytes_;
  const uint64_t free_bytes_max_;
  std::atomic<bool> recycling_ = true;
  mutable base::Mutex mutex_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_);
  std::vector<FreeFile> free_ ABSL_GUARDED_BY(mutex_);
  uint64_t free_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_number_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t in_use_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_SEGMENT_POOL_H_
