// tests/storage/store_fixture.h
//
// A Store in a temporary directory with one group, and a byte array per volume and view to compare it with.
#ifndef UNDERSTUDY_TESTS_STORAGE_STORE_FIXTURE_H_
#define UNDERSTUDY_TESTS_STORAGE_STORE_FIXTURE_H_

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/clock.h"
#include "storage/base/file_system.h"
#include "storage/base/mutex.h"
#include "storage/store.h"
#include "tests/testing/fault_file_system.h"
#include "tests/testing/seed.h"
#include "tests/testing/temp_dir.h"

namespace understudy::storage {

// What a group has to say against itself.
class BackgroundErrors : public ReplicaListener {
 public:
  void OnBackgroundError(const BackgroundError& error) override {
    base::MutexLock lock(mutex_);
    errors_.push_back(error.status);
  }
  void OnChange() override {}
  std::vector<absl::Status> Take() {
    base::MutexLock lock(mutex_);
    return std::exchange(errors_, {});
  }

 private:
  base::Mutex mutex_;
  std::vector<absl::Status> errors_ ABSL_GUARDED_BY(mutex_);
};

// One group with `volume_count` volumes of `volume_bytes`, driven as the server would drive it.
class StoreFixture {
 public:
  explicit StoreFixture(uint64_t seed, size_t volume_count = 2, uint64_t volume_bytes = 1 << 20)
      : random_(seed), volume_bytes_(volume_bytes) {
    options_.data_dir = absl::StrCat(directory_.path(), "/data");
    options_.disk_dirs = {directory_.path()};
    options_.segment_bytes = 4 << 20;
    spec_.name = "vm1";
    for (size_t i = 0; i < volume_count; ++i) {
      const std::string path = absl::StrCat(directory_.path(), "/disk", i, ".img");
      initial_.push_back(Bytes(volume_bytes));
      EXPECT_TRUE(base::FileSystem::Posix().WriteFileAtomically(path, initial_[i]).ok());
      spec_.volumes.push_back({.name = absl::StrCat("v", i),
                               .top_id = absl::StrCat("vm1/v", i),
                               .disk_path = path,
                               .size_bytes = volume_bytes});
    }
  }

  absl::Status OpenStore() {
    auto store = Store::Open(options_, files_, *clock_, random_);
    if (!store.ok()) return store.status();
    store_ = *std::move(store);
    auto replica = store_->Open(spec_);
    if (!replica.ok()) return replica.status();
    replica_ = *std::move(replica);
    return absl::OkStatus();
  }
  void CloseStore() {
    replica_ = nullptr;
    store_ = nullptr;
  }
  // As after kill -9 of an idle store: goes on from a copy of the data directory as it is now, with nothing flushed that
  // closing would flush.
  absl::Status CrashAndOpen() {
    replica_->WaitForJobs(base::Deadline::Never()).IgnoreError();
    CopyDataDir();
    return OpenCopy();
  }
  // The data directory as a kill -9 would leave it, at one instant: RocksDB compacts beside this, so it is copied again until
  // nothing has changed meanwhile. Returns where it is.
  std::string CopyDataDir() {
    std::error_code error;
    for (int attempt = 0; attempt < 1000; ++attempt) {
      const auto before = Files(options_.data_dir);
      std::filesystem::copy(options_.data_dir, Copy(), std::filesystem::copy_options::recursive,
                            error);
      if (!error && Files(options_.data_dir) == before) break;
      std::filesystem::remove_all(Copy());
    }
    EXPECT_TRUE(std::filesystem::exists(Copy()))
        << options_.data_dir << " keeps changing, or cannot be copied: " << error;
    return Copy();
  }
  // Goes on from what CopyDataDir() has copied.
  absl::Status OpenCopy() {
    CloseStore();
    std::filesystem::remove_all(options_.data_dir);
    std::filesystem::rename(Copy(), options_.data_dir);
    return OpenStore();
  }
  absl::Status StartAndAttach() {
    if (auto started = replica_->Start(); !started.ok()) return started;
    if (auto bound = replica_->BindAgent("agent", false); !bound.ok()) return bound;
    next_sequence_ = 1;
    return replica_->AttachStream(++stream_id_, /*may_checkpoint=*/false);
  }

  // From now on nothing can be made or removed beside the disks, as when their directory has become
  // root's; `files_too`: nor can what lies there be emptied.
  void ForbidBesideDisks(bool files_too) {
    files_.SetHook([this, files_too](testing::FileOperation operation, const std::string& path) {
      using testing::FileOperation;
      const bool temporary = path.ends_with(".tmp");
      const bool made = temporary && operation == FileOperation::kWrite;
      const bool removed = !temporary && operation == FileOperation::kRemove;
      const bool emptied = !temporary && operation == FileOperation::kTruncate && files_too;
      const bool beside =
          path.starts_with(directory() + "/disk") && path.find(".understudy") != std::string::npos;
      return beside && (made || removed || emptied) ? base::ErrnoStatus(EACCES, path)
                                                    : absl::OkStatus();
    });
  }

