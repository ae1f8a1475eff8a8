// A group of a volume with a local disk (tee) and one without (forward): each comes back in its own way, and no checkpoint commits before
// both have.
#include <future>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/agent_state.h"
#include "client/differences.h"
#include "client/primary.h"
#include "storage/base/reason.h"
#include "tests/client/fake_transport.h"
#include "tests/testing/fault_file_system.h"
#include "tests/testing/scripted_clock.h"
#include "tests/testing/temp_dir.h"

namespace understudy::client::mixed_group_test {
namespace {

using ::testing::IsEmpty;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kDiskBytes = 8 * kMiB;
constexpr uint64_t kWindowBytes = 2 * kMiB;
constexpr uint32_t kTee = 0;
constexpr uint32_t kForward = 1;

base::Deadline Soon() { return base::Deadline::After(absl::Seconds(10)); }

class MixedGroupTest : public ::testing::Test {
 protected:
  MixedGroupTest() : transport_({kDiskBytes, kDiskBytes}) {
    for (const char* name : {"tee.raw", "other.raw"}) {
      auto file = base::FileSystem::Posix().Open(directory_.File(name), {.create = true});
      EXPECT_TRUE((*file)->Truncate(kDiskBytes).ok());
    }
    transport_.Set([](auto& b) { b.strict_streams = true; });
  }
  ~MixedGroupTest() override { EXPECT_THAT(transport_.seen().violations, IsEmpty()); }

  // `other_disk`: the second volume has a local disk, too.
  Primary& Make(bool other_disk = false) {
    primary_.reset();
    transport_.Allow();
    PrimaryOptions options{.forwarder = {.group = "vm1",
                                         .window_bytes = kWindowBytes,
                                         .stall_timeout = absl::Milliseconds(20),
                                         .heartbeat = absl::Milliseconds(20),
                                         .lost_peer = absl::Milliseconds(300),
                                         .backoff_min = absl::Milliseconds(5),
                                         .backoff_max = absl::Milliseconds(20)},
                           .volumes = {{.name = "disk0", .disk_path = directory_.File("tee.raw")},
                                       {.name = "disk1", .size_bytes = kDiskBytes}}};
    if (other_disk) options.volumes[1].disk_path = directory_.File("other.raw");
    auto state = AgentState::Open(base::FileSystem::Posix(), directory_.File("state"), clock_);
    EXPECT_TRUE(state.ok()) << state.status();
    auto primary =
        Primary::Create(options, file_system_, *std::move(state), &transport_, &transport_);
    EXPECT_TRUE(primary.ok()) << primary.status();
    primary_ = *std::move(primary);
    EXPECT_TRUE(primary_->Resume().ok());
    return *primary_;
  }
  Primary& Started() {
    Primary& primary = Make();
    EXPECT_TRUE(primary.Start(false, Soon()).ok());
    EXPECT_TRUE(Eventually([&] { return Complete(); }));
    return primary;
  }
  void Write(uint32_t volume, uint64_t offset, char c, size_t bytes = 64 << 10) {
    ASSERT_TRUE(primary_->volumes()[volume]->Write(offset, std::string(bytes, c), false).ok());
  }
  void Outage(bool away) {
    transport_.Set([&](auto& b) { b.reachable = !away; });
    if (away) transport_.Disconnect();
  }
  // Until the window is full and writes to this volume are missed.
  void MissWritesTo(uint32_t volume) {
    Outage(true);
    for (uint64_t i = 0; i <= kWindowBytes; i += 64 << 10) Write(kTee, kMiB, 'w');
    ASSERT_TRUE(Eventually([&] { return primary_->forwarder().state().incomplete; }));
    Write(volume, 5 * kMiB, 'm');
    Outage(false);
  }
  bool Complete() {
    const ForwarderState state = primary_->forwarder().state();
    return state.connected && !state.incomplete;
  }
  bool TeeIsBack() {
    const Differences& differences = primary_->differences();
    return differences.missing_bytes(kTee) + differences.suspect_bytes(kTee) == 0 && AllReceived();
  }
  // The window never fills: on a busy machine --stall-timeout would be over, and the copy would have missed writes itself.
  void Copy(char c) {
    for (uint64_t at = 0; at < kDiskBytes; at += kMiB) {
      Write(kForward, at, c, kMiB);
      ASSERT_TRUE(Eventually([&] { return AllReceived(); }));
    }
  }
  bool AllReceived() {
    const ForwarderState state = primary_->forwarder().state();
    return state.received_sequence + 1 == state.next_sequence;
  }
  std::string Local() {
    return *base::FileSystem::Posix().ReadWholeFile(directory_.File("tee.raw"));
  }
  void ExpectAtCheckpoint(const std::string& forward) {
    const auto checkpoint = primary_->Checkpoint(Soon());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_TRUE(transport_.disk(0) == Local());
    EXPECT_TRUE(transport_.disk(kForward) == forward);
    EXPECT_TRUE(primary_->differences().empty());
  }

