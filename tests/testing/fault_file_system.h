// tests/testing/fault_file_system.h
//
// The real file system, except that a test may see, hold up or fail any write, hole, clone, sync,
// read, search for data, truncation or removal, that blocks can seem to be shared where the real
// one cannot do it, and files to be devices or on another file system.
#ifndef UNDERSTUDY_TESTS_TESTING_FAULT_FILE_SYSTEM_H_
#define UNDERSTUDY_TESTS_TESTING_FAULT_FILE_SYSTEM_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "storage/base/file_system.h"
#include "storage/base/mutex.h"

namespace understudy::testing {

enum class FileOperation {
  kRead,
  kNextData,
  kWrite,
  kPunchHole,
  kZeroRange,
  kClone,
  kSync,
  kSyncDirectory,
  kTruncate,
  kRemove
};

class FaultFileSystem : public base::FileSystem {
 public:
  // Asked before each operation, from any thread; an error is returned instead of doing it. `range` of the file; empty for kSync and what follows it.
  using Hook = std::function<absl::Status(FileOperation, const std::string& path)>;
  using RangeHook =
      std::function<absl::Status(FileOperation, const std::string& path, ByteRange range)>;

  void SetRangeHook(RangeHook hook) {
    base::MutexLock lock(mutex_);
    hook_ = std::make_shared<RangeHook>(std::move(hook));
  }
  void SetHook(Hook hook) {
    if (!hook) return SetRangeHook(nullptr);
    SetRangeHook([hook = std::move(hook)](FileOperation operation, const std::string& path,
                                          ByteRange) { return hook(operation, path); });
  }
  // The file `path` seems to be this one from now on.
  void PretendIdentity(const std::string& path, base::FileIdentity identity) {
    base::MutexLock lock(mutex_);
    identities_[path] = std::move(identity);
  }
  // The regular file `path` seems to be a block device that `id` names.
  void PretendDevice(const std::string& path, const std::string& id) {
    PretendIdentity(path, {.file_system = "device " + id});
  }
  std::optional<base::FileIdentity> Pretended(const std::string& path) {
    base::MutexLock lock(mutex_);
    const auto found = identities_.find(real_.Resolve(path).value_or(path));
    if (found == identities_.end()) return std::nullopt;
    return found->second;
  }
  // File::CloneFrom() copies instead.
  void EmulateClones() { emulate_clones_.store(true); }

  absl::Status Ask(FileOperation operation, const std::string& path, ByteRange range) {
    std::shared_ptr<RangeHook> hook;
    {
      base::MutexLock lock(mutex_);
      hook = hook_;
    }
    return hook == nullptr || !*hook ? absl::OkStatus() : (*hook)(operation, path, range);
  }

  absl::StatusOr<std::unique_ptr<base::File>> Open(const std::string& path,
                                                   const base::OpenOptions& options) override {
    absl::StatusOr<std::unique_ptr<base::File>> file = real_.Open(path, options);
    if (!file.ok()) return file;
    return std::make_unique<FaultFile>(*this, path, *std::move(file));
  }
  absl::Status CreateDirectory(const std::string& path) override {
    return real_.CreateDirectory(path);
  }
  absl::Status SyncDirectory(const std::string& path) override {
    const absl::Status fault = Ask(FileOperation::kSyncDirectory, path, {});
    return fault.ok() ? real_.SyncDirectory(path) : fault;
  }
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    return real_.List(path);
  }
  absl::Status Remove(const std::string& path) override {
    const absl::Status fault = Ask(FileOperation::kRemove, path, {});
    return fault.ok() ? real_.Remove(path) : fault;
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    return real_.Rename(from, to);
  }
  bool Exists(const std::string& path) override { return real_.Exists(path); }
  absl::StatusOr<std::string> Resolve(const std::string& path) override {
    return real_.Resolve(path);
  }
  absl::StatusOr<base::FileSystemSpace> Space(const std::string& path) override {
    return real_.Space(path);
  }

 private:
  class FaultFile : public base::File {
   public:
    FaultFile(FaultFileSystem& owner, std::string path, std::unique_ptr<base::File> file)
        : owner_(owner), path_(std::move(path)), file_(std::move(file)) {}

