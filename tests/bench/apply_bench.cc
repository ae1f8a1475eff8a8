// What the apply job costs: its speed beside a plain copy of as many bytes, the bytes written per byte received, and what the
// write stream and the checkpoints notice of it. Prints Markdown. Called by run.sh; DIR is on the file system to measure.
//
//   apply_bench speed|stream|written DIR [MIB]    MIB of data per epoch, default 512; the volume is twice that
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <vector>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/store.h"

namespace understudy::storage {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kFrameBytes = 256 << 10;
constexpr int kRounds = 5;

double Seconds() { return absl::ToDoubleSeconds(base::Clock::Real().Monotonic()); }

void Must(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "apply_bench: %s\n", status.ToString().c_str());
  std::exit(1);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// What the device below `dir` was given to write so far, once all that waits for it is there.
uint64_t WrittenBytes(const std::string& dir) {
  struct stat info;
  const int fd = open(dir.c_str(), O_RDONLY | O_DIRECTORY);
  if (fd < 0 || fstat(fd, &info) != 0 || syncfs(fd) != 0) Must(base::ErrnoStatus(errno, dir));
  close(fd);
  const std::string path =
      absl::StrCat("/sys/dev/block/", major(info.st_dev), ":", minor(info.st_dev), "/stat");
  std::ifstream stat_file(path);
  uint64_t field[7] = {};
  for (uint64_t& value : field) stat_file >> value;
  if (!stat_file) Must(absl::NotFoundError(path));
  return field[6] * 512;
}

// A store with one group whose disk's blocks exist, fed as the server would feed it.
class Bench {
 public:
  Bench(std::string dir, uint64_t data_bytes)
      : dir_(std::move(dir)), data_bytes_(data_bytes), volume_bytes_(2 * data_bytes) {
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
    for (char& byte : frame_) byte = static_cast<char>(random_());
    auto disk = base::FileSystem::Posix().Open(DiskPath(), {.create = true});
    Must(disk.status());
    for (uint64_t at = 0; at < volume_bytes_; at += kFrameBytes) Must((*disk)->Write(at, frame_));
    Must((*disk)->Sync());
    disk->reset();
    Open(/*history_epochs=*/0);
    Must(replica_->Start());
    Must(replica_->BindAgent("bench", false));
    Must(replica_->AttachStream(1, false));
  }
  ~Bench() {
    Close();
    std::filesystem::remove_all(dir_);
  }

  std::string DiskPath() const { return dir_ + "/disk.raw"; }

  // One frame of writes of `bytes` each, at random places or one behind the other.
  void Append(uint64_t bytes, bool in_order) {
    std::vector<Operation> operations;
    for (uint64_t at = 0; at < kFrameBytes; at += bytes) {
      const uint64_t block = in_order ? next_block_++ : random_();
      operations.push_back({.kind = OperationKind::kData,
                            .offset = block % (volume_bytes_ / bytes) * bytes,
                            .length = bytes});
    }
    frame_[random_() % kFrameBytes] ^= 1;
    const std::span<const char> payload(frame_);
    const ReplicaState state = replica_->state();
    Must(replica_->Append({.incarnation = state.incarnation,
                           .term = state.term,
                           .stream_id = 1,
                           .first_sequence = sequence_,
                           .operations = operations,
                           .payload = {&payload, 1}},
                          nullptr));
    sequence_ += operations.size();
  }
  void AppendAll(uint64_t bytes, bool in_order) {
    for (uint64_t done = 0; done < data_bytes_; done += kFrameBytes) Append(bytes, in_order);
  }
  void Checkpoint() {
    std::promise<absl::StatusOr<CheckpointResult>> done;
    replica_->RequestCheckpoint(
        [&](absl::StatusOr<CheckpointResult> result) { done.set_value(std::move(result)); });
    const absl::StatusOr<CheckpointResult> result = done.get_future().get();
    Must(result.status());
    applied_bytes_ = result->bytes;
  }
  void WaitForApply() { Must(replica_->WaitForJobs(base::Deadline::Never())); }
  // Of different places, in the last epoch.
  uint64_t applied_bytes() const { return applied_bytes_; }
  // Applies nothing from now on.
  void KeepHistory() {
    Close();
    Open(/*history_epochs=*/1 << 20);
  }

