// The real FileSystem. Linux only: holes, open-file-description locks and block devices are used as Linux has them.
#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

#include "storage/base/device_identity.h"
#include "storage/base/file_system.h"
#include "storage/base/status_macros.h"

namespace understudy::base {
namespace {

// By fallocate(), as what it was asked for or as a range that is not cut on the device's blocks.
bool IsUnsupported(int error_number) {
  return error_number == EOPNOTSUPP || error_number == ENODEV || error_number == EINVAL;
}

constexpr long kXfsMagic = 0x58465342;  // statfs

// What <xfs/xfs_fs.h> says of XFS_IOC_FSGEOMETRY_V1, which every kernel answers.
struct XfsGeometry {
  uint32_t sizes[8];
  uint64_t blocks[4];
  uint8_t uuid[16];
  uint32_t others[7];
};
static_assert(sizeof(XfsGeometry) == 112);

// Hexadecimal; "" when it cannot be told.
std::string XfsUuid(int fd) {
  XfsGeometry geometry = {};
  if (ioctl(fd, _IOR('X', 100, XfsGeometry), &geometry) != 0) return "";
  return absl::BytesToHexString(
      {reinterpret_cast<const char*>(geometry.uuid), sizeof(geometry.uuid)});
}

class PosixFile : public File {
 public:
  PosixFile(int fd, std::string path, bool is_block_device)
      : fd_(fd), path_(std::move(path)), is_block_device_(is_block_device) {}
  ~PosixFile() override { close(fd_); }

  absl::Status Read(uint64_t offset, std::span<char> out) const override {
    while (!out.empty()) {
      const ssize_t got = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return Failed("read");
      if (got == 0) {
        return absl::OutOfRangeError(absl::StrCat(path_, ": file ends at ", offset));
      }
      offset += static_cast<uint64_t>(got);
      out = out.subspan(static_cast<size_t>(got));
    }
    return absl::OkStatus();
  }

  absl::Status Write(uint64_t offset, std::span<const iovec> pieces) override {
    std::vector<iovec> rest;  // filled only after a short write
    while (!pieces.empty()) {
      const int count = static_cast<int>(std::min<size_t>(pieces.size(), IOV_MAX));
      const ssize_t put = pwritev(fd_, pieces.data(), count, static_cast<off_t>(offset));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return Failed("write");
      offset += static_cast<uint64_t>(put);
      auto left = static_cast<size_t>(put);
      while (!pieces.empty() && left >= pieces.front().iov_len) {
        left -= pieces.front().iov_len;
        pieces = pieces.subspan(1);
      }
      if (left == 0) continue;
      rest.assign(pieces.begin(), pieces.end());
      rest.front().iov_base = static_cast<char*>(rest.front().iov_base) + left;
      rest.front().iov_len -= left;
      pieces = rest;
    }
    return absl::OkStatus();
  }

  absl::Status PunchHole(ByteRange range) override {
    if (range.empty()) return absl::OkStatus();
    const auto start = static_cast<off_t>(range.start);
    const auto length = static_cast<off_t>(range.size());
    if (fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, length) == 0) {
      return absl::OkStatus();
    }
    if (!IsUnsupported(errno)) return Failed("punch hole");
    return ZeroRange(range);
  }

  absl::Status ZeroRange(ByteRange range) override {
    if (range.empty()) return absl::OkStatus();
    if (is_block_device_) {
      uint64_t device_range[2] = {range.start, range.size()};
      if (ioctl(fd_, BLKZEROOUT, device_range) == 0) return absl::OkStatus();
    } else {
      const auto start = static_cast<off_t>(range.start);
      const auto length = static_cast<off_t>(range.size());
      if (fallocate(fd_, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, start, length) == 0) {
        return absl::OkStatus();
      }
      if (!IsUnsupported(errno)) return Failed("zero range");
    }
    return File::ZeroRange(range);
  }

