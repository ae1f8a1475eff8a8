// The marker that lies beside a secondary disk from Start until DONE, or in the data directory.
#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/storage/store_fixture.h"

namespace understudy::storage::marker_test {
namespace {

using testing::FileOperation;
using ::testing::HasSubstr;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

class MarkerTest : public ::testing::Test, private ReplicaListener {
 protected:
  void Begin() {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    Listen();
  }
  void Listen() { f_.replica().SetListener(this); }
  void TearDown() override {
    f_.files().SetHook(nullptr);
    f_.CloseStore();
  }
  std::string DiskPath(size_t volume) { return f_.spec().volumes[volume].disk_path; }
  ptrdiff_t MarkersInside() {
    const auto names =
        f_.files().List(f_.options().data_dir + "/devices").value_or(std::vector<std::string>());
    return std::count_if(names.begin(), names.end(), [](const std::string& name) {
      return name.starts_with("file-") && name.ends_with(".understudy");
    });
  }
  std::vector<BackgroundError> errors() {
    base::MutexLock lock(mutex_);
    return errors_;
  }

  void OnBackgroundError(const BackgroundError& error) override {
    base::MutexLock lock(mutex_);
    errors_.push_back(error);
  }
  void OnChange() override {}

  base::Mutex mutex_;
  std::vector<BackgroundError> errors_ ABSL_GUARDED_BY(mutex_);
  StoreFixture f_{1};
};

TEST_F(MarkerTest, AMarkerBesideTheDiskSaysWhoseItIsUntilDone) {
  Begin();
  const auto marker = base::FileSystem::Posix().ReadWholeFile(DiskPath(0) + ".understudy");
  ASSERT_TRUE(marker.ok());
  EXPECT_THAT(*marker, HasSubstr("group vm1"));
  EXPECT_THAT(*marker, HasSubstr(f_.options().data_dir));
  ASSERT_EQ(f_.replica().Stop(), absl::OkStatus());
  EXPECT_FALSE(base::FileSystem::Posix().Exists(DiskPath(0) + ".understudy"));
}

// The directory of an image may be root's, though the image is not.
TEST_F(MarkerTest, WhereNothingCanBeMadeBesideTheDiskTheMarkerLiesInTheDataDirectory) {
  const std::string beside = DiskPath(0) + ".understudy";
  const std::string markers = f_.options().data_dir + "/devices";
  const auto forbid = [&] {
    f_.files().SetHook([&](FileOperation operation, const std::string& path) {
      const bool made = operation == FileOperation::kWrite && path.starts_with(beside);
      return made ? base::ErrnoStatus(EACCES, path) : absl::OkStatus();
    });
  };
  forbid();
  Begin();
  EXPECT_FALSE(base::FileSystem::Posix().Exists(beside));
  EXPECT_EQ(MarkersInside(), 1);
  // It is one like any other: of a later life it isolates an older copy, and gone likewise.
  ASSERT_EQ(f_.replica().BindAgent("other", /*takeover=*/true), absl::OkStatus());
  f_.CloseStore();
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().stage, Stage::kRunning);
  f_.CloseStore();
  std::filesystem::rename(markers, markers + ".away");
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  Listen();
  EXPECT_FALSE(f_.replica().AttachStream(99, false).ok()) << "an older copy";
  f_.CloseStore();
  std::filesystem::rename(markers + ".away", markers);
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  // Beside the disk again as soon as that can be.
  f_.files().SetHook(nullptr);
  ASSERT_EQ(f_.replica().BindAgent("third", /*takeover=*/true), absl::OkStatus());
  EXPECT_TRUE(base::FileSystem::Posix().Exists(beside));
  EXPECT_EQ(MarkersInside(), 0);
  // And back: what is left beside it is of an older term, which says nothing.
  forbid();
  ASSERT_EQ(f_.replica().BindAgent("fourth", /*takeover=*/true), absl::OkStatus());
  EXPECT_EQ(MarkersInside(), 1);
  f_.CloseStore();
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  ASSERT_EQ(f_.replica().Stop(), absl::OkStatus());
  EXPECT_FALSE(base::FileSystem::Posix().Exists(beside));
  EXPECT_EQ(MarkersInside(), 0);
}

// What is durable of the notes and what is not: an unlink is, once its directory has been synced.
TEST_F(MarkerTest, AMarkerThatGoesIsGoneDurably) {
  base::Mutex mutex;
  std::vector<std::string> undone;  // directories with an unlink that is not synced
  f_.ForbidBesideDisks(/*files_too=*/false);
  Begin();
  ASSERT_EQ(MarkersInside(), 2);
  f_.files().SetHook([&](FileOperation operation, const std::string& path) {
    base::MutexLock lock(mutex);
    const bool marker = path.ends_with(".understudy");
    if (operation == FileOperation::kSyncDirectory) std::erase(undone, path);
    if (operation == FileOperation::kRemove && marker) undone.push_back(base::DirectoryOf(path));
    return absl::OkStatus();
  });
  ASSERT_EQ(f_.replica().BindAgent("other", /*takeover=*/true), absl::OkStatus());
  EXPECT_EQ(MarkersInside(), 0) << "they lie beside the disks now";
  {
    base::MutexLock lock(mutex);
    EXPECT_THAT(undone, ::testing::IsEmpty());
  }
  ASSERT_EQ(f_.replica().Stop(), absl::OkStatus());
  EXPECT_FALSE(std::filesystem::exists(DiskPath(0) + ".understudy"));
  f_.files().SetHook(nullptr);
  base::MutexLock lock(mutex);
  EXPECT_THAT(undone, ::testing::IsEmpty());
}

// Its term may be higher than those of the next life: that would be called an older copy.
TEST_F(MarkerTest, AMarkerOfAnEarlierLifeThatCannotGoKeepsTheNextOneFromStarting) {
  const std::string beside = DiskPath(0) + ".understudy";
  Begin();
  ASSERT_EQ(f_.replica().BindAgent("other", /*takeover=*/true), absl::OkStatus());
  const std::string earlier = f_.files().ReadWholeFile(beside).value();
  ASSERT_EQ(f_.replica().Stop(), absl::OkStatus());
  ASSERT_EQ(f_.store().Remove("vm1", std::nullopt), absl::OkStatus());
  ASSERT_EQ(f_.files().WriteFileAtomically(beside, earlier), absl::OkStatus());
  f_.ForbidBesideDisks(/*files_too=*/true);

  f_.CloseStore();
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  const absl::Status refused = f_.StartAndAttach();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(refused),
              AllOf(HasSubstr("vm1/v0"), HasSubstr(beside), HasSubstr("remove the file, as root")));
  EXPECT_EQ(f_.replica().state().stage, Stage::kNone);
  EXPECT_EQ(MarkersInside(), 0);
  EXPECT_EQ(f_.files().ReadWholeFile(beside).value(), earlier);

