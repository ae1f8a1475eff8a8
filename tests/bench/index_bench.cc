// Measures what the extents of overlays cost: memory, lookups, recovery, and reads through many kept epochs. Prints Markdown.
//
//   index_bench DIR     works in DIR, which must exist; about a minute and 1 GiB
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "storage/base/clock.h"
#include "storage/base/file_system.h"
#include "storage/base/log.h"
#include "storage/extent_memory.h"
#include "storage/index.h"
#include "storage/overlay.h"
#include "storage/segment_pool.h"
#include "storage/store.h"

namespace understudy::storage {
namespace {

constexpr uint64_t kExtents = 1 << 20;
constexpr uint64_t kLookups = 100'000;
constexpr uint64_t kRollForwardBytes = 1 << 30;
constexpr int kEpochsMax = 64;  // that are kept

double Seconds(absl::Time begun) { return absl::ToDoubleSeconds(absl::Now() - begun); }

template <typename T>
T Check(absl::StatusOr<T> result) {
  UNDERSTUDY_CHECK(result.ok(), result.status().ToString());
  return *std::move(result);
}
void Check(const absl::Status& status) { UNDERSTUDY_CHECK(status.ok(), status.ToString()); }

uint64_t DirectoryBytes(const std::string& path) {
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    struct stat info {};
    if (stat(entry.path().c_str(), &info) == 0 && S_ISREG(info.st_mode)) {
      bytes += static_cast<uint64_t>(info.st_blocks) * 512;
    }
  }
  return bytes;
}

// Resident memory of the process, from /proc/self/statm.
uint64_t ResidentBytes() {
  std::FILE* const file = std::fopen("/proc/self/statm", "r");
  unsigned long long size = 0;
  unsigned long long resident = 0;
  UNDERSTUDY_CHECK(std::fscanf(file, "%llu %llu", &size, &resident) == 2);
  std::fclose(file);
  return resident * 4096;
}

// Extents of random 4 KiB writes in one map, dense (one block of 16) or sparse (one of 4096).
void MeasureMap(const std::string& name, uint64_t spread) {
  std::mt19937_64 random(1);
  const uint64_t before = ResidentBytes();
  ExtentMap map;
  std::vector<ExtentMutation> mutations;
  const absl::Time begun = absl::Now();
  for (uint64_t i = 0; i < kExtents; ++i) {
    const uint64_t start = random() % (kExtents * spread) * kBlockBytes;
    map.Put(VolumeId(0), start + kBlockBytes,
            {.start = start, .origin_start = start, .origin_bytes = kBlockBytes, .segment = 1}, 1,
            &mutations);
    mutations.clear();
  }
  const double put = Seconds(begun);
  const uint64_t count = map.resident_extents();
  std::printf("| resident bytes per extent, %s | %.1f (counted %.1f) |\n", name.c_str(),
              static_cast<double>(ResidentBytes() - before) / static_cast<double>(count),
              static_cast<double>(map.memory_bytes()) / static_cast<double>(count));
  std::printf("| writes into the map per second, %s | %.0f |\n", name.c_str(), kExtents / put);
}

double LookupsPerSecond(Overlay& overlay, uint64_t spread, uint64_t count) {
  std::mt19937_64 random(2);
  std::vector<OverlayExtent> extents;
  uint64_t found = 0;
  const absl::Time begun = absl::Now();
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t start = random() % (kExtents * spread) * kBlockBytes;
    extents.clear();
    Check(overlay.Extents(VolumeId(0), {start, start + kBlockBytes}, &extents));
    found += extents.size();
  }
  UNDERSTUDY_CHECK(found > 0);
  return static_cast<double>(count) / Seconds(begun);
}

// One overlay of random 4 KiB writes, in memory and then in the index only.
void MeasureLookups(const std::string& directory) {
  constexpr uint64_t kSpread = 16;
  const std::string path = absl::StrCat(directory, "/index");
  const OverlayRecord record{.group = 1};
  OverlayId id;
  std::filesystem::create_directories(absl::StrCat(directory, "/segments"));
  SegmentPool pool(base::FileSystem::Posix(), absl::StrCat(directory, "/segments"), 4 << 20, 0, 1);
  const std::shared_ptr<Segment> segment = Check(pool.Take(1, LogRole::kHidden, 1));
  Check(Index::Create(path));
  {
    auto index = Check(Index::Open(path, 96 << 20));
    ExtentMemory memory(1 << 30);
    id = Check(index->NextOverlay());
    Overlay overlay(id, record, 1, *index, memory, Overlay::Origin::kNew);
    std::mt19937_64 random(1);
    for (uint64_t i = 0; i < kExtents; i += 4096) {
      std::vector<Operation> operations;
      for (uint64_t n = 0; n < 4096; ++n) {
        operations.push_back({.kind = OperationKind::kData,
                              .offset = random() % (kExtents * kSpread) * kBlockBytes,
                              .length = kBlockBytes});
      }
      Index::Batch batch(*index);
      batch.Mutate(id, overlay.Apply(operations, segment, {4096, 4096}).mutations);
      Check(index->Write(std::move(batch), /*sync=*/false));
    }
    std::printf("| lookups of 4 KiB per second, in memory | %.0f |\n",
                LookupsPerSecond(overlay, kSpread, 10 * kLookups));
    Index::Batch batch(*index);
    batch.PutOverlay(id, record);
    Check(index->Write(std::move(batch), /*sync=*/true));
  }
  auto index = Check(Index::Open(path, 96 << 20));
  ExtentMemory memory(1 << 30);
  Overlay cold(id, record, 1, *index, memory, Overlay::Origin::kIndex);
  cold.HoldSegment(segment);
  std::printf("| lookups of 4 KiB per second, in the index (its cache holds it) | %.0f |\n",
              LookupsPerSecond(cold, kSpread, kLookups));
  std::printf("| index bytes per extent on disk | %.1f |\n",
              static_cast<double>(DirectoryBytes(path)) / kExtents);
}

