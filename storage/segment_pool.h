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
#include <functional>
#include <map>
#include <memory>
#include <span>
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

// A file of the directory as it was found.
struct SegmentFile {
  // kLog: the header is a valid one. kBlank: never had one, or a crash kept it from getting one. kDamaged: anything else.
  enum class Content { kLog, kBlank, kDamaged };
  uint64_t number = 0;
  std::string path;
  Content content = Content::kBlank;
  SegmentHeader header;  // kLog
  uint64_t allocated_bytes = 0;
};
// kFailedPrecondition, naming the file, for a header of a newer version.
absl::StatusOr<std::vector<SegmentFile>> ListSegmentFiles(base::FileSystem& file_system,
                                                          const std::string& directory);

// Bytes written to segments that are in use.
using SegmentUsage = std::atomic<uint64_t>;

class Segment {
 public:
  Segment(SegmentPool& pool, uint64_t number, std::unique_ptr<base::File> file,
          const SegmentHeader& header, uint64_t written_bytes);
  ~Segment();  // gives the file back to the pool
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  base::File& file() const { return *file_; }
  uint64_t number() const { return number_; }  // of the file
  uint32_t ordinal() const { return header_.ordinal; }
  const SegmentHeader& header() const { return header_; }
  // From the start of the file to the end of the last frame; after a recovery the length of the file.
  uint64_t written_bytes() const { return written_bytes_.load(std::memory_order_relaxed); }
  void AddWritten(uint64_t bytes);
  // Those that are kept at `position`, of its frames' data.
  absl::Status ReadChecksums(uint64_t position, std::span<uint32_t> out) const;
  std::string ToString() const;  // "segment 12 (file 0000000000000003.seg)"

 private:
  SegmentPool& pool_;
  const uint64_t number_;
  std::unique_ptr<base::File> file_;
  const SegmentHeader header_;
  const std::shared_ptr<SegmentUsage> group_usage_;
  std::atomic<uint64_t> written_bytes_ = 0;
};

class SegmentPool {
 public:
  SegmentPool(base::FileSystem& file_system, std::string directory, uint64_t segment_bytes,
              uint64_t free_bytes_max, uint64_t seed);

  uint64_t segment_bytes() const { return segment_bytes_; }
  // Bytes of the file system that somebody else may still need: asked before each new segment, on the caller's thread. Call once,
  // before any Take().
  void SetReserve(std::function<uint64_t()> reserve) { reserve_ = std::move(reserve); }

  // Lists the directory. Damaged files are left alone for good, since a group may miss them. Call Adopt() for each log among the
  // others, or Release(), or leave it alone; a blank one is free, unless a group misses a segment.
  absl::StatusOr<std::vector<SegmentFile>> Scan();
  absl::StatusOr<std::shared_ptr<Segment>> Adopt(const SegmentFile& found);
  void Release(const SegmentFile& found);

  // kResourceExhausted, with the remedy, when the next segment would leave the index or the reserve
  // too little.
  absl::Status CheckRoom() const;
  // A segment for the log (group, role) with this ordinal, its header durable.
  absl::StatusOr<std::shared_ptr<Segment>> Take(uint64_t group, LogRole role, uint32_t ordinal);

  // From now on segments that end leave their files as they are. Before shutdown, when overlays go without being dropped.
  void StopRecycling() { recycling_.store(false); }

  uint64_t free_bytes() const;
  // Of one group's segments in use, and of all.
  std::shared_ptr<const SegmentUsage> usage(uint64_t group) { return GroupUsage(group); }
  uint64_t used_bytes() const { return usage_.load(std::memory_order_relaxed); }

 private:
  friend class Segment;
  struct FreeFile {
    uint64_t number = 0;
    uint64_t allocated_bytes = 0;
  };

  std::string Path(uint64_t number) const;
  std::shared_ptr<SegmentUsage> GroupUsage(uint64_t group);
  void Recycle(uint64_t number, std::unique_ptr<base::File> file);
  void AddFree(uint64_t number, uint64_t allocated_bytes);
  absl::StatusOr<std::unique_ptr<base::File>> OpenFreeOrNew(uint64_t* number);
  base::FileSystem& file_system_;
  const std::string directory_;
  const uint64_t segment_bytes_;
  const uint64_t free_bytes_max_;
  std::function<uint64_t()> reserve_;
  std::atomic<bool> recycling_ = true;
  mutable base::Mutex mutex_;
  std::function<uint64_t()> random_ ABSL_GUARDED_BY(mutex_);
  std::vector<FreeFile> free_ ABSL_GUARDED_BY(mutex_);
  uint64_t free_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_number_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<uint64_t, std::shared_ptr<SegmentUsage>> group_usage_ ABSL_GUARDED_BY(mutex_);
  SegmentUsage usage_ = 0;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_SEGMENT_POOL_H_