  ASSERT_TRUE(std::filesystem::remove(beside));
  ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  f_.CloseStore();
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  EXPECT_TRUE(f_.replica().state().valid);
}

TEST_F(MarkerTest, AStartThatIsRefusedForOneDiskMarksNone) {
  Begin();
  const std::string text = f_.files().ReadWholeFile(DiskPath(1) + ".understudy").value();
  ASSERT_EQ(f_.replica().Stop(), absl::OkStatus());
  ASSERT_EQ(f_.store().Remove("vm1", std::nullopt), absl::OkStatus());
  f_.CloseStore();
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  const std::string beside = DiskPath(1) + ".understudy";
  ASSERT_EQ(f_.files().WriteFileAtomically(beside, text), absl::OkStatus());
  f_.files().SetHook([&](FileOperation, const std::string& path) {
    return path.starts_with(beside) ? base::ErrnoStatus(EACCES, path) : absl::OkStatus();
  });
  EXPECT_THAT(Text(f_.StartAndAttach()), HasSubstr("vm1/v1"));
  EXPECT_FALSE(std::filesystem::exists(DiskPath(0) + ".understudy"));
}

// The directory becomes root's while the group runs.
TEST_F(MarkerTest, AMarkerThatStaysAtTheEndIsToldAndNothingElseFails) {
  const std::string beside = DiskPath(0) + ".understudy";
  Begin();
  f_.ForbidBesideDisks(/*files_too=*/true);
  ASSERT_EQ(f_.replica().BindAgent("other", /*takeover=*/true), absl::OkStatus());
  f_.CloseStore();
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  ASSERT_TRUE(f_.replica().state().valid) << "it goes on";
  EXPECT_EQ(MarkersInside(), 2);
  Listen();
  ASSERT_EQ(f_.replica().Stop(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().stage, Stage::kDone);
  const std::vector<BackgroundError> told = errors();
  ASSERT_EQ(told.size(), 2u) << "one for each disk";
  EXPECT_EQ(told[0].operation, "marker");
  EXPECT_THAT(Text(told[0].status),
              AllOf(HasSubstr("vm1/v0"), HasSubstr(beside), HasSubstr("remove it, as root")));
  EXPECT_EQ(MarkersInside(), 0) << "what can go has gone";
}

TEST_F(MarkerTest, AMarkerThatCannotBeRemovedIsEmptied) {
  const std::string beside = DiskPath(0) + ".understudy";
  Begin();
  ASSERT_EQ(f_.replica().BindAgent("other", /*takeover=*/true), absl::OkStatus());
  f_.ForbidBesideDisks(/*files_too=*/false);
  // Of a failover likewise: its commit job does not fail.
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().stage, Stage::kDone);
  EXPECT_TRUE(errors().empty());
  EXPECT_EQ(std::filesystem::file_size(beside), 0u);
  ASSERT_EQ(f_.store().Remove("vm1", std::nullopt), absl::OkStatus());
  // Nor is the next life kept from starting by one that was not.
  ASSERT_EQ(base::FileSystem::Posix().WriteFileAtomically(beside, "of another group"),
            absl::OkStatus());
  f_.CloseStore();
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  EXPECT_EQ(std::filesystem::file_size(beside), 0u);
  f_.CloseStore();
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  EXPECT_TRUE(f_.replica().state().valid);
}

