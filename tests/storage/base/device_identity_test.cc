// What names a device, from a sysfs that the test lays out as Linux does.
#include "storage/base/device_identity.h"

#include <filesystem>
#include <string>
#include <sys/sysmacros.h>

#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace understudy::base::device_identity_test {
namespace {

class DeviceIdentityTest : public ::testing::Test {
 protected:
  // `directory` below devices/ is that of device 8:`minor`.
  void Device(unsigned minor, const std::string& directory) {
    const std::filesystem::path sysfs = temp_.path();
    std::filesystem::create_directories(sysfs / "dev/block");
    std::filesystem::create_directories(sysfs / "devices" / directory);
    std::filesystem::create_directory_symlink("../../devices/" + directory,
                                              sysfs / "dev/block" / ("8:" + std::to_string(minor)));
  }
  void Attribute(const std::string& path, const std::string& value) {
    const std::filesystem::path file = std::filesystem::path(temp_.path()) / "devices" / path;
    std::filesystem::create_directories(file.parent_path());
    ASSERT_TRUE(FileSystem::Posix().WriteFileAtomically(file.string(), value).ok());
  }
  FileIdentity Of(unsigned minor) { return DeviceIdentity(temp_.path(), makedev(8, minor)); }

  testing::TempDir temp_;
};

TEST_F(DeviceIdentityTest, ADiskKeepsItsNameUnderAnotherNumber) {
  Device(16, "sdb");
  Attribute("sdb/device/wwid", "naa.5000c500a1b2c3d4\n");
  const FileIdentity before = Of(16);
  EXPECT_EQ(before.file_system, "device device/wwid naa.5000c500a1b2c3d4");
  EXPECT_TRUE(before.device());
  Device(32, "sdc");
  Attribute("sdc/device/wwid", "naa.5000c500a1b2c3d4\n");
  EXPECT_EQ(Of(32), before);
  Attribute("sdb/device/wwid", "naa.5000c500ffffffff\n");
  EXPECT_NE(Of(16), before);
}

TEST_F(DeviceIdentityTest, APartitionIsNamedByItsDiskAndItsNumber) {
  Device(0, "sda");
  Device(1, "sda/sda1");
  Device(2, "sda/sda2");
  Attribute("sda/device/wwid", "naa.5");
  Attribute("sda/sda1/partition", "1\n");
  Attribute("sda/sda2/partition", "2\n");
  EXPECT_EQ(Of(1).file_system, "device device/wwid naa.5 partition 1");
  EXPECT_NE(Of(1), Of(2));
  EXPECT_NE(Of(1), Of(0));
}

TEST_F(DeviceIdentityTest, EachKindIsNamedByItsMaker) {
  Device(0, "dm-0");
  Attribute("dm-0/dm/uuid", "LVM-abc\n");
  EXPECT_EQ(Of(0).file_system, "device dm/uuid LVM-abc");
  Device(1, "nvme0n1");
  Attribute("nvme0n1/wwid", "eui.0025\n");
  EXPECT_EQ(Of(1).file_system, "device wwid eui.0025");
  Device(2, "vda");
  Attribute("vda/serial", "disk-7");
  EXPECT_EQ(Of(2).file_system, "device serial disk-7");
  Device(3, "loop3");
  Attribute("loop3/loop/backing_file", "/var/image.raw\n");
  EXPECT_EQ(Of(3).file_system, "device loop/backing_file /var/image.raw");
}

TEST_F(DeviceIdentityTest, ANamelessOneIsItsNumber) {
  Device(4, "vdb");
  Attribute("vdb/serial", "\n");
  EXPECT_EQ(Of(4), (FileIdentity{.file_system = "device", .inode = makedev(8, 4)}));
  EXPECT_TRUE(Of(4).device());
  EXPECT_EQ(Of(5), (FileIdentity{.file_system = "device", .inode = makedev(8, 5)}))
      << "not in sysfs";
}

class FileSystemNameTest : public DeviceIdentityTest {
 protected:
  std::string NameOf(const FileSystemFacts& facts) {
    return FileSystemName(temp_.path(), temp_.File("mountinfo"), facts);
  }
};

TEST_F(FileSystemNameTest, AnIdMadeFromTheUuidIsTheName) {
  EXPECT_EQ(NameOf({.id = 0x1234abcd, .device = makedev(8, 16)}), "1234abcd");
}

TEST_F(FileSystemNameTest, ANumberOfTheDeviceIsNone) {
  Device(16, "sdb");
  Attribute("sdb/device/wwid", "naa.5");
  Device(32, "sdc");
  Attribute("sdc/device/wwid", "naa.5");
  const FileSystemFacts before = {.id = 0x810, .device = makedev(8, 16)};
  const FileSystemFacts after = {.id = 0x820, .device = makedev(8, 32)};
  EXPECT_EQ(NameOf(before), "on device device/wwid naa.5");
  EXPECT_EQ(NameOf(after), NameOf(before));
  EXPECT_NE(FormerFileSystemName(before), FormerFileSystemName(after));
  EXPECT_EQ(NameOf({.id = 0x810, .uuid = "feed", .device = makedev(8, 16)}), "uuid feed");
  EXPECT_EQ(FormerFileSystemName({.id = 0x810, .uuid = "feed", .device = makedev(8, 16)}), "810");
}

TEST_F(FileSystemNameTest, ManyDevicesHaveLargeNumbers) {
  Device(0x12345, "sdzz");
  Attribute("sdzz/device/wwid", "naa.6");
  EXPECT_EQ(NameOf({.id = 0x12300845, .device = makedev(8, 0x12345)}),
            "on device device/wwid naa.6");
}

TEST_F(FileSystemNameTest, WithoutAnIdTheMountSourceIs) {
  ASSERT_TRUE(FileSystem::Posix()
                  .WriteFileAtomically(
                      temp_.File("mountinfo"),
                      "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
                      "87 21 0:51 / /vm rw shared:7 master:2 - nfs4 store:/vm rw,vers=4.2\n"
                      "88 21 0:52 / /far rw - fuse.sshfs me@far:/ rw\n"
                      "89 21 0:51 /vm1 /srv/vm1 rw - nfs4 store:/vm rw,vers=4.2\n"
                      "90 21 0:54 / /scratch rw - tmpfs tmpfs rw\n")
                  .ok());
  EXPECT_EQ(NameOf({.device = makedev(0, 51), .mount_id = 87}), "mount nfs4 store:/vm");
  EXPECT_EQ(NameOf({.device = makedev(0, 44), .mount_id = 87}), "mount nfs4 store:/vm");
  EXPECT_EQ(NameOf({.device = makedev(0, 52), .mount_id = 88}), "mount fuse.sshfs me@far:/");
  EXPECT_EQ(NameOf({.device = makedev(0, 51), .mount_id = 89}), "mount nfs4 store:/vm");
  EXPECT_EQ(NameOf({.device = makedev(0, 54), .mount_id = 90}), "mount tmpfs tmpfs /scratch");
  const FileSystemFacts unseen = {.device = makedev(0, 53), .mount_id = 99};
  EXPECT_EQ(NameOf(unseen), FormerFileSystemName(unseen));
  EXPECT_EQ(FormerFileSystemName(unseen), "dev53");
}

}  // namespace
}  // namespace understudy::base::device_identity_test
