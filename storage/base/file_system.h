// storage/base/file_system.h
//
// The narrow view of files that storage and the agent need: positional vectored I/O, syncs that mean it, holes. Tests put
// a simulated disk behind it; FileSystem::Posix() is the real one.
//
// Errors   the errno's code with the path in front: ENOENT kNotFound, EACCES kPermissionDenied, ENOSPC/EDQUOT
//          kResourceExhausted, EEXIST kAlreadyExists, anything else kInternal; ErrnoOf() gives the number back.
// Threads  a File may be used from any number of threads at once.
#ifndef UNDERSTUDY_STORAGE_BASE_FILE_SYSTEM_H_
#define UNDERSTUDY_STORAGE_BASE_FILE_SYSTEM_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <sys/uio.h>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "storage/base/byte_range.h"

namespace understudy::base {

// "PREFIX: strerror", with the code that `error_number` stands for.
absl::Status ErrnoStatus(int error_number, absl::string_view prefix);
// The errno inside a status made by ErrnoStatus(); EIO for any other error, 0 for OK.
int ErrnoOf(const absl::Status& status);

// The directory that `path` lies in; "." when it names none.
std::string DirectoryOf(const std::string& path);

// What is the same file or device over reboots, as far as that can be known: see
// storage/base/device_identity.h.
struct FileIdentity {
  std::string file_system;  // what names it; of a block device: "device" and what names that
  uint64_t inode = 0;       // of a block device that nothing names: its number; else 0
  bool device() const { return file_system.starts_with("device"); }
  // Not compared by ==. Another one when the inode number has been given to another file since; 0:
  // not known.
  uint32_t generation = 0;
  // Nor this: what earlier releases called the file system.
  std::string former_file_system;
  friend bool operator==(const FileIdentity& a, const FileIdentity& b) {
    return a.file_system == b.file_system && a.inode == b.inode;
  }
};

class File {
 public:
  virtual ~File() = default;

  // Fills `out` from `offset`. kOutOfRange when the file ends before that.
  virtual absl::Status Read(uint64_t offset, std::span<char> out) const = 0;
  // Writes all of `pieces` back to back at `offset`, with as few system calls as possible (one up to IOV_MAX pieces). On
  // error any part may have been written.
  virtual absl::Status Write(uint64_t offset, std::span<const iovec> pieces) = 0;
  absl::Status Write(uint64_t offset, absl::string_view data);
  // Reads `range` as zeroes from now on and gives its space back where the file system or device can do that and still promise
  // zeroes (BLKDISCARD alone does not); else writes zeroes.
  virtual absl::Status PunchHole(ByteRange range) = 0;
  // Reads `range` as zeroes from now on and has space for all of it, also where a hole was. Writes
  // zeroes where the file system or device knows no better way.
  virtual absl::Status ZeroRange(ByteRange range);
  absl::Status Zero(ByteRange range, ZeroedSpace space) {
    return space == ZeroedSpace::kKept ? ZeroRange(range) : PunchHole(range);
  }
  // Makes [offset, offset + length) share its blocks with `source` from `source_offset` on (FICLONERANGE), copying nothing: as
  // if the bytes had been written. kUnimplemented, and nothing changed, where the file system or the alignment does not
  // allow it.
  virtual absl::Status CloneFrom(const File& source, uint64_t source_offset, uint64_t offset,
                                 uint64_t length);
  // Begins to bring completed writes to `range` to the device; `wait`: returns when those that were begun are there, which
  // does not make them durable. An error counts as one of Sync().
  virtual absl::Status WriteBack(ByteRange range, bool wait);
  // Makes all completed writes durable (fdatasync). After an error the file must not be trusted or synced again.
  virtual absl::Status Sync() = 0;
  virtual absl::Status Truncate(uint64_t size_bytes) = 0;
  virtual absl::StatusOr<uint64_t> Size() const = 0;            // of a device: its capacity
  virtual absl::StatusOr<uint64_t> AllocatedBytes() const = 0;  // disk blocks in use
  virtual absl::StatusOr<FileIdentity> Identity() const = 0;
  // When it was last written, by anybody, in nanoseconds; 0: not known, as of a device.
  virtual int64_t ModifiedNanos() const { return 0; }
  virtual bool IsBlockDevice() const = 0;
  // The first run of data at or after `offset`; empty at the end of the file when only holes follow (SEEK_DATA, SEEK_HOLE).
  virtual absl::StatusOr<ByteRange> NextData(uint64_t offset) const = 0;
  // Where it begins; the end of the file when only holes follow. What it costs does not grow with the data that follows.
  virtual absl::StatusOr<uint64_t> NextDataStart(uint64_t offset) const {
    const absl::StatusOr<ByteRange> data = NextData(offset);
    if (!data.ok()) return data.status();
    return data->start;
  }
};

struct OpenOptions {
  bool create = false;     // make it when missing
  bool exclusive = false;  // with create: kAlreadyExists when present
  bool read_only = false;
  // Take the lock that says "in use": O_EXCL on a device, an open-file-description write lock on a file. kFailedPrecondition
  // when another open file has it.
  bool lock = false;
  int mode = 0600;
};

struct FileSystemSpace {
  uint64_t capacity_bytes = 0;
  uint64_t free_bytes = 0;  // for unprivileged users
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  virtual absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path,
                                                     const OpenOptions& options) = 0;
  virtual absl::Status CreateDirectory(
      const std::string& path) = 0;  // with parents; OK when present
  virtual absl::Status SyncDirectory(const std::string& path) = 0;
  virtual absl::StatusOr<std::vector<std::string>> List(
      const std::string& path) = 0;  // names, sorted
  virtual absl::Status Remove(const std::string& path) = 0;
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual bool Exists(const std::string& path) = 0;
  // Absolute path without links; kNotFound when a part of it is missing.
  virtual absl::StatusOr<std::string> Resolve(const std::string& path) = 0;
  virtual absl::StatusOr<FileSystemSpace> Space(const std::string& path) = 0;

  // Replaces `path` by `contents` so that a crash leaves the old file or the new one: temporary file, sync, rename,
  // directory sync.
  absl::Status WriteFileAtomically(const std::string& path, absl::string_view contents);
  absl::StatusOr<std::string> ReadWholeFile(const std::string& path);

  static FileSystem& Posix();
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_FILE_SYSTEM_H_