  absl::Status CloneFrom(const File& source, uint64_t source_offset, uint64_t offset,
                         uint64_t length) override {
    const auto* const posix = dynamic_cast<const PosixFile*>(&source);
    if (posix == nullptr || is_block_device_) {
      return File::CloneFrom(source, source_offset, offset, length);
    }
    file_clone_range range = {};
    range.src_fd = posix->fd_;
    range.src_offset = source_offset;
    range.src_length = length;
    range.dest_offset = offset;
    if (ioctl(fd_, FICLONERANGE, &range) == 0) return absl::OkStatus();
    if (errno == EIO || errno == ENOSPC || errno == EDQUOT) return Failed("clone");
    return absl::UnimplementedError(absl::StrCat(path_, ": clone: ", strerror(errno)));
  }

  absl::Status WriteBack(ByteRange range, bool wait) override {
    const unsigned flags =
        wait ? SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER
             : SYNC_FILE_RANGE_WRITE;
    const auto start = static_cast<off_t>(range.start);
    if (sync_file_range(fd_, start, static_cast<off_t>(range.size()), flags) == 0) {
      return absl::OkStatus();
    }
    return errno == ENOSYS || errno == EINVAL ? absl::OkStatus() : Failed("write back");
  }

  absl::Status Sync() override { return fdatasync(fd_) == 0 ? absl::OkStatus() : Failed("sync"); }

  absl::Status Truncate(uint64_t size_bytes) override {
    return ftruncate(fd_, static_cast<off_t>(size_bytes)) == 0 ? absl::OkStatus()
                                                               : Failed("truncate");
  }

  absl::StatusOr<uint64_t> Size() const override {
    if (is_block_device_) {
      uint64_t bytes = 0;
      if (ioctl(fd_, BLKGETSIZE64, &bytes) != 0) return Failed("size");
      return bytes;
    }
    struct stat info;
    if (fstat(fd_, &info) != 0) return Failed("size");
    return static_cast<uint64_t>(info.st_size);
  }

  absl::StatusOr<uint64_t> AllocatedBytes() const override {
    struct stat info;
    if (fstat(fd_, &info) != 0) return Failed("stat");
    return static_cast<uint64_t>(info.st_blocks) * 512;
  }

  absl::StatusOr<FileIdentity> Identity() const override {
    struct stat info;
    if (fstat(fd_, &info) != 0) return Failed("stat");
    if (is_block_device_) return DeviceIdentity("/sys", info.st_rdev);
    struct statfs file_system;
    if (fstatfs(fd_, &file_system) != 0) return Failed("statfs");
    FileSystemFacts facts{.device = info.st_dev};
    static_assert(sizeof(file_system.f_fsid) == sizeof(facts.id));
    std::memcpy(&facts.id, &file_system.f_fsid, sizeof(facts.id));
    if (file_system.f_type == kXfsMagic) facts.uuid = XfsUuid(fd_);
    struct statx mount;
    if (statx(fd_, "", AT_EMPTY_PATH, STATX_MNT_ID, &mount) == 0) facts.mount_id = mount.stx_mnt_id;
    long generation = 0;  // of which the kernel writes 32 bits
    if (ioctl(fd_, FS_IOC_GETVERSION, &generation) != 0) generation = 0;
    return FileIdentity{.file_system = FileSystemName("/sys", "/proc/self/mountinfo", facts),
                        .inode = info.st_ino,
                        .generation = static_cast<uint32_t>(generation),
                        .former_file_system = FormerFileSystemName(facts)};
  }

  int64_t ModifiedNanos() const override {
    struct stat info;
    if (is_block_device_ || fstat(fd_, &info) != 0) return 0;
    return absl::ToInt64Nanoseconds(absl::DurationFromTimespec(info.st_mtim));
  }

  bool IsBlockDevice() const override { return is_block_device_; }

  absl::StatusOr<ByteRange> NextData(uint64_t offset) const override {
    ASSIGN_OR_RETURN(const uint64_t size, Size());
    while (true) {
      ASSIGN_OR_RETURN(const uint64_t data, NextDataStart(offset));
      if (data >= size) return ByteRange{size, size};
      const off_t hole = lseek(fd_, static_cast<off_t>(data), SEEK_HOLE);
      if (hole < 0) return ByteRange{data, size};
      // Else somebody has punched it meanwhile, and more may follow.
      if (static_cast<uint64_t>(hole) > data) return ByteRange{data, static_cast<uint64_t>(hole)};
    }
  }
  absl::StatusOr<uint64_t> NextDataStart(uint64_t offset) const override {
    const off_t data = lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
    if (data >= 0) return static_cast<uint64_t>(data);
    if (errno != ENXIO) return offset;  // cannot tell: all data
    return Size();
  }