  std::string Bytes(size_t size) { return testing::Random(random_()).Bytes(size); }

  // One frame of the primary.
  absl::Status Append(std::vector<Operation> operations, const std::string& payload,
                      CheckpointCallback on_checkpoint = nullptr) {
    const ReplicaState state = replica_->state();
    // In two slices cut at an odd place, as a socket would.
    const size_t cut = payload.size() / 3;
    const std::vector<std::span<const char>> slices = {
        {payload.data(), cut}, {payload.data() + cut, payload.size() - cut}};
    const absl::Status status = replica_->Append({.incarnation = state.incarnation,
                                                  .term = state.term,
                                                  .stream_id = state.stream_id,
                                                  .first_sequence = next_sequence_,
                                                  .operations = operations,
                                                  .payload = slices},
                                                 std::move(on_checkpoint));
    if (status.ok()) next_sequence_ += operations.size();
    return status;
  }
  absl::Status PrimaryWrite(uint32_t volume, uint64_t offset, const std::string& data) {
    return Append(
        {{.volume = volume, .kind = OperationKind::kData, .offset = offset, .length = data.size()}},
        data);
  }
  absl::Status PrimaryZero(uint32_t volume, uint64_t offset, uint64_t length) {
    return Append(
        {{.volume = volume, .kind = OperationKind::kZero, .offset = offset, .length = length}}, "");
  }
  absl::StatusOr<CheckpointResult> MarkedCheckpoint() {
    std::promise<absl::StatusOr<CheckpointResult>> promise;
    auto future = promise.get_future();
    const absl::Status status = Append(
        {{.kind = OperationKind::kCheckpoint}}, "",
        [&](absl::StatusOr<CheckpointResult> result) { promise.set_value(std::move(result)); });
    if (!status.ok()) return status;
    return future.get();
  }
  absl::StatusOr<CheckpointResult> Checkpoint() {
    std::promise<absl::StatusOr<CheckpointResult>> promise;
    auto future = promise.get_future();
    replica_->RequestCheckpoint(
        [&](absl::StatusOr<CheckpointResult> result) { promise.set_value(std::move(result)); });
    return future.get();
  }
  // Good until the volume's next one: in the same memory, as a sanitizer takes longer to give and
  // take that much than to compare it.
  const std::string& View(uint32_t volume) {
    std::string& view = views_[volume];
    view.assign(volume_bytes_, '?');
    const absl::Status read =
        replica_->Read(VolumeId(volume), 0, std::span(view.data(), view.size()));
    if (!read.ok()) view = read.ToString();
    return view;
  }
  std::string RawDisk(uint32_t volume) {
    return base::FileSystem::Posix()
        .ReadWholeFile(spec_.volumes[volume].disk_path)
        .value_or("unreadable");
  }

  Replica& replica() { return *replica_; }
  Store& store() { return *store_; }
  // Before OpenStore().
  void set_clock(const base::Clock& clock) { clock_ = &clock; }
  testing::FaultFileSystem& files() { return files_; }
  StoreOptions& options() { return options_; }
  GroupSpec& spec() { return spec_; }
  const std::string& initial(size_t volume) const { return initial_[volume]; }
  const std::string& directory() const { return directory_.path(); }
  uint64_t next_sequence() const { return next_sequence_; }
  void set_next_sequence(uint64_t sequence) { next_sequence_ = sequence; }
  std::mt19937_64& random() { return random_; }

 private:
  std::string Copy() const { return absl::StrCat(options_.data_dir, "+"); }
  // Names, sizes in bytes and times of the last change; a file that has gone meanwhile has neither.
  static std::map<std::string, std::pair<uintmax_t, std::filesystem::file_time_type>> Files(
      const std::string& directory) {
    std::map<std::string, std::pair<uintmax_t, std::filesystem::file_time_type>> files;
    std::error_code gone;
    for (const auto& file : std::filesystem::recursive_directory_iterator(directory)) {
      files[file.path()] = {std::filesystem::file_size(file.path(), gone),
                            std::filesystem::last_write_time(file.path(), gone)};
    }
    return files;
  }

  testing::TempDir directory_;
  testing::FaultFileSystem files_;
  const base::Clock* clock_ = &base::Clock::Real();
  std::mt19937_64 random_;
  const uint64_t volume_bytes_;
  StoreOptions options_;
  GroupSpec spec_;
  std::vector<std::string> initial_;
  std::map<uint32_t, std::string> views_;
  std::unique_ptr<Store> store_;
  std::shared_ptr<Replica> replica_;
  uint64_t next_sequence_ = 1;
  uint64_t stream_id_ = 100;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_TESTS_STORAGE_STORE_FIXTURE_H_
