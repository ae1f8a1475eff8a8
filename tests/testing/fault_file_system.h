// tests/testing/fault_file_system.h
//
// The real file system, except that a test may make any write, hole, sync or read fail.
#ifndef UNDERSTUDY_TESTS_TESTING_FAULT_FILE_SYSTEM_H_
#define UNDERSTUDY_TESTS_TESTING_FAULT_FILE_SYSTEM_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "storage/base/file_system.h"
#include "storage/base/mutex.h"

namespace understudy::testing {

enum class FileOperation { kRead, kWrite, kPunchHole, kSync };

class FaultFileSystem : public base::FileSystem {
 public:
  // Asked before each operation, from any thread; an error is returned instead of doing it.
  using Hook = std::function<absl::Status(FileOperation, const std::string& path)>;

  void SetHook(Hook hook) {
    base::MutexLock lock(mutex_);
    hook_ = std::make_shared<Hook>(std::move(hook));
  }
  absl::Status Ask(FileOperation operation, const std::string& path) {
    std::shared_ptr<Hook> hook;
    {
      base::MutexLock lock(mutex_);
      hook = hook_;
    }
    return hook == nullptr || !*hook ? absl::OkStatus() : (*hook)(operation, path);
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
  absl::Status SyncDirectory(const std::string& path) override { return real_.SyncDirectory(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    return real_.List(path);
  }
  absl::Status Remove(const std::string& path) override { return real_.Remove(path); }
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
      const absl::Status fault = owner_.Ask(FileOperation::kRead, path_);
      return fault.ok() ? file_->Read(offset, out) : fault;
    }
    absl::Status Write(uint64_t offset, std::span<const iovec> pieces) override {
      const absl::Status fault = owner_.Ask(FileOperation::kWrite, path_);
      return fault.ok() ? file_->Write(offset, pieces) : fault;
    }
    using base::File::Write;
    absl::Status PunchHole(ByteRange range) override {
      const absl::Status fault = owner_.Ask(FileOperation::kPunchHole, path_);
      return fault.ok() ? file_->PunchHole(range) : fault;
    }
    absl::Status Sync() override {
      const absl::Status fault = owner_.Ask(FileOperation::kSync, path_);
      return fault.ok() ? file_->Sync() : fault;
    }
    absl::Status Truncate(uint64_t size) override { return file_->Truncate(size); }
    absl::StatusOr<uint64_t> Size() const override { return file_->Size(); }
    absl::StatusOr<uint64_t> AllocatedBytes() const override { return file_->AllocatedBytes(); }
    absl::StatusOr<base::FileIdentity> Identity() const override { return file_->Identity(); }
    bool IsBlockDevice() const override { return file_->IsBlockDevice(); }
    absl::StatusOr<ByteRange> NextData(uint64_t offset) const override {
      return file_->NextData(offset);
    }

   private:
    FaultFileSystem& owner_;
    const std::string path_;
    const std::unique_ptr<base::File> file_;
  };

  base::FileSystem& real_ = base::FileSystem::Posix();
  base::Mutex mutex_;
  std::shared_ptr<Hook> hook_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_TESTING_FAULT_FILE_SYSTEM_H_
