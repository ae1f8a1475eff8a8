#include "tests/proto/nbd/memory_disk.h"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace understudy::nbd {
namespace {

char* MapMemory(uint64_t size) {
  void* const memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  UNDERSTUDY_CHECK(memory != MAP_FAILED, size, " bytes of memory for a disk");
  return static_cast<char*>(memory);
}

ByteRange RangeOf(const Write& write) {
  return ByteRange::OfLength(write.offset, write.data.size());
}

}  // namespace

class MemoryDisk::OpenDevice : public Device {
 public:
  explicit OpenDevice(MemoryDisk* disk) : disk_(*disk) { ++disk_.devices_; }
  ~OpenDevice() override { --disk_.devices_; }

  const std::string& name() const override { return disk_.options_.name; }
  std::string description() const override { return "a disk in memory"; }
  uint64_t size_bytes() const override { return disk_.options_.size_bytes; }
  bool has_map() const override { return disk_.options_.has_map; }
  void Connect() override { ++disk_.connects_; }

  size_t TryWrite(std::span<const Write> writes) override {
    if (disk_.options_.before) return 0;
    const size_t taken = std::min(writes.size(), disk_.options_.try_write_max);
    for (const Write& write : writes.first(taken)) {
      disk_.Called(Kind::kWrite, RangeOf(write), write.fua ? " fua" : "");
      disk_.Put(write);
    }
    return taken;
  }

  absl::Status Read(uint64_t offset, std::span<char> out) override {
    const auto range = ByteRange::OfLength(offset, out.size());
    RETURN_IF_ERROR(disk_.Begin(Kind::kRead, range));
    if (disk_.options_.drop_writes) {
      std::memset(out.data(), 0, out.size());
      return absl::OkStatus();
    }
    base::MutexLock lock(disk_.mutex_);
    std::memcpy(out.data(), disk_.bytes_ + offset, out.size());
    return absl::OkStatus();
  }

  void WriteAll(std::span<const Write> writes, std::span<absl::Status> results) override {
    UNDERSTUDY_CHECK(writes.size() == results.size() && !writes.empty());
    for (size_t i = 0; i < writes.size(); ++i) {
      UNDERSTUDY_CHECK(results[i].ok());
      results[i] = disk_.Begin(Kind::kWrite, RangeOf(writes[i]), writes[i].fua ? " fua" : "");
      if (results[i].ok()) disk_.Put(writes[i]);
    }
  }

  absl::Status WriteZeroes(ByteRange range, ZeroedSpace space, bool fua) override {
    const bool kept = space == ZeroedSpace::kKept;
    const char* const flags = kept ? (fua ? " kept fua" : " kept") : (fua ? " fua" : "");
    RETURN_IF_ERROR(disk_.Begin(Kind::kWriteZeroes, range, flags));
    disk_.Zero(range, kept ? State::kZero : State::kHole);
    return absl::OkStatus();
  }

  absl::Status Trim(ByteRange range, bool fua) override {
    RETURN_IF_ERROR(disk_.Begin(Kind::kTrim, range, fua ? " fua" : ""));
    disk_.Zero(range, State::kHole);
    return absl::OkStatus();
  }

  absl::Status Flush() override { return disk_.Begin(Kind::kFlush, {}); }

  absl::StatusOr<std::vector<BlockRun>> Map(ByteRange range, size_t runs_max) override {
    UNDERSTUDY_CHECK(disk_.options_.has_map && runs_max > 0);
    RETURN_IF_ERROR(disk_.Begin(Kind::kBlockStatus, range));
    return disk_.Map(range, runs_max);
  }

 private:
  MemoryDisk& disk_;
};

MemoryDisk::MemoryDisk(Options options)
    : options_(std::move(options)), bytes_(MapMemory(options_.size_bytes)) {
  states_[0] = State::kHole;
}

MemoryDisk::~MemoryDisk() {
  UNDERSTUDY_CHECK(devices_ == 0, "a device outlives its disk");
  munmap(bytes_, options_.size_bytes);
}

std::unique_ptr<Device> MemoryDisk::Open() { return std::make_unique<OpenDevice>(this); }

std::string MemoryDisk::Bytes(ByteRange range) const {
  base::MutexLock lock(mutex_);
  return {bytes_ + range.start, range.size()};
}

void MemoryDisk::Fill(uint64_t offset, const std::string& data) {
  Put({.offset = offset, .data = data});
}

std::vector<std::string> MemoryDisk::TakeCalls() {
  base::MutexLock lock(mutex_);
  return std::exchange(kept_calls_, {});
}

absl::Status MemoryDisk::Begin(Kind kind, ByteRange range, const char* flags) {
  Called(kind, range, flags);
  return options_.before ? options_.before(kind, range) : absl::OkStatus();
}

void MemoryDisk::Called(Kind kind, ByteRange range, const char* flags) {
  if (kind != Kind::kFlush) {
    UNDERSTUDY_CHECK(
        range.start < range.end && range.end <= options_.size_bytes && range.SectorAligned(),
        range.ToString());
  }
  ++calls_[static_cast<size_t>(kind)];
  if (!options_.keep_calls) return;
  const absl::string_view name = kKindNames[static_cast<size_t>(kind)];
  base::MutexLock lock(mutex_);
  kept_calls_.push_back(kind == Kind::kFlush
                            ? std::string(name)
                            : absl::StrCat(name, " ", range.start, "+", range.size(), flags));
}

void MemoryDisk::Put(const Write& write) {
  if (options_.drop_writes) return;
  base::MutexLock lock(mutex_);
  std::memcpy(bytes_ + write.offset, write.data.data(), write.data.size());
  SetStateLocked(RangeOf(write), State::kData);
}

void MemoryDisk::Zero(ByteRange range, State state) {
  if (options_.drop_writes) return;
  base::MutexLock lock(mutex_);
  std::memset(bytes_ + range.start, 0, range.size());
  SetStateLocked(range, state);
}

void MemoryDisk::SetStateLocked(ByteRange range, State state) {
  const State behind = std::prev(states_.upper_bound(range.end))->second;
  const auto first = states_.lower_bound(range.start);
  const bool joins_before = first != states_.begin() && std::prev(first)->second == state;
  states_.erase(first, states_.upper_bound(range.end));
  if (!joins_before) states_[range.start] = state;
  if (range.end < options_.size_bytes && behind != state) states_[range.end] = behind;
}

std::vector<BlockRun> MemoryDisk::Map(ByteRange range, size_t runs_max) const {
  std::vector<BlockRun> runs;
  base::MutexLock lock(mutex_);
  auto run = std::prev(states_.upper_bound(range.start));
  for (uint64_t at = range.start; at < range.end && runs.size() < runs_max;) {
    const State state = run->second;
    const uint64_t end = ++run == states_.end() ? range.end : std::min(range.end, run->first);
    runs.push_back(
        {.range = {at, end}, .zero = state != State::kData, .hole = state == State::kHole});
    at = end;
  }
  return runs;
}

std::vector<std::string> MemoryCatalog::Names() {
  std::vector<std::string> names;
  for (const MemoryDisk* disk : disks_) names.push_back(disk->options().name);
  return names;
}

absl::StatusOr<std::unique_ptr<Device>> MemoryCatalog::Open(const std::string& name) {
  for (MemoryDisk* disk : disks_) {
    if (name.empty() || name == disk->options().name) return disk->Open();
  }
  return absl::NotFoundError(absl::StrCat("no disk is called ", name, "; ask for the list"));
}

}  // namespace understudy::nbd
