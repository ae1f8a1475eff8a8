// The corruptor: damages each structure of the on-disk format once, in a data directory with three groups, and says what must come
// of it. Whatever it is: no wrong byte is ever served, the other groups go on as if nothing were, and understudy-inspect
// finds it, too.
#include "tests/storage/corruptor.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/inspect/inspector.h"
#include "storage/segment_pool.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage::corruptor_test {
namespace {

using ::testing::HasSubstr;

std::vector<Corruption> OfTheDirectory() {
  using enum Outcome;
  return {
      {"VERSION", [](const auto& dir) { Flip(dir + "/VERSION", 3); }, kRefused, "VERSION: damaged"},
      {"VERSION missing", [](const auto& dir) { fs::remove(dir + "/VERSION"); }, kRefused,
       "VERSION"},
      {"LOCK", [](const auto& dir) { std::ofstream(dir + "/LOCK") << "x"; }, kWhole, ""},
      {"marker beside the disk",
       [](const auto& dir) { Flip(dir.substr(0, dir.rfind('/')) + "/vm1.img.understudy", 3); },
       kWhole, ""}};
}

std::vector<Corruption> OfSegments() {
  using enum Outcome;
  return {{"segment header: magic", InSegmentHeader(0), kIsolated, "segment 1 is missing"},
          {"segment header: version", InSegmentHeader(8), kIsolated, "segment 1 is missing"},
          {"segment header: ordinal", InSegmentHeader(12), kIsolated, "segment 1 is missing"},
          {"segment header: incarnation", InSegmentHeader(16), kIsolated, "segment 1 is missing"},
          {"segment header: group", InSegmentHeader(24), kIsolated, "segment 1 is missing"},
          {"segment header: role", InSegmentHeader(32), kIsolated, "segment 1 is missing"},
          {"segment header: crc32c", InSegmentHeader(36), kIsolated, "segment 1 is missing"},

          {"data of a committed epoch", InFrame(kCommittedFrame, Part::kPayload, 5000), kRange,
           "checksum mismatch"},
          {"checksum of a committed epoch", InFrame(kCommittedFrame, Part::kChecksums, 4), kRange,
           "checksum mismatch"},
          {"frame header that the index has read", InFrame(kCommittedFrame, Part::kHeader, 48),
           kWhole, ""},
          {"operation that the index has read", InFrame(kCommittedFrame, Part::kOperations, 8),
           kWhole, ""},
          {"segment cut short", [](const auto& dir) { fs::resize_file(FirstSegment(dir), 12288); },
           kRange, "segment 1"}};
}

std::vector<Corruption> OfRecords() {
  using enum Outcome;
  return {
      {"group record: length", InRecord(0, GroupKey, Shortened), kIsolated, "damaged group"},
      {"group record: version", InRecord(0, GroupKey, OtherVersion), kIsolated, "damaged group"},
      {"group record: an older one", InRecord(0, GroupKey, OlderTerm), kIsolated,
       "older than the log"},
      {"overlay record, committed", InRecord(0, CommittedKey, Shortened), kIsolated,
       "damaged overlay"},
      {"overlay record, active", InRecord(0, ActiveKey, Shortened), kIsolated, "damaged overlay"},
      {"overlay record, hidden", InRecord(0, HiddenKey, Shortened), kHidden, "damaged"},
      {"overlay record missing, committed", WithoutRecord(0, CommittedKey), kIsolated, "missing"},
      {"overlay record missing, active", WithoutRecord(0, ActiveKey), kIsolated, "missing"},
      {"position of the hidden log", InRecord(0, PositionKey(LogRole::kHidden), OtherVersion),
       kHidden, "damaged position"},
      {"position of the active log", InRecord(0, PositionKey(LogRole::kActive), Shortened),
       kIsolated, "damaged position"},
      {"position missing", WithoutRecord(0, PositionKey(LogRole::kHidden)), kHidden, "position"},
      {"number record",
       InRecord(
           0, [](auto&) { return "n"; }, Shortened),
       kRefused, "damaged number"},
      {"extent record, committed: length", InRecord(1, ExtentOfCommitted, Shortened), kRange,
       "damaged extent"},
      {"extent record, committed: range", InRecord(1, ExtentOfCommitted, PastTheVolume), kRange,
       "extent record"},
      {"extent record, committed: segment", InRecord(1, ExtentOfCommitted, OtherSegment), kRange,
       "segment 78 is missing"},
      {"extent record, hidden", InRecord(1, ExtentOfHidden, Shortened), kHidden, "damaged extent"},
      {"extent record of no volume",
       [](const auto& dir) {
         RawIndex index(dir);
         const std::string value = index.All(1).begin()->second;
         index.Put(1, EncodeExtentKey(Committed(index), VolumeId(9), 4096), value);
       },
       kStray, "volume number 9"}};
}

std::vector<Corruption> OfRocksDb() {
  using enum Outcome;
  return {{"table block of extents", InTable("extents"), kVolume, "block checksum mismatch"},
          {"table block of records", InTable("default"), kRefused, "/index"},
          {"write-ahead log, synced part", InIndexFile(".log", 0.3), kRefused, "was synced up to"},
          // Where a crash may have torn it.
          {"write-ahead log, end", InIndexFile(".log", 0.99), kWhole, ""},
          {"MANIFEST", InIndexFile("MANIFEST", 0.5), kRefused, "/index is damaged"},
          {"CURRENT", InIndexFile("CURRENT", 0.2), kRefused, "index"}};
}

// A frame that the index does not know yet: any damage ends the log before it.
std::vector<Corruption> OfTheTail() {
  using enum Outcome;
  std::vector<Corruption> all;
  const std::vector<std::pair<std::string, size_t>> fields = {
      {"magic", offsetof(FrameHeader, magic)},
      {"operation_count", offsetof(FrameHeader, operation_count)},
      {"segment_incarnation", offsetof(FrameHeader, segment_incarnation)},
      {"overlay", offsetof(FrameHeader, overlay)},
      {"stream_id", offsetof(FrameHeader, stream_id)},
      {"term", offsetof(FrameHeader, term)},
      {"first_sequence", offsetof(FrameHeader, first_sequence)},
      {"payload_bytes", offsetof(FrameHeader, payload_bytes)},
      {"checksum_count", offsetof(FrameHeader, checksum_count)},
      {"previous position", offsetof(FrameHeader, previous_ordinal)},
      {"flags", offsetof(FrameHeader, flags)},
      {"epoch", offsetof(FrameHeader, epoch)},
      {"next overlays", offsetof(FrameHeader, next_hidden)},
      {"unix_micros", offsetof(FrameHeader, unix_micros)},
      {"zero", offsetof(FrameHeader, zero)},
      {"crc32c", offsetof(FrameHeader, crc32c)}};
  for (const auto& [name, offset] : fields) {
    all.push_back({"frame behind the index: " + name,
                   InFrame(kFirstUnindexed, Part::kHeader, offset), kCut, ""});
  }
  all.push_back({"frame behind the index: operation",
                 InFrame(kFirstUnindexed, Part::kOperations, 8), kCut, ""});
  all.push_back({"frame behind the index: checksum", InFrame(kFirstUnindexed, Part::kChecksums, 0),
                 kCut, ""});
  all.push_back(
      {"frame behind the index: payload", InFrame(kFirstUnindexed, Part::kPayload, 100), kCut, ""});
  return all;
}

// ---- the data directory that is damaged -----------------------------------------------------------------------------------------

class ErrorList : public ReplicaListener {
 public:
  void OnBackgroundError(const BackgroundError& error) override {
    base::MutexLock lock(mutex_);
    absl::StrAppend(&text_, error.operation, ": ", std::string(error.status.message()), "\n");
  }
  void OnChange() override {}
  std::string text() {
    base::MutexLock lock(mutex_);
    return text_;
  }