 private:
  void Open(uint64_t history_epochs) {
    auto store = Store::Open({.data_dir = dir_ + "/data",
                              .disk_dirs = {dir_},
                              .free_segment_bytes_max = 8 * data_bytes_,
                              .history_epochs = history_epochs},
                             base::FileSystem::Posix(), base::Clock::Real(), random_);
    Must(store.status());
    store_ = *std::move(store);
    auto replica = store_->Open(
        {.name = "bench", .volumes = {{.name = "v", .top_id = "v", .disk_path = DiskPath()}}});
    Must(replica.status());
    replica_ = *std::move(replica);
  }
  void Close() {
    replica_ = nullptr;
    store_ = nullptr;
  }

  const std::string dir_;
  const uint64_t data_bytes_;
  const uint64_t volume_bytes_;
  std::mt19937_64 random_{1};
  std::string frame_ = std::string(kFrameBytes, '\0');
  std::unique_ptr<Store> store_;
  std::shared_ptr<Replica> replica_;
  uint64_t sequence_ = 1;
  uint64_t next_block_ = 0;
  uint64_t applied_bytes_ = 0;
};

// Seconds for dd to copy as many bytes, from a file in the page cache into one whose blocks exist.
double PlainCopy(const std::string& dir, uint64_t bytes) {
  const std::string from = dir + "/from";
  const std::string to = dir + "/to";
  const auto dd = [&](const std::string& source) {
    const std::string command =
        absl::StrCat("dd if=", source, " of=", to, " bs=1M count=", bytes / kMiB,
                     " conv=notrunc,fdatasync status=none");
    const double begun = Seconds();
    if (std::system(command.c_str()) != 0) Must(absl::InternalError("dd failed"));
    return Seconds() - begun;
  };
  if (!std::filesystem::exists(from)) {
    dd("/dev/urandom");
    std::filesystem::rename(to, from);
    dd(from);
  }
  return dd(from);
}

struct Pattern {
  const char* name;
  uint64_t bytes;
  bool in_order;
};
constexpr Pattern kPatterns[] = {{"256 KiB in order", kFrameBytes, true},
                                 {"64 KiB at random", 64 << 10, false},
                                 {"4 KiB at random", 4 << 10, false}};

void Speed(const std::string& dir, uint64_t data_bytes) {
  std::printf("| one epoch of writes of | apply MB/s | dd MB/s | apply / dd |\n");
  std::printf("| --- | --- | --- | --- |\n");
  for (const Pattern& pattern : kPatterns) {
    std::vector<double> apply;
    std::vector<double> copy;
    Bench bench(dir + "/store", data_bytes);
    for (int round = 0; round < kRounds; ++round) {
      bench.AppendAll(pattern.bytes, pattern.in_order);
      bench.Checkpoint();
      const double begun = Seconds();
      bench.WaitForApply();
      apply.push_back(static_cast<double>(bench.applied_bytes()) / 1e6 / (Seconds() - begun));
      copy.push_back(static_cast<double>(data_bytes) / 1e6 / PlainCopy(dir, data_bytes));
    }
    std::printf("| %s | %.0f | %.0f | %.2f |\n", pattern.name, Median(apply), Median(copy),
                Median(apply) / Median(copy));
    std::fflush(stdout);
  }
}

// DIR is on a device of its own.
void Written(const std::string& dir, uint64_t data_bytes) {
  for (const Pattern& pattern : kPatterns) {
    Bench bench(dir + "/store", data_bytes);
    double bytes[2] = {};  // a first round makes the segments
    for (double& round : bytes) {
      const uint64_t before = WrittenBytes(dir);
      bench.AppendAll(pattern.bytes, pattern.in_order);
      bench.Checkpoint();
      bench.WaitForApply();
      round = static_cast<double>(WrittenBytes(dir) - before) / static_cast<double>(data_bytes);
    }
    std::printf(" %.2f |", bytes[1]);
    std::fflush(stdout);
  }
  std::printf("\n");
}

struct Stream {
  double mb_per_second = 0;
  double frame_99_ms = 0;
  double checkpoint_ms = 0;
  double checkpoint_max_ms = 0;
};

// Four times the data as fast as it is taken, a checkpoint 16 times: into segments that exist.
Stream Forward(const std::string& dir, uint64_t data_bytes, bool apply) {
  Bench bench(dir + "/store", data_bytes);
  for (int i = 0; i < 4; ++i) bench.AppendAll(64 << 10, false);  // segments to use again
  bench.Checkpoint();
  bench.WaitForApply();
  if (!apply) bench.KeepHistory();
  std::vector<double> frames, checkpoints;
  const uint64_t frame_count = 4 * data_bytes / kFrameBytes;
  const double begun = Seconds();
  for (uint64_t i = 1; i <= frame_count; ++i) {
    const double before = Seconds();
    bench.Append(64 << 10, false);
    frames.push_back(Seconds() - before);
    if (i % (frame_count / 16) != 0) continue;
    const double asked = Seconds();
    bench.Checkpoint();
    checkpoints.push_back(Seconds() - asked);
  }
  const double took = Seconds() - begun;
  std::sort(frames.begin(), frames.end());
  return {.mb_per_second = static_cast<double>(4 * data_bytes) / 1e6 / took,
          .frame_99_ms = frames[frames.size() * 99 / 100] * 1e3,
          .checkpoint_ms = Median(checkpoints) * 1e3,
          .checkpoint_max_ms = *std::max_element(checkpoints.begin(), checkpoints.end()) * 1e3};
}

void Interference(const std::string& dir, uint64_t data_bytes) {
  std::printf(
      "| writes of 64 KiB at random | MB/s | slowest of 100 frames, ms | checkpoint, median, ms "
      "| "
      "slowest, ms |\n| --- | --- | --- | --- | --- |\n");
  std::vector<std::vector<double>> columns[2];
  for (int apply = 0; apply < 2; ++apply) columns[apply].resize(4);
  for (int round = 0; round < kRounds; ++round) {
    for (int apply = 0; apply < 2; ++apply) {
      const Stream stream = Forward(dir, data_bytes, apply == 1);
      columns[apply][0].push_back(stream.mb_per_second);
      columns[apply][1].push_back(stream.frame_99_ms);
      columns[apply][2].push_back(stream.checkpoint_ms);
      columns[apply][3].push_back(stream.checkpoint_max_ms);
    }
  }
  for (int apply = 0; apply < 2; ++apply) {
    std::printf("| %s |", apply == 1 ? "applied meanwhile" : "kept as history");
    std::printf(" %.0f | %.2f | %.1f | %.1f |\n", Median(columns[apply][0]),
                Median(columns[apply][1]), Median(columns[apply][2]), Median(columns[apply][3]));
  }
  std::printf("| ratio of the two | %.2f | | | |\n", Median(columns[1][0]) / Median(columns[0][0]));
}

}  // namespace
}  // namespace understudy::storage

int main(int argc, char** argv) {
  using namespace understudy::storage;
  if (argc < 3) {
    std::fprintf(stderr, "usage: apply_bench speed|stream|written DIR [MIB]\n");
    return 2;
  }
  const std::string part = argv[1];
  const uint64_t data_bytes = (argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 512) * kMiB;
  if (part == "speed") Speed(argv[2], data_bytes);
  if (part == "stream") Interference(argv[2], data_bytes);
  if (part == "written") Written(argv[2], data_bytes);
  return 0;
}