    absl::Status Read(uint64_t offset, std::span<char> out) const override {
      const absl::Status fault =
          owner_.Ask(FileOperation::kRead, path_, ByteRange::OfLength(offset, out.size()));
      return fault.ok() ? file_->Read(offset, out) : fault;
    }
    absl::Status Write(uint64_t offset, std::span<const iovec> pieces) override {
      const absl::Status fault =
          owner_.Ask(FileOperation::kWrite, path_, ByteRange::OfLength(offset, Bytes(pieces)));
      return fault.ok() ? file_->Write(offset, pieces) : fault;
    }
    using base::File::Write;
    absl::Status PunchHole(ByteRange range) override {
      const absl::Status fault = owner_.Ask(FileOperation::kPunchHole, path_, range);
      return fault.ok() ? file_->PunchHole(range) : fault;
    }
    absl::Status ZeroRange(ByteRange range) override {
      const absl::Status fault = owner_.Ask(FileOperation::kZeroRange, path_, range);
      return fault.ok() ? file_->ZeroRange(range) : fault;
    }
    absl::Status CloneFrom(const base::File& source, uint64_t source_offset, uint64_t offset,
                           uint64_t length) override {
      const absl::Status fault =
          owner_.Ask(FileOperation::kClone, path_, ByteRange::OfLength(offset, length));
      if (!fault.ok()) return fault;
      const base::File& real = *dynamic_cast<const FaultFile&>(source).file_;
      if (!owner_.emulate_clones_.load()) {
        return file_->CloneFrom(real, source_offset, offset, length);
      }
      std::string bytes(length, '\0');
      const absl::Status read = real.Read(source_offset, bytes);
      return read.ok() ? file_->Write(offset, bytes) : read;
    }
    absl::Status WriteBack(ByteRange range, bool wait) override {
      return file_->WriteBack(range, wait);
    }
    absl::Status Sync() override {
      const absl::Status fault = owner_.Ask(FileOperation::kSync, path_, {});
      return fault.ok() ? file_->Sync() : fault;
    }
    absl::Status Truncate(uint64_t size) override {
      const absl::Status fault = owner_.Ask(FileOperation::kTruncate, path_, {});
      return fault.ok() ? file_->Truncate(size) : fault;
    }
    absl::StatusOr<uint64_t> Size() const override { return file_->Size(); }
    absl::StatusOr<uint64_t> AllocatedBytes() const override { return file_->AllocatedBytes(); }
    absl::StatusOr<base::FileIdentity> Identity() const override {
      const std::optional<base::FileIdentity> pretended = owner_.Pretended(path_);
      return pretended.has_value() ? *pretended : file_->Identity();
    }
    int64_t ModifiedNanos() const override { return file_->ModifiedNanos(); }
    bool IsBlockDevice() const override {
      const std::optional<base::FileIdentity> pretended = owner_.Pretended(path_);
      return pretended.has_value() && pretended->device();
    }
    absl::StatusOr<uint64_t> NextDataStart(uint64_t offset) const override {
      return file_->NextDataStart(offset);
    }
    absl::StatusOr<ByteRange> NextData(uint64_t offset) const override {
      const absl::Status fault = owner_.Ask(FileOperation::kNextData, path_, {offset, offset});
      return fault.ok() ? file_->NextData(offset) : fault;
    }

   private:
    static uint64_t Bytes(std::span<const iovec> pieces) {
      uint64_t bytes = 0;
      for (const iovec& piece : pieces) bytes += piece.iov_len;
      return bytes;
    }

    FaultFileSystem& owner_;
    const std::string path_;
    const std::unique_ptr<base::File> file_;
  };

  std::atomic<bool> emulate_clones_ = false;
  base::FileSystem& real_ = base::FileSystem::Posix();
  base::Mutex mutex_;
  std::shared_ptr<RangeHook> hook_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, base::FileIdentity> identities_ ABSL_GUARDED_BY(mutex_);  // by path
};

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_TESTING_FAULT_FILE_SYSTEM_H_