 private:
  base::Mutex mutex_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
};

struct GroupUnderTest {
  GroupSpec spec;
  std::string view;  // what its volume must read as
};

class CorruptorTest : public ::testing::Test {
 protected:
  // Groups vm1 to vm3, each with a committed epoch that is kept, an active write and an open epoch; vm1 with two frames that the
  // index does not know. Every store that opens moves what the one before it wrote from the write-ahead log to tables.
  void Build() {
    options_.data_dir = directory_.File("made");
    options_.disk_dirs = {directory_.path()};
    options_.segment_bytes = 4 << 20;
    options_.history_epochs = 8;
    options_.index_batch_delay = absl::Hours(1);
    for (const char* name : {"vm1", "vm2", "vm3"}) {
      GroupUnderTest group;
      const std::string disk = directory_.File(absl::StrCat(name, ".img"));
      group.view = Bytes(kVolumeBytes);
      ASSERT_TRUE(base::FileSystem::Posix().WriteFileAtomically(disk, group.view).ok());
      group.spec = {.name = name,
                    .volumes = {{.name = "v0",
                                 .top_id = absl::StrCat(name, "/v0"),
                                 .disk_path = disk,
                                 .size_bytes = kVolumeBytes}}};
      Fill(group);
      groups_.push_back(group);
    }
    auto store = OpenStore(options_.data_dir);
    ASSERT_TRUE(store.ok()) << store.status();
    // Opening alone writes nothing: so that the write-ahead log has synced batches.
    for (const char* agent : {"a", "b", "a", "b"}) {
      ASSERT_TRUE((**(*store)->Find("vm2")).BindAgent(agent, /*takeover=*/true).ok());
    }
    Replica& vm1 = **(*store)->Find("vm1");
    Append(vm1, 600 << 10, Bytes(8192));
    Append(vm1, 700 << 10, Bytes(8192));
    sequence_ = vm1.state().received_sequence;
    // As kill -9 leaves it: the last two frames are in the log only.
    fs::copy(options_.data_dir, directory_.File("image"), fs::copy_options::recursive);
  }