// ---- a whole store -----------------------------------------------------------------------------------------------------------

class Group {
 public:
  Group(const std::string& directory, uint64_t volume_bytes)
      : Group(directory, volume_bytes, OptionsFor(directory)) {}
  Group(const std::string& directory, uint64_t volume_bytes, const StoreOptions& options)
      : volume_bytes_(volume_bytes), options_(options) {
    std::filesystem::create_directories(directory);
    spec_ = {.name = "bench",
             .volumes = {{.name = "vda",
                          .top_id = "bench/vda",
                          .disk_path = absl::StrCat(directory, "/disk.raw"),
                          .size_bytes = volume_bytes,
                          .create = true,
                          .initial = Initial::kEqual}}};
    Check(base::FileSystem::Posix().WriteFileAtomically(spec_.volumes[0].disk_path, ""));
    std::filesystem::resize_file(spec_.volumes[0].disk_path, volume_bytes);
    spec_.volumes[0].create = false;
    Open();
    Check(replica_->Start());
    Check(replica_->BindAgent("bench", false));
    Check(replica_->AttachStream(1, false));
  }
  static StoreOptions OptionsFor(const std::string& directory) {
    StoreOptions options;
    options.data_dir = absl::StrCat(directory, "/data");
    options.disk_dirs = {directory};
    options.checkpoint_durable = false;
    options.history_epochs = kEpochsMax;
    return options;
  }
  void Open() {
    replica_ = nullptr;
    store_ = nullptr;
    const absl::Time begun = absl::Now();
    store_ = Check(Store::Open(options_, base::FileSystem::Posix(), base::Clock::Real(), random_));
    open_seconds_ = Seconds(begun);
    replica_ = Check(store_->Open(spec_));
  }
  // `count` random writes of `bytes` each.
  void Write(uint64_t count, uint64_t bytes) {
    std::vector<char> data(128 * bytes, 'x');
    const std::span<const char> payload(data);
    const ReplicaState state = replica_->state();
    for (; count > 0; count -= 128) {
      std::vector<Operation> operations;
      for (int i = 0; i < 128; ++i) {
        operations.push_back({.kind = OperationKind::kData,
                              .offset = random_() % (volume_bytes_ / kBlockBytes) * kBlockBytes,
                              .length = bytes});
      }
      Check(replica_->Append({.incarnation = state.incarnation,
                              .term = state.term,
                              .stream_id = 1,
                              .first_sequence = replica_->state().received_sequence + 1,
                              .operations = operations,
                              .payload = std::span(&payload, 1)},
                             nullptr));
    }
  }
  void Checkpoint() {
    std::promise<absl::Status> done;
    replica_->RequestCheckpoint(
        [&](absl::StatusOr<CheckpointResult> result) { done.set_value(result.status()); });
    Check(done.get_future().get());
  }
  double ReadsPerSecond() {
    std::mt19937_64 random(3);
    std::vector<char> block(kBlockBytes);
    const absl::Time begun = absl::Now();
    for (uint64_t i = 0; i < kLookups; ++i) {
      Check(replica_->Read(VolumeId(0), random() % (volume_bytes_ / kBlockBytes) * kBlockBytes,
                           block));
    }
    return kLookups / Seconds(begun);
  }
  double open_seconds() const { return open_seconds_; }
  Store& store() { return *store_; }

 private:
  const uint64_t volume_bytes_;
  std::mt19937_64 random_{4};
  const StoreOptions options_;
  GroupSpec spec_;
  std::unique_ptr<Store> store_;
  std::shared_ptr<Replica> replica_;
  double open_seconds_ = 0;
};

void MeasureRecovery(const std::string& directory) {
  Group group(directory, uint64_t{64} << 30);
  group.Open();
  const double empty = group.open_seconds();
  group.Write(kExtents, kSectorBytes);
  group.Checkpoint();
  group.Open();
  std::printf("| recovery of a group with a million extents, s (with none) | %.3f (%.3f) |\n",
              group.open_seconds(), empty);
}

