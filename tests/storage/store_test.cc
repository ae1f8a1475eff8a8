// Declaring groups and opening data directories: what is refused, with which words, and that nothing is left behind.
#include "storage/store.h"

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/format.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage::store_test {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kVolumeBytes = 1 << 20;

class StoreTest : public ::testing::Test {
 protected:
  StoreTest() : f_(1, 1, kVolumeBytes) {}
  void SetUp() override {
    auto store = Store::Open(f_.options(), f_.files(), base::Clock::Real(), f_.random());
    ASSERT_EQ(store.status(), absl::OkStatus());
    store_ = *std::move(store);
  }
  // Refused with this code and text; then the good declaration works, so nothing was left behind.
  void Refused(const GroupSpec& spec, absl::StatusCode code, const std::string& text) {
    const absl::Status status = store_->Open(spec).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
    EXPECT_EQ(store_->Open(f_.spec()).status(), absl::OkStatus());
    EXPECT_EQ(store_->Remove("vm1"), absl::OkStatus());
  }
  std::string disk() { return f_.spec().volumes[0].disk_path; }

  StoreFixture f_;
  std::unique_ptr<Store> store_;
};

TEST_F(StoreTest, BadNamesAreRefused) {
  GroupSpec spec = f_.spec();
  for (const char* name : {"", "UPPER", "-x", "x-", "a b", "ä"}) {
    spec.name = name;
    Refused(spec, absl::StatusCode::kInvalidArgument, "group name");
  }
  spec = f_.spec();
  spec.volumes[0].name = std::string(64, 'a');
  Refused(spec, absl::StatusCode::kInvalidArgument, "volume name");
  spec = f_.spec();
  spec.volumes[0].top_id = "a//";
  Refused(spec, absl::StatusCode::kInvalidArgument, "top-id");
  spec = f_.spec();
  spec.volumes.push_back(spec.volumes[0]);
  Refused(spec, absl::StatusCode::kInvalidArgument, "declared twice");
  spec.volumes.clear();
  Refused(spec, absl::StatusCode::kInvalidArgument, "no volumes");
}

TEST_F(StoreTest, DisksOutsideTheAllowedDirectoriesAreRefusedAlsoThroughLinks) {
  GroupSpec spec = f_.spec();
  spec.volumes[0].disk_path = "/etc/hostname";
  Refused(spec, absl::StatusCode::kPermissionDenied, "outside every --disk-dir");
  std::filesystem::create_symlink("/etc/hostname", f_.directory() + "/link");
  spec.volumes[0].disk_path = f_.directory() + "/link";
  Refused(spec, absl::StatusCode::kPermissionDenied, "outside every --disk-dir");
  spec.volumes[0].disk_path = f_.directory() + "/../../etc/hostname";
  Refused(spec, absl::StatusCode::kPermissionDenied, "outside every --disk-dir");
}

TEST_F(StoreTest, AMissingDiskIsRefusedUnlessItShallBeCreated) {
  GroupSpec spec = f_.spec();
  spec.volumes[0].disk_path = f_.directory() + "/missing.img";
  Refused(spec, absl::StatusCode::kNotFound, "missing.img");
  spec.volumes[0].create = true;
  spec.volumes[0].size_bytes = 0;
  Refused(spec, absl::StatusCode::kInvalidArgument, "needs a size");
  spec.volumes[0].size_bytes = 4096;
  EXPECT_EQ(store_->Open(spec).status(), absl::OkStatus());
  EXPECT_EQ(std::filesystem::file_size(spec.volumes[0].disk_path), 4096u);
}

TEST_F(StoreTest, AFailedDeclarationTakesBackTheFilesItMade) {
  GroupSpec spec = f_.spec();
  spec.volumes[0].disk_path = f_.directory() + "/made.img";
  spec.volumes[0].create = true;
  spec.volumes.push_back(f_.spec().volumes[0]);
  spec.volumes[1].name = "v9";
  spec.volumes[1].top_id = "vm1/v9";
  spec.volumes[1].size_bytes = 512;
  Refused(spec, absl::StatusCode::kFailedPrecondition,
          "Active disk, hidden disk, secondary disk's length are not the same");
  EXPECT_FALSE(std::filesystem::exists(spec.volumes[0].disk_path));
}

TEST_F(StoreTest, SizesThatDoNotFitAreRefused) {
  GroupSpec spec = f_.spec();
  spec.volumes[0].size_bytes = kVolumeBytes + 512;
  Refused(spec, absl::StatusCode::kFailedPrecondition, "length are not the same");
  spec.volumes[0].size_bytes = 1000;
  Refused(spec, absl::StatusCode::kInvalidArgument, "multiple of 512");
}

TEST_F(StoreTest, ADiskHasOneUser) {
  {
    const auto other = base::FileSystem::Posix().Open(disk(), {.lock = true});
    ASSERT_TRUE(other.ok());
    const absl::Status status = store_->Open(f_.spec()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("Block device is in use by internal backup job"));
  }
  auto first = store_->Open(f_.spec());
  ASSERT_EQ(first.status(), absl::OkStatus());
  GroupSpec second = f_.spec();
  second.name = "vm2";
  second.volumes[0].top_id = "vm2/v0";
  EXPECT_THAT(std::string(store_->Open(second).status().message()),
              HasSubstr("belongs to volume vm1/v0"));
  ASSERT_EQ((*first)->Start(), absl::OkStatus());
  EXPECT_THAT(std::string(store_->Open(second).status().message()),
              HasSubstr("in use by internal backup job"));
}

TEST_F(StoreTest, TheSameDeclarationAgainIsTheSameGroupAnotherOneIsRefused) {
  const auto first = store_->Open(f_.spec());
  EXPECT_EQ(store_->Open(f_.spec())->get(), first->get());
  GroupSpec other = f_.spec();
  other.volumes[0].top_id = "elsewhere";
  EXPECT_EQ(store_->Open(other).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(StoreTest, RemoveFreesSegmentsAndForgetsTheGroup) {
  store_ = nullptr;
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  ASSERT_EQ(f_.PrimaryWrite(0, 0, f_.Bytes(65536)), absl::OkStatus());
  const Incarnation incarnation = f_.replica().state().incarnation;
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  ASSERT_EQ(f_.store().Remove("vm1"), absl::OkStatus());
  EXPECT_EQ(f_.store().Find("vm1").status().code(), absl::StatusCode::kNotFound);
  f_.CloseStore();
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().stage, Stage::kNone);
  ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  EXPECT_NE(f_.replica().state().incarnation, incarnation);
  EXPECT_TRUE(f_.View(0) == f_.initial(0));
}

// ---- the directory -----------------------------------------------------------------------------------------------------------

TEST_F(StoreTest, ALockedDirectoryIsRefused) {
  const auto second = Store::Open(f_.options(), f_.files(), base::Clock::Real(), f_.random());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use by another understudyd"));
}

// The names and contents of all files below `directory`, except RocksDB's own log files.
std::map<std::string, std::string> Contents(const std::string& directory) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    const std::string path = entry.path().string();
    if (!entry.is_regular_file() || path.find("/LOG") != std::string::npos) continue;
    contents[path] = base::FileSystem::Posix().ReadWholeFile(path).value_or("unreadable");
  }
  return contents;
}