  void Fill(GroupUnderTest& group) {
    auto store = OpenStore(options_.data_dir);
    ASSERT_TRUE(store.ok()) << store.status();
    auto replica = *(*store)->Open(group.spec);
    ASSERT_TRUE(replica->Start().ok());
    ASSERT_TRUE(replica->BindAgent("agent", false).ok());
    ASSERT_TRUE(replica->AttachStream(7, true).ok());
    const std::string committed = Bytes(64 << 10);
    Append(*replica, 4096, committed);
    std::promise<absl::StatusOr<CheckpointResult>> done;
    replica->RequestCheckpoint([&](auto result) { done.set_value(std::move(result)); });
    ASSERT_TRUE(done.get_future().get().ok());
    const std::string active = Bytes(8192);
    ASSERT_TRUE(replica->Write(VolumeId(0), 400 << 10, active, /*fua=*/true).ok());
    Append(*replica, 500 << 10, Bytes(8192));
    group.view.replace(4096, committed.size(), committed);
    group.view.replace(400 << 10, active.size(), active);
  }

  void Append(Replica& replica, uint64_t offset, const std::string& data) {
    const ReplicaState state = replica.state();
    const Operation operation = {
        .kind = OperationKind::kData, .offset = offset, .length = data.size()};
    const std::span<const char> slice(data);
    ASSERT_EQ(replica.Append({.incarnation = state.incarnation,
                              .term = state.term,
                              .stream_id = state.stream_id,
                              .first_sequence = state.received_sequence + 1,
                              .operations = std::span(&operation, 1),
                              .payload = std::span(&slice, 1)},
                             nullptr),
              absl::OkStatus());
  }

  absl::StatusOr<std::unique_ptr<Store>> OpenStore(const std::string& data_dir) {
    options_.data_dir = data_dir;
    return Store::Open(options_, base::FileSystem::Posix(), base::Clock::Real(), random_);
  }
  std::string Bytes(size_t size) {
    std::string bytes(size, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random_());
    return bytes;
  }