 private:
  absl::Status Failed(absl::string_view what) const {
    const int error_number = errno;
    return ErrnoStatus(error_number, absl::StrCat(path_, ": ", what));
  }

  const int fd_;
  const std::string path_;
  const bool is_block_device_;
};

absl::Status TakeLock(int fd, const std::string& path) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return absl::OkStatus();
  if (errno == EAGAIN || errno == EACCES) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": in use by another process"));
  }
  return ErrnoStatus(errno, absl::StrCat(path, ": lock"));
}

class PosixFileSystem : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path,
                                             const OpenOptions& options) override {
    struct stat info;
    const bool is_block_device = stat(path.c_str(), &info) == 0 && S_ISBLK(info.st_mode);
    int flags = O_CLOEXEC | (options.read_only ? O_RDONLY : O_RDWR);
    if (options.create && !is_block_device) flags |= O_CREAT;
    if (options.exclusive || (options.lock && is_block_device)) flags |= O_EXCL;
    const int fd = open(path.c_str(), flags, options.mode);
    if (fd < 0 && errno == EBUSY) {
      return absl::FailedPreconditionError(absl::StrCat(path, ": in use by another process"));
    }
    if (fd < 0) return ErrnoStatus(errno, path);
    auto file = std::make_unique<PosixFile>(fd, path, is_block_device);
    if (options.lock && !is_block_device) RETURN_IF_ERROR(TakeLock(fd, path));
    return file;
  }

  absl::Status CreateDirectory(const std::string& path) override {
    for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
      const std::string part = path.substr(0, slash);
      if (!part.empty() && mkdir(part.c_str(), 0700) != 0 && errno != EEXIST) {
        return ErrnoStatus(errno, part);
      }
      if (slash == std::string::npos) break;
    }
    struct stat info;
    if (stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, path);
    return S_ISDIR(info.st_mode) ? absl::OkStatus() : ErrnoStatus(ENOTDIR, path);
  }

  absl::Status SyncDirectory(const std::string& path) override {
    const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return ErrnoStatus(errno, path);
    const bool synced = fsync(fd) == 0;
    const int error_number = errno;
    close(fd);
    return synced ? absl::OkStatus() : ErrnoStatus(error_number, absl::StrCat(path, ": sync"));
  }

  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    DIR* const directory = opendir(path.c_str());
    if (directory == nullptr) return ErrnoStatus(errno, path);
    std::vector<std::string> names;
    while (const dirent* entry = readdir(directory)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    closedir(directory);
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::Status Remove(const std::string& path) override {
    return remove(path.c_str()) == 0 ? absl::OkStatus() : ErrnoStatus(errno, path);
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    return rename(from.c_str(), to.c_str()) == 0 ? absl::OkStatus() : ErrnoStatus(errno, to);
  }

  bool Exists(const std::string& path) override { return access(path.c_str(), F_OK) == 0; }

  absl::StatusOr<std::string> Resolve(const std::string& path) override {
    char* const resolved = realpath(path.c_str(), nullptr);
    if (resolved == nullptr) return ErrnoStatus(errno, path);
    std::string result = resolved;
    free(resolved);
    return result;
  }

  absl::StatusOr<FileSystemSpace> Space(const std::string& path) override {
    struct statvfs info;
    if (statvfs(path.c_str(), &info) != 0) return ErrnoStatus(errno, path);
    return FileSystemSpace{.capacity_bytes = info.f_blocks * info.f_frsize,
                           .free_bytes = info.f_bavail * info.f_frsize};
  }
};

}  // namespace

FileSystem& FileSystem::Posix() {
  static FileSystem* const file_system = new PosixFileSystem;
  return *file_system;
}

}  // namespace understudy::base