// What VERSION says, how the open ends, and the words that say why.
struct VersionCase {
  std::string version;
  absl::StatusCode code;
  std::string text;
};

TEST_F(StoreTest, VersionAndFeaturesAreCheckedBeforeAnythingIsTouched) {
  using enum absl::StatusCode;
  store_ = nullptr;
  const std::string version = f_.options().data_dir + "/VERSION";
  for (const VersionCase& c : std::vector<VersionCase>{
           {"understudy 2\n", kFailedPrecondition, "format version 2"},
           {"understudy 1\nincompatible: folded packed\n", kFailedPrecondition, "folded, packed"},
           {"understudy 1\nread-only: indexed\n", kFailedPrecondition, "understudy-inspect"},
           {"understudy 1\ncompatible: hints\n", kOk, ""},
           {"understudy 1\nwhatever: hints\n", kDataLoss, "VERSION: damaged"},
           {"understudy 0\n", kDataLoss, "VERSION: damaged"},
           {"understudx 1\n", kDataLoss, "VERSION: damaged"},
           {"understudy 1", kDataLoss, "VERSION: damaged"},
           {"", kDataLoss, "VERSION: damaged"},
           {"understudy 1\n", kOk, ""}}) {
    SCOPED_TRACE(c.version);
    ASSERT_TRUE(base::FileSystem::Posix().WriteFileAtomically(version, c.version).ok());
    const auto before = Contents(f_.options().data_dir);
    const auto opened = Store::Open(f_.options(), f_.files(), base::Clock::Real(), f_.random());
    EXPECT_EQ(opened.status().code(), c.code) << opened.status();
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(c.text));
    EXPECT_EQ(*base::FileSystem::Posix().ReadWholeFile(version), c.version);
    if (!opened.ok()) {
      EXPECT_TRUE(before == Contents(f_.options().data_dir));
    }
  }
}

TEST_F(StoreTest, AMissingVersionIsNotMadeUpWhenThereIsAnIndex) {
  store_ = nullptr;
  std::filesystem::remove(f_.options().data_dir + "/VERSION");
  const auto opened = Store::Open(f_.options(), f_.files(), base::Clock::Real(), f_.random());
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr("VERSION is missing"));
}

TEST_F(StoreTest, ASegmentOfANewerVersionIsNeverRecycled) {
  store_ = nullptr;
  SegmentHeader header{.version = 3, .ordinal = 1, .incarnation = 3, .group = 99};
  SealSegmentHeader(header);
  const std::string path = f_.options().data_dir + "/segments/0000000000000009.seg";
  const std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  ASSERT_TRUE(base::FileSystem::Posix().WriteFileAtomically(path, bytes).ok());
  const auto opened = Store::Open(f_.options(), f_.files(), base::Clock::Real(), f_.random());
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr(path));
  EXPECT_EQ(*base::FileSystem::Posix().ReadWholeFile(path), bytes);
}

TEST_F(StoreTest, OptionsListEveryProblem) {
  const absl::Status status = StoreOptions{.segment_bytes = 1000}.Validate();
  EXPECT_THAT(std::string(status.message()), HasSubstr("--data-dir"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--segment-bytes 1000"));
}

}  // namespace
}  // namespace understudy::storage::store_test
