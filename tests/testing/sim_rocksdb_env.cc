#include "tests/testing/sim_rocksdb_env.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include <rocksdb/convenience.h>
#include <rocksdb/file_system.h>
#include <rocksdb/options.h>

#include "storage/base/file_system.h"

// RocksDB writes its options to a file at each opening, then reads and parses that file to check
// it. The check takes a fifth of a crash test's time, and no write or sync depends on it. The
// linker puts this function in its place. If another RocksDB gives it another name, the check is
// back.
namespace rocksdb {
class RocksDBOptionsParser {
 public:
  static Status VerifyRocksDBOptionsFromFile(const ConfigOptions&, const DBOptions&,
                                             const std::vector<std::string>&,
                                             const std::vector<ColumnFamilyOptions>&,
                                             const std::string&, FileSystem*);
};

Status RocksDBOptionsParser::VerifyRocksDBOptionsFromFile(const ConfigOptions&, const DBOptions&,
                                                          const std::vector<std::string>&,
                                                          const std::vector<ColumnFamilyOptions>&,
                                                          const std::string&, FileSystem*) {
  return Status::OK();
}
}  // namespace rocksdb

namespace understudy::testing {
namespace {

using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

IOStatus ToRocks(const absl::Status& status) {
  if (status.ok()) return IOStatus::OK();
  const std::string message(status.message());
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return IOStatus::PathNotFound(message);
    case absl::StatusCode::kResourceExhausted:
      return IOStatus::NoSpace(message);
    default:
      return IOStatus::IOError(message);
  }
}

// As pread() does: fewer bytes at the end of the file.
IOStatus ReadAt(const base::File& file, uint64_t offset, size_t bytes, Slice* result,
                char* scratch) {
  const absl::StatusOr<uint64_t> size = file.Size();
  if (!size.ok()) return ToRocks(size.status());
  const uint64_t available = offset >= *size ? 0 : std::min<uint64_t>(bytes, *size - offset);
  *result = Slice(scratch, available);
  return available == 0 ? IOStatus::OK() : ToRocks(file.Read(offset, {scratch, available}));
}

class SequentialFile : public rocksdb::FSSequentialFile {
 public:
  explicit SequentialFile(std::unique_ptr<base::File> file) : file_(std::move(file)) {}
  IOStatus Read(size_t bytes, const IOOptions&, Slice* result, char* scratch,
                IODebugContext*) override {
    const IOStatus status = ReadAt(*file_, offset_, bytes, result, scratch);
    if (status.ok()) offset_ += result->size();
    return status;
  }
  IOStatus Skip(uint64_t bytes) override {
    offset_ += bytes;
    return IOStatus::OK();
  }

 private:
  const std::unique_ptr<base::File> file_;
  uint64_t offset_ = 0;
};

class RandomAccessFile : public rocksdb::FSRandomAccessFile {
 public:
  explicit RandomAccessFile(std::unique_ptr<base::File> file) : file_(std::move(file)) {}
  IOStatus Read(uint64_t offset, size_t bytes, const IOOptions&, Slice* result, char* scratch,
                IODebugContext*) const override {
    return ReadAt(*file_, offset, bytes, result, scratch);
  }

