// A block device as the secondary disk, as far as it is not a file: what it is known by, and where its marker lies. The devices are
// files that say otherwise; tests/integration/block_device_test.py has real ones.
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/reason.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage {
namespace {

using ::testing::IsEmpty;

class Recorder : public ReplicaListener {
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
    f_.replica().SetListener(&recorder_);
    return recorder_.Take();
  }
  void Begin() {
    ASSERT_THAT(Reopen(), IsEmpty());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  }

  Recorder recorder_;
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
  ASSERT_EQ(f_.replica().WaitForJobs(absl::InfiniteFuture()), absl::OkStatus());
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

}  // namespace
}  // namespace understudy::storage
