// Every rule of the simulated disk, each of which could be broken without a crash test noticing.
#include "tests/testing/sim_disk.h"

#include <cerrno>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "storage/base/file_system.h"

namespace understudy::testing::sim_disk_test {
namespace {

constexpr uint64_t kSeeds = 200;

std::unique_ptr<base::File> Create(SimDisk& disk, const std::string& path) {
  return *disk.Open(path, {.create = true});
}

std::string Contents(SimDisk& disk, const std::string& path) {
  return disk.ReadWholeFile(path).value_or("(missing)");
}

// What is found after a power cut, over many seeds.
template <typename Prepare, typename Look>
std::set<std::string> Outcomes(Prepare prepare, Look look, SimFault fault = SimFault::kPowerCut) {
  std::set<std::string> outcomes;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    SimDisk disk(seed);
    prepare(disk);
    fault == SimFault::kPowerCut ? disk.CutPower() : disk.Kill();
    disk.Restart();
    outcomes.insert(look(disk));
  }
  return outcomes;
}

std::string Sectors(const std::string& bytes) {
  std::string letters;
  for (size_t at = 0; at < bytes.size(); at += kSectorBytes) letters += bytes[at];
  return letters;
}

void MakeFile(SimDisk& disk, const std::string& contents) {
  ASSERT_TRUE(disk.WriteFileAtomically("/f", contents).ok());
}

TEST(SimDiskTest, UnsyncedWritesAreKeptLostOrTornAtSectors) {
  const auto outcomes = Outcomes(
      [](SimDisk& disk) {
        MakeFile(disk, std::string(4 * kSectorBytes, 'a'));
        const auto file = Create(disk, "/f");
        ASSERT_TRUE(file->Write(0, std::string(3 * kSectorBytes, 'b')).ok());
      },
      [](SimDisk& disk) { return Sectors(Contents(disk, "/f")); });
  EXPECT_EQ(outcomes, (std::set<std::string>{"aaaa", "aaba", "abaa", "abba", "baaa", "baba", "bbaa",
                                             "bbba"}));
}

TEST(SimDiskTest, SyncedWritesStay) {
  const auto outcomes = Outcomes(
      [](SimDisk& disk) {
        MakeFile(disk, std::string(2 * kSectorBytes, 'a'));
        const auto file = Create(disk, "/f");
        ASSERT_TRUE(file->Write(0, std::string(2 * kSectorBytes, 'b')).ok());
        ASSERT_TRUE(file->Sync().ok());
      },
      [](SimDisk& disk) { return Sectors(Contents(disk, "/f")); });
  EXPECT_EQ(outcomes, std::set<std::string>{"bb"});
}

TEST(SimDiskTest, ALaterWriteMaySurviveAnEarlierOneThatDoesNot) {
  const auto outcomes = Outcomes(
      [](SimDisk& disk) {
        MakeFile(disk, std::string(2 * kSectorBytes, 'a'));
        const auto file = Create(disk, "/f");
        ASSERT_TRUE(file->Write(0, std::string(kSectorBytes, 'b')).ok());
        ASSERT_TRUE(file->Write(kSectorBytes, std::string(kSectorBytes, 'c')).ok());
      },
      [](SimDisk& disk) { return Sectors(Contents(disk, "/f")); });
  EXPECT_EQ(outcomes, (std::set<std::string>{"aa", "ac", "ba", "bc"}));
}

TEST(SimDiskTest, AKillLosesNothing) {
  const auto outcomes = Outcomes(
      [](SimDisk& disk) {
        const auto file = Create(disk, "/f");
        ASSERT_TRUE(file->Write(0, std::string(2 * kSectorBytes, 'b')).ok());
        ASSERT_TRUE(disk.Rename("/f", "/g").ok());
      },
      [](SimDisk& disk) { return Contents(disk, "/f") + Sectors(Contents(disk, "/g")); },
      SimFault::kKill);
  EXPECT_EQ(outcomes, std::set<std::string>{"(missing)bb"});
}

TEST(SimDiskTest, ASyncedFileMayLoseItsNameUntilTheDirectoryIsSynced) {
  const auto make = [](SimDisk& disk) {
    const auto file = Create(disk, "/f");
    ASSERT_TRUE(file->Write(0, "x").ok());
    ASSERT_TRUE(file->Sync().ok());
  };
  const auto look = [](SimDisk& disk) { return Contents(disk, "/f"); };
  EXPECT_EQ(Outcomes(make, look), (std::set<std::string>{"(missing)", "x"}));
  const auto make_and_sync = [&](SimDisk& disk) {
    make(disk);
    ASSERT_TRUE(disk.SyncDirectory("/").ok());
  };
  EXPECT_EQ(Outcomes(make_and_sync, look), std::set<std::string>{"x"});
}

TEST(SimDiskTest, ARenameIsAllOrNothing) {
  const auto outcomes = Outcomes(
      [](SimDisk& disk) {
        ASSERT_TRUE(disk.WriteFileAtomically("/f", "old").ok());
        ASSERT_TRUE(disk.WriteFileAtomically("/g", "new").ok());
        ASSERT_TRUE(disk.Rename("/g", "/f").ok());
      },
      [](SimDisk& disk) { return Contents(disk, "/f") + " " + Contents(disk, "/g"); });
  EXPECT_EQ(outcomes, (std::set<std::string>{"old new", "new (missing)"}));
}

TEST(SimDiskTest, DirectoryChangesSurviveInAnyCombinationOrInOrder) {
  for (const bool ordered : {false, true}) {
    const auto outcomes = Outcomes(
        [&](SimDisk& disk) {
          if (ordered) disk.OrderDirectories("/d");
          ASSERT_TRUE(disk.CreateDirectory("/d").ok());
          ASSERT_TRUE(disk.SyncDirectory("/").ok());
          Create(disk, "/d/1");
          Create(disk, "/d/2");
        },
        [](SimDisk& disk) {
          std::string names;
          const auto listed = disk.List("/d");
          for (const std::string& name : *listed) names += name;
          return names;
        });
    const std::set<std::string> expected =
        ordered ? std::set<std::string>{"", "1", "12"} : std::set<std::string>{"", "1", "12", "2"};
    EXPECT_EQ(outcomes, expected) << ordered;
  }
}

TEST(SimDiskTest, ALostDirectoryTakesItsFilesAlong) {
  const auto outcomes = Outcomes(
      [](SimDisk& disk) {
        ASSERT_TRUE(disk.CreateDirectory("/d").ok());
        ASSERT_TRUE(disk.WriteFileAtomically("/d/f", "x").ok());
      },
      [](SimDisk& disk) { return Contents(disk, "/d/f"); });
  EXPECT_EQ(outcomes, (std::set<std::string>{"(missing)", "x"}));
}

TEST(SimDiskTest, AfterTheFaultNothingReachesTheDisk) {
  for (const SimFault fault : {SimFault::kPowerCut, SimFault::kKill}) {
    SimDisk disk(1);
    MakeFile(disk, "old");
    {
      const auto file = Create(disk, "/f");
      disk.SetHook(
          [&](const SimIo& io) { return io.kind == SimIoKind::kSync ? fault : SimFault::kNone; });
      EXPECT_FALSE(file->Sync().ok());
      disk.SetHook(nullptr);
      EXPECT_TRUE(disk.dead());
      EXPECT_FALSE(file->Write(0, "new").ok());
      char byte = 0;
      EXPECT_FALSE(file->Read(0, std::span(&byte, 1)).ok());
      EXPECT_FALSE(disk.Remove("/f").ok());
    }
    disk.Restart();
    EXPECT_EQ(Contents(disk, "/f"), "old");
  }
}

TEST(SimDiskTest, AfterAFailedSyncTheDataIsGoneThoughTheNextSyncSaysOk) {
  std::set<std::string> seen_before;
  const auto outcomes = Outcomes(
      [&](SimDisk& disk) {
        MakeFile(disk, std::string(kSectorBytes, 'a'));
        const auto file = Create(disk, "/f");
        ASSERT_TRUE(file->Write(0, std::string(kSectorBytes, 'b')).ok());
        disk.SetHook([](const SimIo&) { return SimFault::kIoError; });
        EXPECT_EQ(base::ErrnoOf(file->Sync()), EIO);
        disk.SetHook(nullptr);
        EXPECT_TRUE(file->Sync().ok());
        seen_before.insert(Sectors(Contents(disk, "/f")));
      },
      [](SimDisk& disk) { return Sectors(Contents(disk, "/f")); });
  EXPECT_EQ(outcomes, (std::set<std::string>{"a", "b"}));
  EXPECT_EQ(seen_before, (std::set<std::string>{"a", "b"}));
}

TEST(SimDiskTest, AFailingWriteMayHaveDoneItsFirstSectors) {
  std::set<std::string> outcomes;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    SimDisk disk(seed);
    MakeFile(disk, std::string(3 * kSectorBytes, 'a'));
    const auto file = Create(disk, "/f");
    disk.SetHook([](const SimIo&) { return SimFault::kNoSpace; });
    EXPECT_EQ(base::ErrnoOf(file->Write(0, std::string(2 * kSectorBytes, 'b'))), ENOSPC);
    disk.SetHook(nullptr);
    outcomes.insert(Sectors(Contents(disk, "/f")));
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"aaa", "baa", "bba"}));
}