  testing::TempDir directory_;
  testing::ScriptedClock clock_;  // of the agent's state
  testing::FaultFileSystem file_system_;
  FakeTransport transport_;
  std::unique_ptr<Primary> primary_;
};

// QEMU's quorum goes on alone with the disk of the forward volume, whether or not the agent had written in that run.
TEST_F(MixedGroupTest, AnIdleAgentThatIsKilledKnowsNothingOfTheForwardVolume) {
  Started();
  Write(kTee, 0, 't');
  ASSERT_TRUE(primary_->Checkpoint(Soon()).ok());
  primary_->Shutdown(absl::Seconds(1));
  Make();
  ASSERT_TRUE(Eventually([&] { return Complete(); })) << "an orderly restart costs nothing";
  EXPECT_TRUE(primary_->differences().empty());
  Outage(true);
  file_system_.SetHook(
      [](testing::FileOperation, const std::string&) { return absl::InternalError("dead"); });
  primary_.reset();
  file_system_.SetHook(nullptr);
  Outage(false);
  Make();
  ASSERT_TRUE(Eventually([&] { return TeeIsBack(); }));
  EXPECT_TRUE(primary_->differences().Holds(kForward, {0, kDiskBytes}));
  EXPECT_TRUE(HasReason(primary_->Checkpoint(Soon()).status(), kReasonIncomplete));
}

TEST_F(MixedGroupTest, WhoWasAwayForLongKnowsNothingOfTheForwardVolumeOverAKill) {
  Started();
  primary_->Shutdown(absl::Seconds(1));
  primary_.reset();
  clock_.Advance(absl::Minutes(1));
  for (int run = 0; run < 2; ++run) {  // the second one after a kill
    Make();
    EXPECT_TRUE(primary_->differences().Holds(kForward, {0, kDiskBytes}));
    EXPECT_TRUE(HasReason(primary_->Checkpoint(Soon()).status(), kReasonIncomplete));
  }
}

TEST_F(MixedGroupTest, WhatOnlyTeeVolumesMissedIsMadeGoodByItself) {
  Started();
  Write(kForward, 0, 'f');
  MissWritesTo(kTee);
  ASSERT_TRUE(Eventually([&] { return Complete(); }));
  std::string forward(kDiskBytes, '\0');
  forward.replace(0, 64 << 10, std::string(64 << 10, 'f'));
  ExpectAtCheckpoint(forward);
  EXPECT_THAT(primary_->errors(), IsEmpty());
  EXPECT_EQ(primary_->sync_state(), SyncState::kAssumed) << "nobody can compare the forward volume";
}

TEST_F(MixedGroupTest, WhatAForwardVolumeMissedNeedsACopyThatIsDeclared) {
  Primary& primary = Started();
  ASSERT_TRUE(primary.Checkpoint(Soon()).ok());
  MissWritesTo(kForward);
  ASSERT_TRUE(Eventually([&] { return TeeIsBack(); }));
  EXPECT_TRUE(transport_.disk(0) == Local()) << "the tee volume does not wait for the copy";
  absl::SleepFor(absl::Milliseconds(500));  // a few looks of the resync
  EXPECT_TRUE(HasReason(primary.Checkpoint(Soon()).status(), kReasonIncomplete));
  EXPECT_TRUE(absl::IsAborted(primary.Sync(SyncMode::kDeclareComplete, Soon()).status()))
      << "no copy was begun";
  EXPECT_EQ(transport_.seen().committed, Epoch(1));

  ASSERT_TRUE(primary.Sync(SyncMode::kFull, Soon()).ok());
  Copy('c');
  const auto declared = primary.Sync(SyncMode::kDeclareComplete, Soon());
  ASSERT_TRUE(declared.ok()) << declared.status();
  ExpectAtCheckpoint(std::string(kDiskBytes, 'c'));
  EXPECT_THAT(primary.errors(), IsEmpty());
}

TEST_F(MixedGroupTest, ACopyThatIsReadyWaitsForTheResyncOfTheOthers) {
  Primary& primary = Started();
  transport_.Set([](auto& b) { b.refuse_checksums = absl::UnavailableError("not yet"); });
  ASSERT_TRUE(primary.Sync(SyncMode::kFull, Soon()).ok());
  Copy('c');
  const auto soon = base::Deadline::After(absl::Milliseconds(300));
  EXPECT_TRUE(absl::IsDeadlineExceeded(primary.Sync(SyncMode::kDeclareComplete, soon).status()));
  EXPECT_FALSE(Complete());
  auto declared = std::async(std::launch::async, [&] {
    return primary.Sync(SyncMode::kDeclareComplete, Soon()).status();
  });
  absl::SleepFor(absl::Milliseconds(100));
  transport_.Set([](auto& b) { b.refuse_checksums = absl::OkStatus(); });
  EXPECT_TRUE(declared.get().ok());
  EXPECT_TRUE(Complete());
  ExpectAtCheckpoint(std::string(kDiskBytes, 'c'));
}

TEST_F(MixedGroupTest, WhatATeeVolumeMissedIsRememberedOverAnOrderlyRestart) {
  Started();
  MissWritesTo(kTee);
  Outage(true);
  primary_->Shutdown(absl::Milliseconds(50));
  Make();
  Outage(false);
  ASSERT_TRUE(Eventually([&] { return Complete(); }));
  ExpectAtCheckpoint(std::string(kDiskBytes, '\0'));
}

TEST_F(MixedGroupTest, WhatAForwardVolumeMissedIsRememberedOverAnOrderlyRestart) {
  Started();
  ASSERT_TRUE(primary_->Checkpoint(Soon()).ok());
  MissWritesTo(kForward);
  primary_->Shutdown(absl::Milliseconds(50));
  Make();
  ASSERT_TRUE(Eventually([&] { return primary_->forwarder().state().connected && TeeIsBack(); }));
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_FALSE(Complete());
  ASSERT_TRUE(primary_->Sync(SyncMode::kFull, Soon()).ok());
  Copy('c');
  ASSERT_TRUE(primary_->Sync(SyncMode::kDeclareComplete, Soon()).ok());
  ExpectAtCheckpoint(std::string(kDiskBytes, 'c'));
}

TEST_F(MixedGroupTest, AVolumeThatGetsALocalDiskIsComparedWhole) {
  Started();
  Write(kForward, 0, 'f');
  ASSERT_TRUE(primary_->Checkpoint(Soon()).ok());
  primary_->Shutdown(absl::Seconds(1));
  Make(/*other_disk=*/true);  // all zeroes
  ASSERT_TRUE(Eventually([&] { return Complete(); }));
  ExpectAtCheckpoint(std::string(kDiskBytes, '\0'));
}

}  // namespace
}  // namespace understudy::client::mixed_group_test
