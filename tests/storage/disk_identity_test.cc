// Which file is the secondary disk when its file system is called otherwise than when the group was
// declared, as after a reboot.
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/reason.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage::disk_identity_test {
namespace {

using base::FileIdentity;

class DiskIdentityTest : public ::testing::Test {
 protected:
  DiskIdentityTest() {
    Pretend({.file_system = "uuid a", .inode = 131, .generation = 7});
    Pretend({.file_system = "uuid b", .inode = 131, .generation = 8}, 1);
  }
  void Pretend(const FileIdentity& identity, size_t volume = 0) {
    f_.files().PretendIdentity(Path(volume), identity);
  }
  std::string Path(size_t volume = 0) { return f_.spec().volumes[volume].disk_path; }
  std::string MarkerPath(size_t volume) { return Path(volume) + ".understudy"; }
  std::string Marker(size_t volume = 0) { return *f_.files().ReadWholeFile(MarkerPath(volume)); }
  void WriteMarker(const std::string& text, size_t volume = 0) {
    ASSERT_EQ(f_.files().WriteFileAtomically(MarkerPath(volume), text), absl::OkStatus());
  }
  // As an earlier release wrote it.
  void TakeVolumeLine(size_t volume) {
    const std::string marker = Marker(volume);
    const size_t start = marker.find("\nvolume ") + 1;
    ASSERT_NE(start, 0u) << marker;
    WriteMarker(absl::StrCat(marker.substr(0, start), marker.substr(marker.find('\n', start) + 1)),
                volume);
  }
  void Start() {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    f_.CloseStore();
  }
  // What the group says after a restart.
  absl::Status Restart() {
    f_.CloseStore();
    const absl::Status opened = f_.OpenStore();
    return opened.ok() ? f_.Checkpoint().status() : opened;
  }
  bool IsWrongDisk() { return HasReason(Restart(), kReasonWrongDisk); }

  StoreFixture f_{1};
};

TEST_F(DiskIdentityTest, AnotherNameIsNoReasonToRefuseItIfTheMarkerAgrees) {
  Start();
  Pretend({.file_system = "uuid c", .inode = 131, .generation = 7});
  EXPECT_EQ(Restart(), absl::OkStatus());
  // It is known by that from now on.
  TakeVolumeLine(0);
  EXPECT_EQ(Restart(), absl::OkStatus());
  Pretend({.file_system = "uuid a", .inode = 131, .generation = 7});
  EXPECT_TRUE(IsWrongDisk());
}

TEST_F(DiskIdentityTest, WhatTheFileSystemDoesNotTellIsNotCompared) {
  Pretend({.file_system = "mount nfs4 old:/vm /vm", .inode = 131});
  Start();
  Pretend({.file_system = "mount nfs4 new:/vm /vm", .inode = 131});
  EXPECT_EQ(Restart(), absl::OkStatus());
}

TEST_F(DiskIdentityTest, AnotherInodeIsAnotherDisk) {
  Start();
  Pretend({.file_system = "uuid a", .inode = 132, .generation = 7});
  EXPECT_TRUE(IsWrongDisk());
}

TEST_F(DiskIdentityTest, AnotherFileUnderTheInodeNumberIsAnotherDisk) {
  Start();
  Pretend({.file_system = "uuid a", .inode = 131, .generation = 9});
  EXPECT_TRUE(IsWrongDisk());
}

TEST_F(DiskIdentityTest, ACopyWithTheMarkerIsAnotherDisk) {
  Start();
  Pretend({.file_system = "uuid fresh", .inode = 131, .generation = 9});
  EXPECT_TRUE(IsWrongDisk());
}

// Inode numbers, lengths and groups are equal.
TEST_F(DiskIdentityTest, TwoDisksThatHaveChangedPlacesAreRefused) {
  Start();
  const std::string first = Marker(0);
  WriteMarker(Marker(1), 0);
  WriteMarker(first, 1);
  Pretend({.file_system = "uuid b", .inode = 131, .generation = 8}, 0);
  Pretend({.file_system = "uuid a", .inode = 131, .generation = 7}, 1);
  EXPECT_TRUE(IsWrongDisk());
  // Nor under the old name, as of a device number.
  Pretend({.file_system = "uuid a", .inode = 131, .generation = 8}, 0);
  Pretend({.file_system = "uuid b", .inode = 131, .generation = 7}, 1);
  EXPECT_TRUE(IsWrongDisk());
}

TEST_F(DiskIdentityTest, TheMarkerOfAnotherGroupSaysNothing) {
  Start();
  std::string marker = Marker();
  marker.replace(marker.find("group vm1"), 9, "group vm2");
  WriteMarker(marker);
  Pretend({.file_system = "uuid c", .inode = 131, .generation = 7});
  EXPECT_TRUE(IsWrongDisk());
}

TEST_F(DiskIdentityTest, BeforeTheFirstStartThereIsOnlyTheName) {
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  Pretend({.file_system = "uuid c", .inode = 131, .generation = 7});
  EXPECT_TRUE(HasReason(f_.StartAndAttach(), kReasonWrongDisk));
}

// ---- records of earlier releases ----------------------------------------------------------------

class FormerRecordTest : public DiskIdentityTest {
 protected:
  FormerRecordTest() {
    Pretend({.file_system = "810", .inode = 131});
    Pretend({.file_system = "820", .inode = 131}, 1);
  }
  FileIdentity Now(const std::string& uuid, const std::string& former) {
    return {.file_system = uuid, .inode = 131, .generation = 7, .former_file_system = former};
  }
};

TEST_F(FormerRecordTest, ItIsAcceptedOnceAndStoredAnew) {
  Start();
  TakeVolumeLine(0);
  TakeVolumeLine(1);
  Pretend(Now("uuid a", "810"), 0);
  Pretend(Now("uuid b", "820"), 1);
  EXPECT_EQ(Restart(), absl::OkStatus());
  EXPECT_THAT(Marker(), ::testing::HasSubstr("volume v0 inode 131 generation 7 check"));
  Pretend(Now("uuid a", "820"), 0);
  Pretend(Now("uuid b", "830"), 1);
  EXPECT_EQ(Restart(), absl::OkStatus());
  Pretend(Now("uuid fresh", "810"), 0);
  TakeVolumeLine(0);
  EXPECT_TRUE(IsWrongDisk()) << "the number counts no more";
}

TEST_F(FormerRecordTest, BeforeTheFirstStart) {
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  Pretend(Now("uuid a", "810"), 0);
  Pretend(Now("uuid b", "820"), 1);
  EXPECT_EQ(f_.StartAndAttach(), absl::OkStatus());
  Pretend(Now("uuid a", "820"), 0);
  EXPECT_EQ(Restart(), absl::OkStatus());
}

// Whoever updates because of that must not be refused again.
TEST_F(FormerRecordTest, ANumberThatHasChangedIsExcusedByTheMarker) {
  Pretend({.file_system = "820", .inode = 132}, 1);
  Start();
  TakeVolumeLine(0);
  Pretend(Now("uuid a", "830"), 0);
  EXPECT_EQ(Restart(), absl::OkStatus());
}

TEST_F(FormerRecordTest, ButNotWhenItMayBeThatOfTheOtherDisk) {
  Start();
  TakeVolumeLine(0);
  Pretend(Now("uuid a", "830"), 0);
  EXPECT_TRUE(IsWrongDisk());
}

TEST_F(FormerRecordTest, NorWhenTheNameWasAlwaysOneThatStays) {
  Pretend({.file_system = "820", .inode = 132}, 1);
  Start();
  TakeVolumeLine(0);
  Pretend(Now("830", "830"), 0);
  EXPECT_TRUE(IsWrongDisk());
}

}  // namespace
}  // namespace understudy::storage::disk_identity_test