TEST(SimDiskTest, TheCapacityIsOfPagesInUseAndHolesGiveThemBack) {
  SimDisk disk(1);
  disk.SetCapacity(4 * kSimPageBytes);
  const auto file = Create(disk, "/f");
  ASSERT_TRUE(file->Truncate(100 * kSimPageBytes).ok());
  EXPECT_TRUE(file->Write(0, std::string(3 * kSimPageBytes, 'a')).ok());
  EXPECT_EQ(disk.Space("/")->free_bytes, kSimPageBytes);
  EXPECT_EQ(base::ErrnoOf(file->Write(50 * kSimPageBytes, std::string(2 * kSimPageBytes, 'a'))),
            ENOSPC);
  EXPECT_TRUE(file->PunchHole({0, 2 * kSimPageBytes}).ok());
  EXPECT_EQ(*file->AllocatedBytes(), kSimPageBytes);
  EXPECT_EQ(*file->NextData(0), (ByteRange{2 * kSimPageBytes, 3 * kSimPageBytes}));
  EXPECT_TRUE(file->Write(50 * kSimPageBytes, std::string(2 * kSimPageBytes, 'a')).ok());
}

TEST(SimDiskTest, TruncationIsUnsyncedLikeAnyOtherChange) {
  const auto outcomes = Outcomes(
      [](SimDisk& disk) {
        MakeFile(disk, std::string(2 * kSectorBytes, 'a'));
        const auto file = Create(disk, "/f");
        ASSERT_TRUE(file->Truncate(kSectorBytes).ok());
      },
      [](SimDisk& disk) { return Sectors(Contents(disk, "/f")); });
  EXPECT_EQ(outcomes, (std::set<std::string>{"a", "aa"}));
}