 private:
  const std::unique_ptr<base::File> file_;
};

class WritableFile : public rocksdb::FSWritableFile {
 public:
  WritableFile(std::unique_ptr<base::File> file, uint64_t size)
      : file_(std::move(file)), size_(size) {}
  IOStatus Append(const Slice& data, const IOOptions&, IODebugContext*) override {
    const absl::Status written =
        file_->base::File::Write(size_, absl::string_view(data.data(), data.size()));
    if (written.ok()) size_ += data.size();
    return ToRocks(written);
  }
  IOStatus Append(const Slice& data, const IOOptions& options, const rocksdb::DataVerificationInfo&,
                  IODebugContext* context) override {
    return Append(data, options, context);
  }
  IOStatus Truncate(uint64_t size, const IOOptions&, IODebugContext*) override {
    if (size == size_) return IOStatus::OK();
    const absl::Status truncated = file_->Truncate(size);
    if (truncated.ok()) size_ = size;
    return ToRocks(truncated);
  }
  IOStatus Flush(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
  IOStatus Sync(const IOOptions&, IODebugContext*) override { return ToRocks(file_->Sync()); }
  bool IsSyncThreadSafe() const override { return true; }
  IOStatus Close(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
  uint64_t GetFileSize(const IOOptions&, IODebugContext*) override { return size_; }
  // Nothing to allocate ahead; and what the one of the base class remembers is, like size_, guarded by locks that TSan cannot see.
  void PrepareWrite(size_t, size_t, const IOOptions&, IODebugContext*) override {}

 private:
  const std::unique_ptr<base::File> file_;
  // RocksDB asks for it from any thread, under locks of its own that TSan cannot see.
  std::atomic<uint64_t> size_;
};

class Directory : public rocksdb::FSDirectory {
 public:
  Directory(SimDisk& disk, std::string path) : disk_(disk), path_(std::move(path)) {}
  IOStatus Fsync(const IOOptions&, IODebugContext*) override {
    return ToRocks(disk_.SyncDirectory(path_));
  }

 private:
  SimDisk& disk_;
  const std::string path_;
};

class Lock : public rocksdb::FileLock {
 public:
  explicit Lock(std::unique_ptr<base::File> file) : file_(std::move(file)) {}

 private:
  const std::unique_ptr<base::File> file_;
};

class NoLogger : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

class RocksdbFileSystem : public rocksdb::FileSystem {
 public:
  explicit RocksdbFileSystem(SimDisk& disk) : disk_(disk) {}
  const char* Name() const override { return "SimDisk"; }

  IOStatus NewSequentialFile(const std::string& path, const FileOptions&,
                             std::unique_ptr<rocksdb::FSSequentialFile>* result,
                             IODebugContext*) override {
    auto file = disk_.Open(Clean(path), {.read_only = true});
    if (file.ok()) *result = std::make_unique<SequentialFile>(*std::move(file));
    return ToRocks(file.status());
  }
  IOStatus NewRandomAccessFile(const std::string& path, const FileOptions&,
                               std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
                               IODebugContext*) override {
    auto file = disk_.Open(Clean(path), {.read_only = true});
    if (file.ok()) *result = std::make_unique<RandomAccessFile>(*std::move(file));
    return ToRocks(file.status());
  }
  IOStatus NewWritableFile(const std::string& path, const FileOptions&,
                           std::unique_ptr<rocksdb::FSWritableFile>* result,
                           IODebugContext*) override {
    return OpenToWrite(path, /*truncate=*/true, result);
  }
  IOStatus ReopenWritableFile(const std::string& path, const FileOptions&,
                              std::unique_ptr<rocksdb::FSWritableFile>* result,
                              IODebugContext*) override {
    return OpenToWrite(path, /*truncate=*/false, result);
  }
  IOStatus NewDirectory(const std::string& path, const IOOptions&,
                        std::unique_ptr<rocksdb::FSDirectory>* result, IODebugContext*) override {
    if (!disk_.IsDirectory(Clean(path))) return IOStatus::PathNotFound(path);
    *result = std::make_unique<Directory>(disk_, Clean(path));
    return IOStatus::OK();
  }
  IOStatus FileExists(const std::string& path, const IOOptions&, IODebugContext*) override {
    return disk_.Exists(Clean(path)) ? IOStatus::OK() : IOStatus::NotFound(path);
  }
  IOStatus GetChildren(const std::string& path, const IOOptions&, std::vector<std::string>* result,
                       IODebugContext*) override {
    auto names = disk_.List(Clean(path));
    if (names.ok()) *result = *std::move(names);
    return ToRocks(names.status());
  }
  IOStatus DeleteFile(const std::string& path, const IOOptions&, IODebugContext*) override {
    return ToRocks(disk_.Remove(Clean(path)));
  }
  IOStatus CreateDir(const std::string& path, const IOOptions& options,
                     IODebugContext* context) override {
    return CreateDirIfMissing(path, options, context);
  }
  IOStatus CreateDirIfMissing(const std::string& path, const IOOptions&, IODebugContext*) override {
    return ToRocks(disk_.CreateDirectory(Clean(path)));
  }
  IOStatus DeleteDir(const std::string& path, const IOOptions&, IODebugContext*) override {
    return ToRocks(disk_.Remove(Clean(path)));
  }
  IOStatus GetFileSize(const std::string& path, const IOOptions&, uint64_t* size,
                       IODebugContext*) override {
    auto file = disk_.Open(Clean(path), {.read_only = true});
    if (!file.ok()) return ToRocks(file.status());
    auto found = (*file)->Size();
    if (found.ok()) *size = *found;
    return ToRocks(found.status());
  }
  IOStatus GetFileModificationTime(const std::string&, const IOOptions&, uint64_t* time,
                                   IODebugContext*) override {
    *time = 0;
    return IOStatus::OK();
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions&,
                      IODebugContext*) override {
    return ToRocks(disk_.Rename(Clean(from), Clean(to)));
  }
  IOStatus LockFile(const std::string& path, const IOOptions&, rocksdb::FileLock** lock,
                    IODebugContext*) override {
    auto file = disk_.Open(Clean(path), {.create = true, .lock = true});
    if (file.ok()) *lock = new Lock(*std::move(file));
    return ToRocks(file.status());
  }
  IOStatus UnlockFile(rocksdb::FileLock* lock, const IOOptions&, IODebugContext*) override {
    delete lock;
    return IOStatus::OK();
  }
  IOStatus GetTestDirectory(const IOOptions&, std::string*, IODebugContext*) override {
    return IOStatus::NotSupported("no test directory");
  }
  IOStatus NewLogger(const std::string&, const IOOptions&, std::shared_ptr<rocksdb::Logger>* result,
                     IODebugContext*) override {
    *result = std::make_shared<NoLogger>();
    return IOStatus::OK();
  }
  IOStatus GetAbsolutePath(const std::string& path, const IOOptions&, std::string* result,
                           IODebugContext*) override {
    *result = Clean(path);
    return IOStatus::OK();
  }
  IOStatus IsDirectory(const std::string& path, const IOOptions&, bool* is_directory,
                       IODebugContext*) override {
    *is_directory = disk_.IsDirectory(Clean(path));
    return *is_directory || disk_.Exists(Clean(path)) ? IOStatus::OK() : IOStatus::NotFound(path);
  }

 private:
  // RocksDB writes "dir//file" and "dir/" at times.
  static std::string Clean(std::string path) {
    for (size_t at; (at = path.find("//")) != std::string::npos;) path.erase(at, 1);
    if (path.size() > 1 && path.back() == '/') path.pop_back();
    return path;
  }

  IOStatus OpenToWrite(const std::string& path, bool truncate,
                       std::unique_ptr<rocksdb::FSWritableFile>* result) {
    auto file = disk_.Open(Clean(path), {.create = true});
    if (!file.ok()) return ToRocks(file.status());
    auto size = (*file)->Size();
    if (!size.ok()) return ToRocks(size.status());
    if (truncate && *size > 0) {
      const absl::Status truncated = (*file)->Truncate(0);
      if (!truncated.ok()) return ToRocks(truncated);
      size = 0;
    }
    *result = std::make_unique<WritableFile>(*std::move(file), *size);
    return IOStatus::OK();
  }

  SimDisk& disk_;
};

}  // namespace

std::unique_ptr<rocksdb::Env> NewSimRocksdbEnv(SimDisk& disk) {
  return rocksdb::NewCompositeEnv(std::make_shared<RocksdbFileSystem>(disk));
}

}  // namespace understudy::testing
