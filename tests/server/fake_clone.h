// tests/server/fake_clone.h
//
// A clone in memory: its own copy of every disk, with the byte limit of its spec.
#ifndef UNDERSTUDY_TESTS_SERVER_FAKE_CLONE_H_
#define UNDERSTUDY_TESTS_SERVER_FAKE_CLONE_H_

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"

#include "storage/base/mutex.h"
#include "storage/replica.h"

namespace understudy::testing {

class FakeClone : public storage::BlockView {
 public:
  FakeClone(storage::CloneSpec spec, std::vector<std::string> disks)
      : spec_(std::move(spec)),
        expires_(absl::Now() + spec_.time_to_live),
        disks_(std::move(disks)) {}

  storage::CloneInfo info() const {
    base::MutexLock lock(mutex_);
    return {.spec = spec_, .written_bytes = written_bytes_, .expires = expires_};
  }
  absl::Status Read(VolumeId volume, uint64_t offset, std::span<char> out) override {
    base::MutexLock lock(mutex_);
    std::memcpy(out.data(), disks_[volume.value()].data() + offset, out.size());
    return absl::OkStatus();
  }
  absl::Status Write(VolumeId volume, uint64_t offset, std::span<const char> data, bool) override {
    base::MutexLock lock(mutex_);
    if (written_bytes_ + data.size() > spec_.bytes_max) return absl::ResourceExhaustedError("full");
    written_bytes_ += data.size();
    std::memcpy(disks_[volume.value()].data() + offset, data.data(), data.size());
    return absl::OkStatus();
  }
  void WriteAll(VolumeId volume, std::span<const BlockWrite> writes,
                std::span<absl::Status> results) override {
    for (size_t i = 0; i < writes.size(); ++i) {
      results[i] = Write(volume, writes[i].offset, writes[i].data, writes[i].fua);
    }
  }
  absl::Status WriteZeroes(VolumeId volume, ByteRange range, ZeroedSpace, bool fua) override {
    return Write(volume, range.start, std::string(range.size(), '\0'), fua);
  }
  absl::Status Flush(VolumeId) override { return absl::OkStatus(); }
  absl::StatusOr<std::vector<BlockRun>> Map(VolumeId, ByteRange range, size_t) override {
    return std::vector<BlockRun>{{.range = range}};
  }

 private:
  const storage::CloneSpec spec_;
  const absl::Time expires_;
  mutable base::Mutex mutex_;
  std::vector<std::string> disks_ ABSL_GUARDED_BY(mutex_);
  uint64_t written_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_SERVER_FAKE_CLONE_H_