  // How many blocks cannot be read. Those that can are right.
  size_t UnreadableBlocks(Replica& replica, const std::string& expected) {
    size_t unreadable = 0;
    for (uint64_t at = 0; at < kVolumeBytes; at += kBlock) {
      std::string block(kBlock, '?');
      if (!replica.Read(VolumeId(0), at, std::span(block.data(), block.size())).ok()) {
        ++unreadable;
      } else {
        EXPECT_TRUE(block == expected.substr(at, kBlock)) << "wrong bytes served at " << at;
      }
    }
    return unreadable;
  }
  static ScrubState Scrub(Replica& replica) {
    EXPECT_TRUE(replica.Scrub({}).ok());
    while (replica.state().scrub.outcome == ScrubOutcome::kRunning) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    return replica.state().scrub;
  }

  void ExpectInspected(const Corruption& corruption, const std::string& data_dir) {
    const auto report = Inspect({.data_dir = data_dir, .verify = true}, base::FileSystem::Posix());
    if (corruption.outcome == Outcome::kRefused) {
      EXPECT_FALSE(report.ok() && report->damages.empty());
      return;
    }
    ASSERT_TRUE(report.ok()) << report.status();
    const bool clean = corruption.outcome == Outcome::kWhole || corruption.outcome == Outcome::kCut;
    EXPECT_EQ(report->damages.empty(), clean);
    for (const DamageReport& damage : report->damages) {
      EXPECT_TRUE(damage.group == "vm1" || damage.group.empty()) << damage.message;
    }
    if (corruption.outcome == Outcome::kCut) {
      EXPECT_EQ(report->groups[0].logs[0].behind.frames, 0u);
    }
  }

  void ExpectScrubNames(const Corruption& corruption, Replica& vm1, ErrorList& errors) {
    EXPECT_EQ(Scrub(vm1).outcome, ScrubOutcome::kDamaged);
    const bool stray = corruption.outcome == Outcome::kStray;
    EXPECT_THAT(errors.text(), HasSubstr(stray ? "scrub: group vm1 epoch 1"
                                               : "scrub: volume vm1/v0 epoch 1 range "));
    EXPECT_THAT(errors.text(), HasSubstr(corruption.named));
  }

  void ExpectVm1(const Corruption& corruption, Replica& vm1) {
    ErrorList errors;
    vm1.SetListener(&errors);
    const size_t unreadable = UnreadableBlocks(vm1, groups_[0].view);
    const ReplicaState state = vm1.state();
    const absl::Status attached = vm1.AttachStream(state.stream_id, true);
    switch (corruption.outcome) {
      case Outcome::kWhole:
      case Outcome::kCut:
        EXPECT_EQ(unreadable, 0u);
        EXPECT_EQ(attached, absl::OkStatus());
        EXPECT_EQ(state.received_sequence,
                  corruption.outcome == Outcome::kCut ? sequence_ - 2 : sequence_);
        EXPECT_EQ(Scrub(vm1).outcome, ScrubOutcome::kClean) << errors.text();
        EXPECT_EQ(errors.text(), "");
        break;
      case Outcome::kRange:
        EXPECT_GT(unreadable, 0u);
        EXPECT_LT(unreadable, 20u);
        ExpectScrubNames(corruption, vm1, errors);
        break;
      case Outcome::kVolume:
        EXPECT_EQ(unreadable, kVolumeBytes / kBlock);
        ExpectScrubNames(corruption, vm1, errors);
        break;
      case Outcome::kStray:
        EXPECT_EQ(unreadable, 0u);
        ExpectScrubNames(corruption, vm1, errors);
        break;
      case Outcome::kHidden:
        EXPECT_EQ(unreadable, 0u);
        EXPECT_FALSE(attached.ok());
        EXPECT_THAT(errors.text(), HasSubstr("open: group vm1: hidden overlay"));
        EXPECT_THAT(errors.text(), HasSubstr(corruption.named));
        EXPECT_EQ(vm1.Failover({}), absl::OkStatus());
        EXPECT_EQ(vm1.WaitForJobs(base::Deadline::Never()), absl::OkStatus());
        EXPECT_EQ(vm1.state().stage, Stage::kDone);
        EXPECT_EQ(UnreadableBlocks(vm1, groups_[0].view), 0u);
        break;
      case Outcome::kIsolated:
        EXPECT_EQ(unreadable, kVolumeBytes / kBlock);
        EXPECT_FALSE(attached.ok());
        EXPECT_THAT(errors.text(), HasSubstr("open: group vm1: "));
        EXPECT_THAT(errors.text(), HasSubstr(corruption.named));
        EXPECT_EQ(Scrub(vm1).outcome, ScrubOutcome::kDamaged);
        break;
      case Outcome::kRefused:
        break;
    }
    vm1.SetListener(nullptr);
  }