// The VM has its disk: a marker that stays does not make the failover a failed one.
TEST_F(MarkerTest, AFailoverIsDoneThoughAMarkerStays) {
  Begin();
  f_.ForbidBesideDisks(/*files_too=*/true);
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().stage, Stage::kDone);
  EXPECT_EQ(f_.replica().state().job_failure, absl::OkStatus()) << "clear-error would be refused";
  ASSERT_EQ(errors().size(), 2u);
  EXPECT_EQ(errors()[1].operation, "marker");
}

TEST_F(MarkerTest, TheMarkerSaysTheTermAndAnOlderDataDirectoryIsIsolated) {
  Begin();
  const std::string path = DiskPath(0) + ".understudy";
  base::FileSystem& files = base::FileSystem::Posix();
  const std::string older = files.ReadWholeFile(path).value();
  EXPECT_THAT(older, HasSubstr("\nterm 1 of vm1 check "));
  ASSERT_EQ(f_.replica().BindAgent("other", /*takeover=*/true), absl::OkStatus());
  const std::string newer = files.ReadWholeFile(path).value();
  EXPECT_THAT(newer, HasSubstr("\nterm 2 of vm1 check "));

  struct Row {
    const char* name;
    std::string marker;
    bool isolated;
  };
  std::string higher = newer;
  higher.replace(higher.find("term 2"), 6, "term 9");
  for (const Row& row : {Row{"behind the index", older, false},
                         {"damaged", higher, false},
                         {"of an older release", older.substr(0, older.find("term ")), false},
                         {"gone", "gone", true},
                         {"emptied, as it could not be removed", "", true}}) {
    SCOPED_TRACE(row.name);
    f_.CloseStore();
    if (row.marker == "gone") {
      ASSERT_EQ(files.Remove(path), absl::OkStatus());
    } else {
      ASSERT_EQ(files.WriteFileAtomically(path, row.marker), absl::OkStatus());
    }
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    EXPECT_EQ(f_.replica().state().valid, !row.isolated);
  }
}

}  // namespace
}  // namespace understudy::storage::marker_test
