#include "storage/index_log.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/env.h>

#include "storage/index.h"
#include "tests/testing/sim_disk.h"
#include "tests/testing/sim_rocksdb_env.h"
#include "tests/testing/temp_dir.h"

namespace understudy::storage::index_log_test {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr uint64_t kMemory = 8 << 20;

// An index whose log ends as a process that is killed leaves it, and which may then be damaged.
class IndexLogTest : public ::testing::Test {
 protected:
  // Each write is a group's record with the next epoch.
  void Write(Index& index, bool sync) {
    Index::Batch batch(index);
    batch.PutGroup(
        {.number = 1, .name = "vm1", .epoch = Epoch(++epoch_), .volumes = {{.name = "v0"}}});
    ASSERT_EQ(index.Write(std::move(batch), sync), absl::OkStatus());
    if (sync) synced_ = epoch_;
  }
  // First the synced writes, then the others.
  void Make(int synced, int unsynced) {
    ASSERT_EQ(Index::Create(made_), absl::OkStatus());
    auto index = Index::Open(made_, kMemory);
    ASSERT_TRUE(index.ok()) << index.status();
    for (int i = 0; i < synced; ++i) Write(**index, /*sync=*/true);
    synced_bytes_ = fs::file_size(LogFile(made_));
    for (int i = 0; i < unsynced; ++i) Write(**index, /*sync=*/false);
    fs::copy(made_, image_, fs::copy_options::recursive);
  }
  static std::string LogFile(const std::string& directory) {
    std::string newest;
    for (const auto& entry : fs::directory_iterator(directory)) {
      if (entry.path().extension() == ".log") newest = std::max(newest, entry.path().string());
    }
    return newest;
  }
  // The newest epoch that the damaged index knows, when it opens.
  absl::StatusOr<uint64_t> OpenDamaged(const std::function<void(const std::string& log)>& damage) {
    fs::remove_all(damaged_);
    fs::copy(image_, damaged_, fs::copy_options::recursive);
    damage(LogFile(damaged_));
    auto index = Index::Open(damaged_, kMemory);
    if (!index.ok()) return index.status();
    const auto groups = (*index)->Groups();
    if (!groups.ok()) return groups.status();
    return groups->empty() ? 0 : groups->front().record->epoch.value();
  }
  static void Flip(const std::string& path, uint64_t offset) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    const int byte = file.get();
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(static_cast<char>(byte ^ 0x10));
  }

  testing::TempDir directory_;
  const std::string made_ = directory_.File("made");
  const std::string image_ = directory_.File("image");
  const std::string damaged_ = directory_.File("damaged");
  uint64_t epoch_ = 0;
  uint64_t synced_ = 0;
  uint64_t synced_bytes_ = 0;
};

TEST_F(IndexLogTest, ALogThatNothingHappenedToPromisesWhatWasSynced) {
  Make(3, 2);
  const auto report = ReadIndexLog(*rocksdb::Env::Default(), image_);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->damaged, "");
  EXPECT_GT(report->synced_through, 0u);
  EXPECT_EQ(*OpenDamaged([](auto&) {}), 5u);
}

TEST_F(IndexLogTest, ADirectoryThatIsNotThereHasNoLog) {
  const auto report = ReadIndexLog(*rocksdb::Env::Default(), made_);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->synced_through, 0u);
}

// Goal: no damaged byte of what was synced makes it open with less. Method: every eleventh byte of a log, one at a time.
TEST_F(IndexLogTest, AnyDamageToWhatWasSyncedIsRefusedAndToTheRestIsNot) {
  Make(3, 2);
  int refused = 0;
  for (uint64_t at = 0; at < fs::file_size(LogFile(image_)); at += 11) {
    const auto found = OpenDamaged([&](const std::string& log) { Flip(log, at); });
    SCOPED_TRACE(at);
    if (found.ok()) {
      EXPECT_GE(*found, synced_);
      continue;
    }
    ++refused;
    EXPECT_LT(at, synced_bytes_);
    EXPECT_TRUE(absl::IsDataLoss(found.status())) << found.status();
    EXPECT_THAT(std::string(found.status().message()), HasSubstr("is damaged: "));
    EXPECT_THAT(std::string(found.status().message()), HasSubstr(".log at "));
  }
  EXPECT_GT(refused, 10);
}

// A power cut may leave any part of the end, but not less than was synced.
TEST_F(IndexLogTest, ATornEndOpensWithWhatIsBeforeIt) {
  Make(3, 3);
  uint64_t opened = 0;
  const uint64_t size = fs::file_size(LogFile(image_));
  for (uint64_t kept = synced_bytes_; kept <= size; kept += 17) {
    const auto cut = OpenDamaged([&](const std::string& log) { fs::resize_file(log, kept); });
    ASSERT_TRUE(cut.ok()) << kept << ": " << cut.status();
    EXPECT_GE(*cut, synced_);
    const auto zeroes = OpenDamaged([&](const std::string& log) {
      fs::resize_file(log, kept);
      fs::resize_file(log, size);
    });
    ASSERT_TRUE(zeroes.ok()) << kept << ": " << zeroes.status();
    EXPECT_GE(*zeroes, *cut);  // what is cut off may have been zeroes
    opened = std::max(opened, *cut);
  }
  EXPECT_GT(opened, synced_);
}

// The refusal touches nothing: what RocksDB has read of a log by then would be the truth from there on.
TEST_F(IndexLogTest, ARefusedIndexStaysRefusedAndOpensOnceItIsRepaired) {
  Make(3, 0);
  const auto refused = OpenDamaged([&](const std::string& log) { Flip(log, 20); });
  ASSERT_FALSE(refused.ok());
  EXPECT_FALSE(Index::OpenReadOnly(damaged_).ok());
  EXPECT_EQ(Index::Open(damaged_, kMemory).status(), refused.status());
  Flip(LogFile(damaged_), 20);
  EXPECT_TRUE(Index::OpenReadOnly(damaged_).ok());
  EXPECT_TRUE(Index::Open(damaged_, kMemory).ok());
}