// "/f" is 'a', "/source" is 'o' on the medium and 'n' in the cache: two blocks each; "/f" then shares those of "/source".
void CloneOver(SimDisk& disk, bool sync_before, bool sync_clone, bool sync_after) {
  disk.UseReflinks();
  MakeFile(disk, std::string(2 * kSimPageBytes, 'a'));
  ASSERT_TRUE(disk.WriteFileAtomically("/source", std::string(2 * kSimPageBytes, 'o')).ok());
  const auto source = Create(disk, "/source");
  const auto file = Create(disk, "/f");
  ASSERT_TRUE(source->Write(0, std::string(2 * kSimPageBytes, 'n')).ok());
  if (sync_before) {
    ASSERT_TRUE(source->Sync().ok());
  }
  ASSERT_TRUE(file->CloneFrom(*source, 0, 0, 2 * kSimPageBytes).ok());
  EXPECT_EQ(Contents(disk, "/f"), std::string(2 * kSimPageBytes, 'n'));
  ASSERT_TRUE(source->Write(0, std::string(kSimPageBytes, 'x')).ok());  // of the source alone
  EXPECT_EQ(Contents(disk, "/f"), std::string(2 * kSimPageBytes, 'n'));
  if (sync_clone) {
    ASSERT_TRUE(file->Sync().ok());
  }
  if (sync_after) {
    ASSERT_TRUE(source->Sync().ok());
  }
}

// Which letters a power cut leaves in each of the blocks.
std::set<std::string> CloneOutcomes(bool sync_before, bool sync_clone, bool sync_after) {
  return Outcomes([&](SimDisk& disk) { CloneOver(disk, sync_before, sync_clone, sync_after); },
                  [](SimDisk& disk) {
                    const std::string sectors = Sectors(Contents(disk, "/f"));
                    const std::set<char> first(sectors.begin(), sectors.begin() + 8);
                    const std::set<char> second(sectors.begin() + 8, sectors.end());
                    return std::string(first.begin(), first.end()) + "," +
                           std::string(second.begin(), second.end());
                  });
}

TEST(SimDiskTest, AClonedBlockIsKeptOrLostAsAWhole) {
  EXPECT_EQ(CloneOutcomes(true, false, false), (std::set<std::string>{"a,a", "a,n", "n,a", "n,n"}));
  EXPECT_EQ(CloneOutcomes(true, true, false), std::set<std::string>{"n,n"});
}

