// A block device as the secondary disk, as far as it is not a file: what it is known by, and where its marker lies. The devices are
// files that say otherwise; tests/integration/block_device_test.py has real ones.
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/reason.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage::device_test {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class DeviceTest : public ::testing::Test {
 protected:
  DeviceTest() : link_(f_.directory() + "/by-id") {
    f_.files().PretendDevice(device_, "wwid a");
    Lead(device_);
    f_.spec().volumes[0].disk_path = link_;
  }
  void TearDown() override { f_.CloseStore(); }
  // The link that udev makes.
  void Lead(const std::string& device) {
    std::filesystem::remove(link_);
    std::filesystem::create_symlink(device, link_);
  }
  // As after a restart; returns what the group has to say against it.
  std::vector<absl::Status> Reopen() {
    EXPECT_EQ(f_.OpenStore(), absl::OkStatus());
    f_.replica().SetListener(&errors_);
    return errors_.Take();
  }
  // "" when there is none.
  std::string Marker() {
    const std::filesystem::path directory = f_.options().data_dir + "/devices";
    if (!std::filesystem::exists(directory)) return "";
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      if (entry.path().extension() == ".understudy") return entry.path().string();
    }
    return "";
  }
  void Begin() {
    ASSERT_THAT(Reopen(), IsEmpty());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  }

  BackgroundErrors errors_;
  StoreFixture f_{1, 1};
  const std::string device_ = f_.spec().volumes[0].disk_path;
  const std::string link_;
};

TEST_F(DeviceTest, ItIsFoundWhereverItsLinkLeadsAndAnotherOneIsNotTakenForIt) {
  Begin();
  EXPECT_EQ(f_.replica().volumes()[0].disk_path, link_);
  const std::string data = f_.Bytes(4096);
  ASSERT_EQ(f_.PrimaryWrite(0, 0, data), absl::OkStatus());
  ASSERT_TRUE(f_.MarkedCheckpoint().ok());
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  const std::string shown = f_.View(0);
  EXPECT_EQ(shown.substr(0, 4096), data);

  // The kernel has numbered them the other way round.
  f_.CloseStore();
  const std::string moved = device_ + ".moved";
  std::filesystem::rename(device_, moved);
  std::filesystem::copy_file(moved, device_);
  f_.files().PretendDevice(moved, "wwid a");
  f_.files().PretendDevice(device_, "wwid b");
  const std::vector<absl::Status> wrong = Reopen();
  ASSERT_EQ(wrong.size(), 1u);
  EXPECT_TRUE(HasReason(wrong[0], kReasonWrongDisk)) << wrong[0];
  EXPECT_FALSE(f_.View(0) == shown);

  f_.CloseStore();
  Lead(moved);
  EXPECT_THAT(Reopen(), IsEmpty());
  EXPECT_TRUE(f_.View(0) == shown);
}

TEST_F(DeviceTest, ItHasOneUserByWhateverPathItIsNamed) {
  ASSERT_THAT(Reopen(), IsEmpty());
  GroupSpec other = f_.spec();
  other.name = "vm2";
  other.volumes[0].top_id = "vm2/v0";
  other.volumes[0].disk_path = device_;
  EXPECT_EQ(f_.store().Open(other).status().code(), absl::StatusCode::kFailedPrecondition);
  // The same declaration again, by the other name.
  other = f_.spec();
  other.volumes[0].disk_path = device_;
  EXPECT_EQ(f_.store().Open(other).status(), absl::OkStatus());
}

// ---- the marker ----------------------------------------------------------------------------------------------------------

TEST_F(DeviceTest, ItsMarkerLiesInTheDataDirectoryUntilDone) {
  Begin();
  const std::string marker = Marker();
  ASSERT_THAT(marker, EndsWith(".understudy"));
  EXPECT_THAT(std::filesystem::path(marker).filename().string(), StartsWith("device-wwid-a-0-"));
  const std::string text = base::FileSystem::Posix().ReadWholeFile(marker).value();
  EXPECT_THAT(text, HasSubstr("group vm1"));
  EXPECT_THAT(text, HasSubstr(link_ + ", device wwid a\n"));
  EXPECT_THAT(text, HasSubstr("\nterm 1 of vm1 check "));
  EXPECT_FALSE(std::filesystem::exists(link_ + ".understudy"));
  ASSERT_EQ(f_.replica().Stop(), absl::OkStatus());
  EXPECT_EQ(Marker(), "");
}

// What is restored is the index, and the marker is of a later life of the group.
// Where SYNCED has been lost with it, and the service starts.
TEST_F(DeviceTest, AnOlderIndexIsIsolated) {
  Begin();
  f_.CloseStore();
  const std::string index = f_.options().data_dir + "/index";
  std::filesystem::copy(index, index + ".older", std::filesystem::copy_options::recursive);
  const auto restore = [&] {
    f_.CloseStore();
    std::filesystem::remove_all(index);
    std::filesystem::copy(index + ".older", index, std::filesystem::copy_options::recursive);
    std::filesystem::remove(f_.options().data_dir + "/SYNCED");
    const std::vector<absl::Status> said = Reopen();
    ASSERT_EQ(said.size(), 1u);
    EXPECT_EQ(said[0].code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(said[0].message()), HasSubstr("older copy"));
    EXPECT_FALSE(f_.replica().state().valid);
  };
  EXPECT_THAT(Reopen(), IsEmpty()) << "nothing has happened since";
  ASSERT_EQ(f_.replica().BindAgent("other", /*takeover=*/true), absl::OkStatus());
  restore();
  ASSERT_EQ(std::filesystem::remove(Marker()), true);  // as DONE and Remove do
  restore();
}

// Nothing beside a device lasts, so nothing can tell. docs/semantics.md says so.
TEST_F(DeviceTest, AnOlderCopyOfTheWholeDataDirectoryIsNotRecognised) {
  Begin();
  f_.CloseStore();
  const std::string data_dir = f_.options().data_dir;
  std::filesystem::copy(data_dir, data_dir + ".older", std::filesystem::copy_options::recursive);
  ASSERT_THAT(Reopen(), IsEmpty());
  ASSERT_EQ(f_.replica().BindAgent("other", /*takeover=*/true), absl::OkStatus());
  f_.CloseStore();
  std::filesystem::remove_all(data_dir);
  std::filesystem::rename(data_dir + ".older", data_dir);
  EXPECT_THAT(Reopen(), IsEmpty());
}

}  // namespace
}  // namespace understudy::storage::device_test