// A GiB of log that the index knows nothing of, as after a crash of a service that could not write its index for long.
void MeasureRollForward(const std::string& directory) {
  StoreOptions options = Group::OptionsFor(directory);
  options.index_batch_delay = absl::Hours(1);
  options.index_batch_bytes = uint64_t{1} << 40;
  const pid_t child = fork();
  UNDERSTUDY_CHECK(child >= 0, "fork");
  if (child == 0) {
    Group group(directory, uint64_t{4} << 30, options);
    group.Write(kRollForwardBytes / kBlockBytes, kBlockBytes);
    _exit(0);
  }
  int status = 0;
  UNDERSTUDY_CHECK(waitpid(child, &status, 0) == child && status == 0, status);
  const uint64_t resident = ResidentBytes();
  const absl::Time begun = absl::Now();
  std::mt19937_64 random(5);
  const auto store =
      Check(Store::Open(options, base::FileSystem::Posix(), base::Clock::Real(), random));
  const double seconds = Seconds(begun);
  const ReplicaState state = Check(store->Find("bench"))->state();
  UNDERSTUDY_CHECK(state.received_sequence == kRollForwardBytes / kBlockBytes,
                   state.received_sequence);
  std::printf("| recovery of a GiB of log, 4 KiB writes in frames of 512 KiB, s | %.2f |\n",
              seconds);
  std::printf("| resident bytes that it took, MiB | %.0f |\n",
              static_cast<double>(ResidentBytes() - resident) / (1 << 20));
}

// Random writes all over a volume whose extents do not fit into the memory they are given.
void MeasureColdWrites(const std::string& directory) {
  StoreOptions options = Group::OptionsFor(directory);
  options.index_memory_max = 64 << 20;
  options.reserve_disk_space = false;  // nothing is applied
  const uint64_t resident = ResidentBytes();
  Group group(directory, uint64_t{1} << 40, options);
  const absl::Time begun = absl::Now();
  group.Write(kExtents, kSectorBytes);
  const double seconds = Seconds(begun);
  std::printf(
      "| a million random writes to 1 TiB with --index-memory-max 64 MiB: per second | %.0f |\n",
      kExtents / seconds);
  std::printf(
      "| their extents in memory, MiB (resident memory of the process grew by) | %.0f (%.0f) |\n",
      static_cast<double>(group.store().Space()->extent_memory_bytes) / (1 << 20),
      static_cast<double>(ResidentBytes() - resident) / (1 << 20));
}

// The same writes for every number of epochs, so that as many reads find their data in an overlay: 256 MiB at random, then a 64th of
// that, 64 times.
std::unique_ptr<Group> KeptEpochs(const std::string& directory, int epochs) {
  auto group = std::make_unique<Group>(directory, 256 << 20);
  group->Write(256 << 8, kBlockBytes);
  for (int batch = 1; batch <= kEpochsMax; ++batch) {
    group->Write(1024, kBlockBytes);
    if (batch % (kEpochsMax / epochs) == 0) group->Checkpoint();
  }
  group->ReadsPerSecond();  // as it goes on, not the first time
  return group;
}

// In turns: what else the machine does meanwhile must not look like the number of epochs.
void MeasureEpochs(const std::string& directory) {
  constexpr int kEpochs[] = {1, 8, kEpochsMax};
  constexpr size_t kRounds = 9;
  std::vector<std::unique_ptr<Group>> groups;
  for (const int epochs : kEpochs) {
    groups.push_back(KeptEpochs(absl::StrCat(directory, "/", epochs), epochs));
  }
  std::vector<std::vector<double>> reads(groups.size());
  for (size_t round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < groups.size(); ++i) reads[i].push_back(groups[i]->ReadsPerSecond());
  }
  for (auto& rounds : reads)
    std::nth_element(rounds.begin(), rounds.begin() + kRounds / 2, rounds.end());
  for (size_t i = 0; i < groups.size(); ++i) {
    const double median = reads[i][kRounds / 2];
    std::printf("| 4 KiB reads per second, %d epochs kept, median of %zu (to 1) | %.0f (%.2f) |\n",
                kEpochs[i], kRounds, median, reads[0][kRounds / 2] / median);
  }
}

}  // namespace
}  // namespace understudy::storage

int main(int argc, char** argv) {
  using namespace understudy::storage;  // NOLINT
  if (argc != 2) {
    std::fprintf(stderr, "usage: index_bench DIR\n");
    return 2;
  }
  const std::string directory = argv[1];
  std::printf("| extents | |\n| --- | --- |\n");
  MeasureMap("random 4 KiB writes, one block of 16", 16);
  MeasureMap("random 4 KiB writes, one block of 4096", 4096);
  MeasureLookups(directory);
  MeasureRecovery(directory + "/recovery");
  MeasureRollForward(directory + "/log");
  MeasureColdWrites(directory + "/cold");
  MeasureEpochs(directory + "/epochs");
  return 0;
}
