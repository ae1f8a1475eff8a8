#include "client/primary_disk.h"

#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "tests/testing/fault_file_system.h"
#include "tests/testing/temp_dir.h"

namespace understudy::client::primary_disk_test {
namespace {

class PrimaryDiskTest : public ::testing::Test {
 protected:
  PrimaryDiskTest() {
    EXPECT_TRUE(files_.WriteFileAtomically(path_, std::string(1 << 20, 'x')).ok());
    disk_ = *PrimaryDisk::Open(files_, path_, 0);
  }

  testing::TempDir directory_;
  testing::FaultFileSystem files_;
  const std::string path_ = directory_.File("disk.raw");
  std::unique_ptr<PrimaryDisk> disk_;
};

TEST_F(PrimaryDiskTest, ItIsIdentifiedByFileSystemInodeAndGeneration) {
  files_.PretendIdentity(path_, {.file_system = "uuid a", .inode = 12, .generation = 3});
  const std::string before = disk_->IdentityText();
  EXPECT_TRUE(disk_->WasIdentifiedAs(before));
  for (const base::FileIdentity& other :
       {base::FileIdentity{.file_system = "uuid b", .inode = 12, .generation = 3},
        base::FileIdentity{.file_system = "uuid a", .inode = 13, .generation = 3},
        base::FileIdentity{.file_system = "uuid a", .inode = 12, .generation = 4}}) {
    files_.PretendIdentity(path_, other);
    EXPECT_FALSE(disk_->WasIdentifiedAs(before)) << other.file_system << " " << other.inode;
  }
}

TEST_F(PrimaryDiskTest, ZeroesKeepTheSpaceOrGiveItBack) {
  const auto allocated = [&] { return *(*files_.Open(path_, {}))->AllocatedBytes(); };
  ASSERT_TRUE(disk_->Sync().ok());
  const uint64_t before = allocated();
  ASSERT_TRUE(disk_->Zero({0, 1 << 20}, ZeroedSpace::kKept).ok());
  ASSERT_TRUE(disk_->Sync().ok());
  EXPECT_GE(allocated(), before);
  ASSERT_TRUE(disk_->Zero({0, 1 << 20}, ZeroedSpace::kGivenBack).ok());
  EXPECT_LT(allocated(), before / 2);
}

// It would cost a whole comparison.
TEST_F(PrimaryDiskTest, WhatAnEarlierReleaseStoredIsUnderstood) {
  files_.PretendIdentity(path_, {.file_system = "810", .inode = 12});
  const std::string stored = disk_->IdentityText();
  files_.PretendIdentity(
      path_, {.file_system = "uuid a", .inode = 12, .generation = 3, .former_file_system = "810"});
  EXPECT_NE(disk_->IdentityText(), stored);
  EXPECT_TRUE(disk_->WasIdentifiedAs(stored));
  files_.PretendIdentity(
      path_, {.file_system = "uuid a", .inode = 12, .generation = 3, .former_file_system = "820"});
  EXPECT_FALSE(disk_->WasIdentifiedAs(stored));
}

}  // namespace
}  // namespace understudy::client::primary_disk_test
