// An agent whose state directory takes nothing any more: the disk is served, nothing that was written is unknown to the resync, also after
// a crash, and what has to be compared is told.
#include <atomic>
#include <cerrno>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/intent_log.h"
#include "storage/base/log.h"
#include "tests/client/resync_fixture.h"

namespace understudy::client::full_state_test {
namespace {

using testing::FileOperation;
using ::testing::HasSubstr;

class FullStateTest : public ResyncFixture {
 protected:
  FullStateTest() {
    base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
  }
  ~FullStateTest() override { base::SetLogSinkForTest(nullptr); }

  // As a full file system: nothing grows, what is there can be written over.
  void FillUp() {
    file_system_.SetHook([](FileOperation operation, const std::string& path) {
      const bool grows = operation == FileOperation::kWrite && absl::EndsWith(path, ".tmp");
      return grows ? base::ErrnoStatus(ENOSPC, path) : absl::OkStatus();
    });
  }
  // One that copies on write: nothing can be written over either; `only`: of this file.
  void FillUpForGood(const std::string& only = "") {
    file_system_.SetHook([this, only](FileOperation operation, const std::string& path) {
      const bool meant =
          absl::StartsWith(path, directory_.File("state")) && absl::StrContains(path, "/" + only);
      const bool grows =
          operation == FileOperation::kWrite || operation == FileOperation::kTruncate;
      return meant && grows ? base::ErrnoStatus(ENOSPC, path) : absl::OkStatus();
    });
  }
  // As one that was remounted read-only.
  void Die() {
    file_system_.SetHook([this](FileOperation operation, const std::string& path) {
      const bool meant = absl::StartsWith(path, directory_.File("state"));
      return meant && operation != FileOperation::kRead ? base::ErrnoStatus(EROFS, path)
                                                        : absl::OkStatus();
    });
  }
  void EmptyIt() { file_system_.SetHook(nullptr); }
  void CrashOnFullFileSystem() {
    file_system_.SetHook(
        [](FileOperation, const std::string&) { return absl::InternalError("dead"); });
    transport_.Set([](auto& b) { b.reachable = false; });
    transport_.Disconnect();
    primary_.reset();
  }
  void StartAndFill() {
    Make();
    ASSERT_TRUE(primary_->Start(false, Soon()).ok());
    for (uint64_t at = 0; at < kDiskBytes; at += kMiB) Write(at, 'a');
    ExpectEqualAfterCheckpoint();
  }
  void Restart() {
    primary_->Shutdown(absl::Seconds(5));
    Make();
  }
  std::atomic<int> latched_{0};
  std::string StateError() const {
    for (const base::LatchedError& error : primary_->errors()) {
      if (error.operation == "state") return error.message;
    }
    return "";
  }
};

TEST_F(FullStateTest, ARestartServesAndReplicates) {
  StartAndFill();
  primary_->Shutdown(absl::Seconds(5));
  FillUp();
  Make();
  Write(0, 'b');
  Write(9 * kMiB, 'c');
  ExpectEqualAfterCheckpoint();
  EXPECT_FALSE(primary_->intents()->lost()) << "written in place";
  Restart();
  ExpectEqualAfterCheckpoint();
}

TEST_F(FullStateTest, TheFirstWriteIsDoneAndKnownAfterACrash) {
  StartAndFill();
  Restart();
  ASSERT_TRUE(Eventually([&] { return Complete(); }));
  FillUp();
  Outage(true);
  Write(3 * kMiB, 'b');
  CrashOnFullFileSystem();
  FillUp();
  transport_.Set([](auto& b) { b.reachable = true; });
  Make();
  EXPECT_FALSE(primary_->intents()->was_missing()) << "it was not known again";
  ExpectEqualAfterCheckpoint();
}

TEST_F(FullStateTest, WhereNothingCanBeWrittenEverythingIsSuspectAndTold) {
  StartAndFill();
  Outage(true);
  FillUpForGood();
  Write(3 * kMiB, 'b');
  Write(4 * kMiB + 512, 'c', 512);
  CrashOnFullFileSystem();
  FillUpForGood();
  Make();
  Write(30 * kMiB, 'd');
  EXPECT_TRUE(primary_->intents()->lost());
  EXPECT_EQ(primary_->intents()->set_bytes(), kDiskBytes);
  EXPECT_THAT(StateError(), HasSubstr(directory_.File("state")));
  EXPECT_THAT(StateError(), HasSubstr("No space left"));
  EXPECT_THAT(StateError(), HasSubstr("remedy"));
  EXPECT_EQ(primary_->differences().suspect_bytes(0), kDiskBytes);
  transport_.Set([](auto& b) { b.reachable = true; });
  ExpectEqualAfterCheckpoint();
  // What is known is stored once there is room, here at the latest: a start after that compares nothing.
  EmptyIt();
  Outage(true);
  primary_->Shutdown(absl::Milliseconds(100));
  Make();
  EXPECT_TRUE(primary_->differences().empty());
  EXPECT_FALSE(primary_->intents()->lost());
  EXPECT_EQ(StateError(), "");
  Outage(false);
  ExpectEqualAfterCheckpoint();
}

// Without a local disk there is no such log: what the stream goes on from is cut off.
TEST_F(FullStateTest, AnAgentWithoutALocalDiskComesUpAndUsesNoSequenceTwice) {
  forward_ = true;
  Make();
  ASSERT_TRUE(primary_->Start(false, Soon()).ok());
  Write(0, 'a');
  primary_->Shutdown(absl::Seconds(5));
  FillUp();
  Make();
  Write(kMiB, 'b');
  ASSERT_TRUE(Eventually([&] { return transport_.disk(0)[kMiB] == 'b'; }));
  CrashOnFullFileSystem();
  FillUp();
  transport_.Set([](auto& b) { b.reachable = true; });
  Make();
  Write(2 * kMiB, 'c');
  ASSERT_TRUE(Eventually([&] { return transport_.disk(0)[2 * kMiB] == 'c'; }));
  EXPECT_THAT(transport_.seen().violations, ::testing::IsEmpty());
}

// Neither is there a log that could be removed in its place.
TEST_F(FullStateTest, AnAgentWithoutALocalDiskComesUpWithAnOlderRecord) {
  forward_ = true;
  Make();
  ASSERT_TRUE(primary_->Start(false, Soon()).ok());
  Write(0, 'a');
  primary_->Shutdown(absl::Seconds(5));
  primary_.reset();
  const std::string path = directory_.File("state/agent");
  const std::string stored = *base::FileSystem::Posix().ReadWholeFile(path);
  const AgentRecord record = *DecodeAgentRecord(stored);
  ASSERT_NE(record.resume.stream_id, 0U);
  const std::string older =
      absl::StrCat("version=1\nagent_id=", record.agent_id,
                   "\nstage=RUNNING\nincarnation=", record.grant.incarnation.ToHex(),
                   "\nterm=", record.grant.term.value(),
                   "\nfenced=0\nhanded_over=0\nclean=1\nstored=", record.stored_micros,
                   "\nforward=disk0\nstream_id=", record.resume.stream_id,
                   "\nnext_sequence=", record.resume.next_sequence, "\n");
  ASSERT_TRUE(base::FileSystem::Posix().WriteFileAtomically(path, older).ok());
  FillUp();
  Make();
  EXPECT_EQ(DecodeAgentRecord(*base::FileSystem::Posix().ReadWholeFile(path))->resume.stream_id,
            0U);
  Write(kMiB, 'b');
  ASSERT_TRUE(Eventually([&] { return transport_.disk(0)[kMiB] == 'b'; }));
  EXPECT_THAT(transport_.seen().violations, ::testing::IsEmpty());
}

// Goal: a directory that has died lets no write through that a restart would not know of, says so,
// and holds none longer than it is dead.
// Method: nothing in it can be written, synced, cut or removed, as on a file system that the kernel
// has remounted read-only.
TEST_F(FullStateTest, ADeadDirectoryHoldsWhatIsNotMarkedUntilItIsBack) {
  Make();
  ASSERT_TRUE(primary_->Start(false, Soon()).ok());
  Write(0, 'b');
  ExpectEqualAfterCheckpoint();
  Outage(true);
  Die();
  Write(kMiB, 'c');  // the same region
  const absl::Status refused = Disk().Write(20 * kMiB, std::string(4096, 'd'), false);
  EXPECT_THAT(std::string(refused.message()), HasSubstr(directory_.File("state/intent")));
  EXPECT_EQ(Local()[20 * kMiB], 0) << "a restart would not know of it";
  EXPECT_FALSE(primary_->intents()->lost());
  EXPECT_FALSE(primary_->intents()->failure().ok());
  EXPECT_THAT(StateError(), HasSubstr("the VM's writes fail"));
  EXPECT_THAT(StateError(), HasSubstr("Read-only file system"));
  const auto cleared = primary_->ClearError();
  EXPECT_THAT(std::string(cleared.status().message()), HasSubstr("the VM's writes fail"));
  EmptyIt();
  ASSERT_TRUE(Eventually([&] { return primary_->intents()->kept(); }));
  ASSERT_TRUE(Eventually([&] { return StateError().empty(); }));
  Write(20 * kMiB, 'd');
  Write(28 * kMiB, 'e');
  Kill();
  Make();
  EXPECT_LT(primary_->differences().suspect_bytes(0), kDiskBytes) << "it is kept again";
  ExpectEqualAfterCheckpoint();
}

// A write-intent log that is missing says that everything may differ: it must not be there again before that has been stored.
TEST_F(FullStateTest, ALostLogIsMadeAnewOnlyWhenItsMeaningIsStored) {
  StartAndFill();
  primary_->Shutdown(absl::Seconds(5));
  Outage(true);
  {
    const auto disk = base::FileSystem::Posix().Open(directory_.File("disk.raw"), {});
    ASSERT_TRUE((*disk)->Write(5 * kMiB, "written by a run that nothing is known of").ok());
  }
  ASSERT_TRUE(base::FileSystem::Posix().Remove(directory_.File("state/intent")).ok());
  FillUpForGood("differences");
  Make();
  EXPECT_TRUE(primary_->intents()->lost());
  CrashOnFullFileSystem();
  EmptyIt();
  Make();
  EXPECT_EQ(primary_->differences().suspect_bytes(0), kDiskBytes);
  Outage(false);
  ExpectEqualAfterCheckpoint();
}

// Goal: the error stays, from its beginning, while there is no room for that file alone. Method:
// every try fails, and how often it is told as new is counted; a shutdown tries, as the cleaner
// does.
TEST_F(FullStateTest, ALogThatHasNoRoomIsToldOnceHoweverOftenItIsTried) {
  base::SetLogSinkForTest([this](base::LogLevel, absl::string_view line) {
    const bool counts =
        absl::StrContains(line, "error_latched") && absl::StrContains(line, "operation=state");
    if (counts) latched_.fetch_add(1);
  });
  StartAndFill();
  primary_->Shutdown(absl::Seconds(5));
  ASSERT_TRUE(base::FileSystem::Posix().Remove(directory_.File("state/intent")).ok());
  FillUpForGood("intent");
  Make();
  EXPECT_NE(StateError(), "");
  ASSERT_EQ(latched_.load(), 1);
  primary_->Shutdown(absl::Seconds(5));
  EXPECT_EQ(latched_.load(), 1);
  Make();
  EXPECT_EQ(latched_.load(), 1) << "it was kept, and is restored";
  ASSERT_TRUE(primary_->Stop(true, Soon()).ok());
  primary_->Shutdown(absl::Seconds(5));
  EXPECT_EQ(latched_.load(), 2) << "the stop has cleared it, and it lasts";
}

// A kill may come between the log that is there again and the file of errors that says so.
TEST_F(FullStateTest, AnErrorThatIsOverDoesNotComeBack) {
  base::FileSystem& files = base::FileSystem::Posix();
  StartAndFill();
  primary_->Shutdown(absl::Seconds(5));
  ASSERT_TRUE(files.Remove(directory_.File("state/intent")).ok());
  FillUpForGood("intent");
  Make();
  ASSERT_NE(StateError(), "");
  primary_->Shutdown(absl::Seconds(5));
  const auto latched = files.ReadWholeFile(directory_.File("state/errors"));
  ASSERT_TRUE(latched.ok()) << latched.status();
  EmptyIt();
  Make();
  ASSERT_EQ(StateError(), "");
  primary_->Shutdown(absl::Seconds(5));
  ASSERT_TRUE(files.WriteFileAtomically(directory_.File("state/errors"), *latched).ok());
  Make();
  EXPECT_EQ(StateError(), "");
}

// Whoever has nothing yet has nothing to lose: a start after this one would find the directory new as well.
TEST_F(FullStateTest, ANewDirectoryHasToTakeWhatIsKnown) {
  FillUpForGood("differences");
  auto state = AgentState::Open(file_system_, directory_.File("state"));
  ASSERT_TRUE(state.ok()) << state.status();
  auto primary =
      Primary::Create({.forwarder = {.group = "vm1"},
                       .volumes = {{.name = "disk0", .disk_path = directory_.File("disk.raw")}}},
                      file_system_, *std::move(state), &transport_, &transport_);
  ASSERT_TRUE(primary.ok()) << primary.status();
  const absl::Status refused = (*primary)->Resume();
  EXPECT_EQ(base::ErrnoOf(refused), ENOSPC);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--state-dir"));
}

}  // namespace
}  // namespace understudy::client::full_state_test