  // A write of the primary and a checkpoint, on a group that nothing happened to.
  void ExpectUndisturbed(Replica& replica, const GroupUnderTest& group) {
    EXPECT_EQ(UnreadableBlocks(replica, group.view), 0u);
    Append(replica, 800 << 10, std::string(4096, 'n'));
    std::promise<absl::StatusOr<CheckpointResult>> done;
    replica.RequestCheckpoint([&](auto result) { done.set_value(std::move(result)); });
    EXPECT_TRUE(done.get_future().get().ok());
    std::string block(4096, '?');
    EXPECT_TRUE(replica.Read(VolumeId(0), 800 << 10, std::span(block.data(), block.size())).ok());
    EXPECT_EQ(block, std::string(4096, 'n'));
  }

  void Check(const Corruption& corruption) {
    SCOPED_TRACE(corruption.structure);
    const std::string data_dir = directory_.File("image+");
    fs::remove_all(data_dir);
    fs::copy(directory_.File("image"), data_dir, fs::copy_options::recursive);
    for (const GroupUnderTest& group : groups_) RestoreDisk(group);
    corruption.damage(data_dir);
    ExpectInspected(corruption, data_dir);
    auto store = OpenStore(data_dir);
    if (corruption.outcome == Outcome::kRefused) {
      EXPECT_EQ(store.status().code(), absl::StatusCode::kDataLoss) << store.status();
      EXPECT_THAT(std::string(store.status().message()), HasSubstr(corruption.named));
      return;
    }
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_EQ((*store)->List().size(), 3u);
    ExpectVm1(corruption, **(*store)->Find("vm1"));
    for (size_t i = 1; i < groups_.size(); ++i) {
      ExpectUndisturbed(**(*store)->Find(groups_[i].spec.name), groups_[i]);
    }
  }

  void RestoreDisk(const GroupUnderTest& group) {
    const std::string path = group.spec.volumes[0].disk_path;
    std::string& before = disks_before_[path];
    if (before.empty()) before = Slurp(path);
    std::fstream(path, std::ios::in | std::ios::out | std::ios::binary) << before;
    // Without its marker the disk would belong to a later life than the data directory: a failover takes it away.
    const std::string marker_path = path + ".understudy";
    std::string& marker = disks_before_[marker_path];
    if (marker.empty()) marker = Slurp(marker_path);
    std::ofstream(marker_path, std::ios::binary) << marker;
  }

  testing::TempDir directory_;
  std::mt19937_64 random_{11};
  StoreOptions options_;
  std::vector<GroupUnderTest> groups_;
  std::map<std::string, std::string> disks_before_;
  uint64_t sequence_ = 0;
};

TEST_F(CorruptorTest, EveryStructureOfTheFormatDamagedOnce) {
  Build();
  ASSERT_FALSE(HasFatalFailure());
  for (const auto& list : {OfTheDirectory(), OfSegments(), OfTheTail(), OfRecords(), OfRocksDb()}) {
    for (const Corruption& corruption : list) Check(corruption);
  }
}

}  // namespace
}  // namespace understudy::storage::corruptor_test
