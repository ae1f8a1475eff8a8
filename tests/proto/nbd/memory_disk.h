// tests/proto/nbd/memory_disk.h
//
// MemoryDisk is an export in memory, for tests and benchmarks of the NBD server; MemoryCatalog has
// some of them. It checks what the server promises a Device: a range that it should never have been
// asked for ends the process.
//
// Threads  all methods from any thread. Overlapping requests are done one after the other.
#ifndef UNDERSTUDY_TESTS_PROTO_NBD_MEMORY_DISK_H_
#define UNDERSTUDY_TESTS_PROTO_NBD_MEMORY_DISK_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "proto/nbd/device.h"
#include "proto/nbd/figures.h"
#include "storage/base/mutex.h"

namespace understudy::nbd {

class MemoryDisk {
 public:
  struct Options {
    std::string name = "disk";
    uint64_t size_bytes = 1 << 20;
    bool has_map = true;
    // Writes go nowhere and reads are zeroes, as with nbdkit's null plugin: what is left is the
    // server's own work.
    bool drop_writes = false;
    size_t try_write_max = SIZE_MAX;  // TryWrite() takes so many at a time
    bool keep_calls = false;          // for TakeCalls()
    // Called before each request that may block; may block, and fails it when it is not OK. With
    // it, TryWrite() takes nothing.
    std::function<absl::Status(Kind, ByteRange)> before = nullptr;
  };
  explicit MemoryDisk(Options options);
  ~MemoryDisk();
  MemoryDisk(const MemoryDisk&) = delete;

  const Options& options() const { return options_; }
  // One client's view of it.
  std::unique_ptr<Device> Open();

  // What a client would read.
  std::string Bytes(ByteRange range) const;
  // As a client would, without being counted.
  void Fill(uint64_t offset, const std::string& data);
  // What its devices were asked to do since the last time, in this order: "write 0+512 fua".
  std::vector<std::string> TakeCalls();

  uint64_t calls(Kind kind) const { return calls_[static_cast<size_t>(kind)]; }
  uint64_t connects() const { return connects_; }
  uint64_t devices() const { return devices_; }  // that are open now

 private:
  class OpenDevice;
  enum class State : uint8_t { kHole, kZero, kData };

  absl::Status Begin(Kind kind, ByteRange range, const char* flags = "");
  void Called(Kind kind, ByteRange range, const char* flags);
  void Put(const Write& write);
  void Zero(ByteRange range, State state);
  void SetStateLocked(ByteRange range, State state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<BlockRun> Map(ByteRange range, size_t runs_max) const;

  const Options options_;
  char* const bytes_;  // mapped: a large disk costs what is written to it
  mutable base::Mutex mutex_;
  // By where it begins, each until the next one or the end; neighbours differ. And the bytes.
  std::map<uint64_t, State> states_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> kept_calls_ ABSL_GUARDED_BY(mutex_);
  std::array<std::atomic<uint64_t>, kKinds> calls_ = {};
  std::atomic<uint64_t> connects_{0};
  std::atomic<uint64_t> devices_{0};
};

// The first disk is the default one.
class MemoryCatalog : public Catalog {
 public:
  explicit MemoryCatalog(std::vector<MemoryDisk*> disks) : disks_(std::move(disks)) {}
  std::vector<std::string> Names() override;
  absl::StatusOr<std::unique_ptr<Device>> Open(const std::string& name) override;

 private:
  const std::vector<MemoryDisk*> disks_;
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_TESTS_PROTO_NBD_MEMORY_DISK_H_