TEST_F(IndexLogTest, AMarkIsFoundBlocksBehindTheDamage) {
  Make(1500, 0);
  ASSERT_GT(synced_bytes_, 3u * (32 << 10));
  const auto found = OpenDamaged([&](const std::string& log) { Flip(log, 100); });
  EXPECT_TRUE(absl::IsDataLoss(found.status())) << found.status();
}

// After the tear the sequence numbers are given out again; the old log, should it still lie there, claims no more than it had.
TEST_F(IndexLogTest, AnIndexThatWasTornOnceOpensAgainAndAgain) {
  Make(3, 3);
  const auto cut =
      OpenDamaged([&](const std::string& log) { fs::resize_file(log, fs::file_size(log) - 3); });
  ASSERT_TRUE(cut.ok()) << cut.status();
  for (int i = 0; i < 3; ++i) {
    auto index = Index::Open(damaged_, kMemory);
    ASSERT_TRUE(index.ok()) << index.status();
    Write(**index, /*sync=*/true);
    Write(**index, /*sync=*/false);
  }
}

// Each ends where the next begins. Within one block every record is whole, behind a header of a
// checksum, a length and a type.
std::vector<std::string> RecordsOf(const std::string& log) {
  std::ifstream file(log, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  EXPECT_LT(bytes.size(), 32u << 10);
  std::vector<std::string> records;
  for (size_t at = 0; at + 7 <= bytes.size() && bytes[at + 6] != 0;) {
    const size_t size =
        7 + static_cast<uint8_t>(bytes[at + 4]) + 256 * static_cast<uint8_t>(bytes[at + 5]);
    records.push_back(bytes.substr(at, size));
    at += size;
  }
  return records;
}

void WriteRecords(const std::string& log, std::span<const std::string> records) {
  std::ofstream file(log, std::ios::binary | std::ios::trunc);
  for (const std::string& record : records) file << record;
}

// A power cut may keep a later file of what was never synced, and lose the end of the one before
// it.
TEST_F(IndexLogTest, NothingIsReadBehindAGapOfWhatWasNeverSynced) {
  Make(3, 4);
  for (const bool lose_first : {false, true}) {
    const auto found = OpenDamaged([&](const std::string& log) {
      const std::vector<std::string> records = RecordsOf(log);
      ASSERT_GT(records.size(), 4u);
      const std::span<const std::string> all(records);
      const size_t lost = records.size() - 3;  // the second that was not synced
      const std::string next = absl::StrCat(fs::path(log).parent_path().string(), "/000999.log");
      WriteRecords(log, all.first(lose_first ? lost - 1 : lost));
      WriteRecords(next, all.subspan(lost + 1));
    });
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(*found, lose_first ? 3u : 4u);
    auto again = Index::Open(damaged_, kMemory);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ((*again)->Groups()->front().record->epoch, Epoch(*found));
  }
}

TEST_F(IndexLogTest, AGapInWhatWasSyncedIsRefused) {
  Make(4, 0);
  const auto found = OpenDamaged([&](const std::string& log) {
    const std::vector<std::string> records = RecordsOf(log);
    const std::span<const std::string> all(records);
    WriteRecords(log, all.first(2));
    WriteRecords(absl::StrCat(fs::path(log).parent_path().string(), "/000999.log"), all.subspan(4));
  });
  EXPECT_TRUE(absl::IsDataLoss(found.status())) << found.status();
  EXPECT_THAT(std::string(found.status().message()), HasSubstr("000999.log goes on at "));
}

// Sync() knows of this process's batches only. RocksDB writes the log that it found into a table when it opens.
TEST(IndexSyncTest, CoversWhatAKilledProcessHadNotSynced) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    testing::SimDisk disk(seed);
    ASSERT_EQ(disk.CreateDirectory("/index"), absl::OkStatus());
    ASSERT_EQ(disk.SyncDirectory("/"), absl::OkStatus());
    disk.OrderDirectories("/index");
    const auto env = testing::NewSimRocksdbEnv(disk);
    const auto write = [](Index& index, uint64_t epoch, bool sync) {
      Index::Batch batch(index);
      batch.PutGroup(
          {.number = 1, .name = "vm1", .epoch = Epoch(epoch), .volumes = {{.name = "v0"}}});
      ASSERT_EQ(index.Write(std::move(batch), sync), absl::OkStatus());
    };
    const auto epoch = [](const Index& index) { return index.Groups()->front().record->epoch; };
    ASSERT_EQ(Index::Create("/index", env.get()), absl::OkStatus());
    auto index = Index::Open("/index", kMemory, env.get(), /*background_io=*/false);
    ASSERT_TRUE(index.ok()) << index.status();
    write(**index, 1, /*sync=*/true);
    write(**index, 2, /*sync=*/false);
    disk.Kill();
    index->reset();
    disk.Restart();
    index = Index::Open("/index", kMemory, env.get(), /*background_io=*/false);
    ASSERT_TRUE(index.ok()) << index.status();
    ASSERT_EQ(epoch(**index), Epoch(2));
    ASSERT_EQ((*index)->Sync(), absl::OkStatus());
    disk.CutPower();
    index->reset();
    disk.Restart();
    index = Index::Open("/index", kMemory, env.get(), /*background_io=*/false);
    ASSERT_TRUE(index.ok()) << index.status();
    EXPECT_EQ(epoch(**index), Epoch(2)) << "seed " << seed;
  }
}

}  // namespace
}  // namespace understudy::storage::index_log_test