TEST(SimDiskTest, ASyncedCloneLosesWhatItsSourceHadNotSynced) {
  const auto outcomes = CloneOutcomes(false, true, false);
  EXPECT_TRUE(outcomes.contains("no,no"));
  for (const std::string& one : outcomes) EXPECT_EQ(one.find('a'), std::string::npos) << one;
  EXPECT_EQ(CloneOutcomes(false, true, true), std::set<std::string>{"n,n"});
}

TEST(SimDiskTest, ACloneThatWasOverwrittenWaitsForItsSourceNoMore) {
  const auto outcomes = Outcomes(
      [](SimDisk& disk) {
        CloneOver(disk, false, true, false);
        const auto file = Create(disk, "/f");
        ASSERT_TRUE(file->Write(0, std::string(2 * kSimPageBytes, 'z')).ok());
        ASSERT_TRUE(file->Sync().ok());
      },
      [](SimDisk& disk) { return Contents(disk, "/f"); });
  EXPECT_EQ(outcomes, std::set<std::string>{std::string(2 * kSimPageBytes, 'z')});
}

TEST(SimDiskTest, OnlyWholeBlocksAreCloned) {
  SimDisk disk(1);
  MakeFile(disk, std::string(2 * kSimPageBytes, 'a'));
  const auto file = Create(disk, "/f");
  const auto source = Create(disk, "/source");
  ASSERT_TRUE(source->Write(0, std::string(kSimPageBytes, 'n')).ok());
  const auto clone = [&](uint64_t from, uint64_t to, uint64_t bytes) {
    return file->CloneFrom(*source, from, to, bytes).code();
  };
  EXPECT_EQ(clone(0, 0, kSimPageBytes), absl::StatusCode::kUnimplemented);
  disk.UseReflinks();
  EXPECT_EQ(clone(0, kSectorBytes, kSimPageBytes), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(clone(0, 0, kSectorBytes), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(clone(kSimPageBytes, 0, kSimPageBytes), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(clone(0, 0, kSimPageBytes), absl::StatusCode::kOk);
}

TEST(SimDiskTest, ALockEndsWithItsFile) {
  SimDisk disk(1);
  {
    const auto held = disk.Open("/f", {.create = true, .lock = true});
    EXPECT_EQ(disk.Open("/f", {.lock = true}).status().code(),
              absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(disk.Open("/f", {}).ok());
  }
  EXPECT_TRUE(disk.Open("/f", {.lock = true}).ok());
}

TEST(SimDiskTest, EveryChangeHasItsNumber) {
  SimDisk disk(1);
  std::vector<std::string> seen;
  disk.SetHook([&](const SimIo& io) {
    EXPECT_EQ(io.number, seen.size() + 1);
    seen.push_back(SimIoName(io.kind));
    return SimFault::kNone;
  });
  ASSERT_TRUE(disk.CreateDirectory("/d").ok());
  {
    const auto file = Create(disk, "/d/f");
    ASSERT_TRUE(file->Write(0, "x").ok());
    ASSERT_TRUE(file->Truncate(0).ok());
    ASSERT_TRUE(file->PunchHole({0, 1}).ok());
    ASSERT_TRUE(file->Sync().ok());
  }
  ASSERT_TRUE(disk.Rename("/d/f", "/d/g").ok());
  ASSERT_TRUE(disk.SyncDirectory("/d").ok());
  ASSERT_TRUE(disk.Remove("/d/g").ok());
  disk.Exists("/d");
  EXPECT_EQ(seen,
            (std::vector<std::string>{"create directory", "create", "write", "truncate",
                                      "punch hole", "sync", "rename", "sync directory", "remove"}));
}

TEST(SimDiskTest, ASnapshotIsNotTouchedByWhatComesAfterIt) {
  SimDisk disk(1);
  MakeFile(disk, "first");
  const auto saved = disk.Save();
  MakeFile(disk, "other");
  ASSERT_TRUE(disk.Remove("/f").ok());
  disk.Load(saved);
  EXPECT_EQ(Contents(disk, "/f"), "first");
  ASSERT_TRUE(Create(disk, "/f")->Write(0, "F").ok());
  disk.Load(saved);
  EXPECT_EQ(Contents(disk, "/f"), "first");
}

}  // namespace
}  // namespace understudy::testing::sim_disk_test
