// client/primary_disk.h
//
// The local disk of a tee-mode volume: a raw file or block device, opened with the lock that says "in use".
//
// Errors   as storage/base/file_system.h, with the path; kFailedPrecondition when another process has the disk.
// Threads  all methods from any thread; the order of overlapping requests is the caller's business.
#ifndef UNDERSTUDY_CLIENT_PRIMARY_DISK_H_
#define UNDERSTUDY_CLIENT_PRIMARY_DISK_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/block_runs.h"
#include "storage/base/byte_range.h"
#include "storage/base/file_system.h"
#include "storage/base/mutex.h"
#include "storage/base/unflushed.h"

namespace understudy::client {

class PrimaryDisk {
 public:
  // `size_bytes` 0: the disk's length. kFailedPrecondition when it differs from the disk's length, kInvalidArgument when that is
  // not a multiple of 512, kNotFound naming the path. `file_system` outlives the disk.
  static absl::StatusOr<std::unique_ptr<PrimaryDisk>> Open(base::FileSystem& file_system,
                                                           const std::string& path,
                                                           uint64_t size_bytes);

  absl::Status Read(uint64_t offset, std::span<char> out) const { return file_->Read(offset, out); }
  absl::Status Write(uint64_t offset, std::span<const char> data);
  absl::Status Zero(ByteRange range, ZeroedSpace space);
  // Everything completed is durable. After one failure every later call fails too: what the kernel
  // dropped is gone. At once when nothing was written since the last one.
  absl::Status Sync();
  // Whether the whole of it is one.
  absl::StatusOr<bool> IsHole(ByteRange range) const;
  // The first `runs_max` runs of data and holes of `range`, or fewer (block_runs.h).
  absl::StatusOr<std::vector<BlockRun>> Map(ByteRange range, size_t runs_max) const;

  // What tells it from another disk; and whether somebody has written to it since. Empty, 0: not known.
  std::string IdentityText() const;
  // Whether that, or what an earlier release made of it, was `text`.
  bool WasIdentifiedAs(const std::string& text) const;
  int64_t ModifiedNanos() const { return file_->ModifiedNanos(); }

  uint64_t size_bytes() const { return size_bytes_; }
  const std::string& path() const { return path_; }

 private:
  PrimaryDisk(std::string path, std::unique_ptr<base::File> file, uint64_t size_bytes)
      : path_(std::move(path)), file_(std::move(file)), size_bytes_(size_bytes) {}

  const std::string path_;
  const std::unique_ptr<base::File> file_;
  const uint64_t size_bytes_;
  base::Unflushed unflushed_;
  base::Mutex mutex_;
  absl::Status sync_failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_PRIMARY_DISK_H_
