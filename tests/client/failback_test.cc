// The way back: what two failback maps name is compared, nothing else; and none is believed that may not be the last word.
#include "client/failback.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/differences.h"
#include "client/primary.h"
#include "storage/base/reason.h"
#include "tests/client/fake_transport.h"
#include "tests/testing/temp_dir.h"

namespace understudy::client::failback_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kDiskBytes = 64 * kMiB;

base::Deadline Soon() { return base::Deadline::After(absl::Seconds(10)); }

// One agent's host: its disk and its state directory.
struct Host {
  explicit Host(const testing::TempDir& directory, const std::string& name)
      : disk(directory.File(name + ".raw")), state(directory.File(name + ".state")) {
    auto file = base::FileSystem::Posix().Open(disk, {.create = true});
    EXPECT_TRUE((*file)->Truncate(kDiskBytes).ok());
  }
  absl::StatusOr<std::unique_ptr<Primary>> Run(FakeTransport& standby,
                                               std::vector<FailbackMap> failback = {}) {
    standby.Allow();
    PrimaryOptions options{.forwarder = {.group = "vm1",
                                         .heartbeat = absl::Milliseconds(20),
                                         .backoff_min = absl::Milliseconds(5),
                                         .backoff_max = absl::Milliseconds(20)},
                           .volumes = {{.name = "disk0", .disk_path = disk}}};
    options.failback = std::move(failback);
    auto agent_state = AgentState::Open(base::FileSystem::Posix(), state);
    if (!agent_state.ok()) return agent_state.status();
    auto primary = Primary::Create(options, base::FileSystem::Posix(), *std::move(agent_state),
                                   &standby, &standby);
    if (!primary.ok()) return primary;
    if (auto resumed = (*primary)->Resume(); !resumed.ok()) return resumed;
    return primary;
  }
  absl::StatusOr<FailbackMap> GiveUp() {
    auto agent_state = AgentState::Open(base::FileSystem::Posix(), state);
    if (!agent_state.ok()) return agent_state.status();
    return GiveUpDisks(base::FileSystem::Posix(), **agent_state, "vm1", {{"disk0", kDiskBytes}});
  }

  const std::string disk;
  const std::string state;
};

class FailbackTest : public ::testing::Test {
 protected:
  FailbackTest()
      : a_(directory_, "a"), b_(directory_, "b"), at_b_({kDiskBytes}), at_a_({kDiskBytes}) {}

  static absl::Status Write(Primary& primary, uint64_t offset, size_t bytes = 4096) {
    return primary.volumes()[0]->Write(offset, std::string(bytes, 'w'), false);
  }
  // A is primary and dies; B's service has a map.
  std::vector<FailbackMap> EndOfThePair() {
    auto primary = a_.Run(at_b_);
    EXPECT_TRUE((*primary)->Start(false, Soon()).ok());
    EXPECT_TRUE(Write(**primary, 8 * kMiB).ok());
    EXPECT_TRUE((*primary)->Checkpoint(Soon()).ok());
    primary->reset();  // without a Shutdown(), as kill -9
    auto map_a = a_.GiveUp();
    EXPECT_TRUE(map_a.ok()) << map_a.status();
    FailbackMap map_b = *map_a;
    map_b.of_primary = false;
    map_b.volumes[0].ranges = {{32 * kMiB, 32 * kMiB + (64 << 10)},
                               {40 * kMiB, 40 * kMiB + (64 << 10)}};
    map_b.taken = absl::Now();
    return {*std::move(map_a), std::move(map_b)};
  }
  static bool Complete(Primary& primary) {
    const ForwarderState state = primary.forwarder().state();
    return state.connected && !state.incomplete;
  }

  testing::TempDir directory_;
  Host a_;
  Host b_;
  FakeTransport at_b_;
  FakeTransport at_a_;
};

TEST_F(FailbackTest, OnlyWhatTheMapsNameIsCompared) {
  const std::vector<FailbackMap> maps = EndOfThePair();
  EXPECT_THAT(maps[0].volumes[0].ranges, ElementsAre(ByteRange{8 * kMiB, 12 * kMiB}));
  auto primary = b_.Run(at_a_, maps);
  ASSERT_TRUE(primary.ok()) << primary.status();
  ASSERT_TRUE(Write(**primary, 50 * kMiB).ok());    // before it is let in
  at_a_.Set([](auto& b) { b.incomplete = true; });  // initial=sync
  ASSERT_TRUE((*primary)->Start(false, Soon()).ok());
  ASSERT_TRUE(Write(**primary, 32 * kMiB).ok());
  ASSERT_TRUE(Eventually([&] { return Complete(**primary); }));
  ASSERT_TRUE((*primary)->Checkpoint(Soon()).ok());
  EXPECT_LE(at_a_.seen().compared_bytes, 4 * kMiB + (128 << 10));
  EXPECT_EQ(at_a_.disk(0), *base::FileSystem::Posix().ReadWholeFile(b_.disk));
  EXPECT_EQ((*primary)->sync_state(), SyncState::kAssumed) << "nobody has compared the rest";
}

// The maps are where it begins; what happens later is not forgotten for them.
TEST_F(FailbackTest, TheyAreTakenOnce) {
  const std::vector<FailbackMap> maps = EndOfThePair();
  at_a_.Set([](auto& b) { b.incomplete = true; });
  {
    auto primary = b_.Run(at_a_, maps);
    ASSERT_TRUE((*primary)->Start(false, Soon()).ok());
    ASSERT_TRUE(Eventually([&] { return Complete(**primary); }));
    at_a_.Set([](auto& b) { b.reachable = false; });
    at_a_.Disconnect();
    ASSERT_TRUE(Write(**primary, 20 * kMiB).ok());
    (*primary)->Shutdown(absl::Milliseconds(50));
  }
  auto primary = b_.Run(at_a_, maps);
  ASSERT_TRUE(primary.ok()) << primary.status();
  EXPECT_TRUE((*primary)->differences().Holds(0, {20 * kMiB, 20 * kMiB + 4096}));
  EXPECT_FALSE((*primary)->differences().Holds(0, {32 * kMiB, 33 * kMiB}));
  at_a_.Set([](auto& b) { b.reachable = true; });
  ASSERT_TRUE(Eventually([&] { return Complete(**primary); }));
  EXPECT_EQ(at_a_.disk(0), *base::FileSystem::Posix().ReadWholeFile(b_.disk));
}

// A standby that is lost track of later is compared whole: the maps know nothing of that.
TEST_F(FailbackTest, AnotherStandbyIsComparedWhole) {
  const std::vector<FailbackMap> maps = EndOfThePair();
  at_a_.Set([](auto& b) { b.incomplete = b.strict_streams = true; });
  auto primary = b_.Run(at_a_, maps);
  ASSERT_TRUE((*primary)->Start(false, Soon()).ok());
  ASSERT_TRUE(Eventually([&] { return Complete(**primary); }));
  const uint64_t compared = at_a_.seen().compared_bytes;
  at_a_.StartAfresh();
  at_a_.Set([](auto& b) { b.incomplete = true; });
  at_a_.Disconnect();
  ASSERT_TRUE(Eventually([&] { return at_a_.seen().compared_bytes >= compared + kDiskBytes; }));
}

TEST_F(FailbackTest, WhoHasGivenUpItsDisksRefusesWritesOverARestart) {
  const std::vector<FailbackMap> maps = EndOfThePair();
  auto primary = a_.Run(at_b_);
  ASSERT_TRUE(primary.ok()) << primary.status();
  EXPECT_TRUE(HasReason(Write(**primary, 0), kReasonHandedOver));
  primary->reset();
  const auto again = a_.GiveUp();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->agent_id, maps[0].agent_id) << "once more, the same";
}

// The map of one who went on writing afterwards is not the last word: it has become another primary.
TEST_F(FailbackTest, WhoComesBackAfterwardsIsNotTheOneOfTheMap) {
  const std::vector<FailbackMap> maps = EndOfThePair();
  auto primary = a_.Run(at_b_);
  ASSERT_TRUE(primary.ok()) << primary.status();
  EXPECT_NE((*primary)->agent_id(), maps[0].agent_id);
  ASSERT_TRUE((*primary)->Start(/*takeover=*/true, Soon()).ok());
  ASSERT_TRUE(Eventually([&] { return Write(**primary, 20 * kMiB).ok(); }));
  primary->reset();
  const auto newer = a_.GiveUp();
  ASSERT_TRUE(newer.ok()) << newer.status();
  EXPECT_EQ(newer->incarnation, maps[0].incarnation);
  EXPECT_NE(newer->agent_id, maps[0].agent_id);
}

TEST_F(FailbackTest, WhoeverWasNeverAPrimaryHasNothingToGiveUp) {
  EXPECT_THAT(b_.GiveUp().status().message(), HasSubstr("never"));
}

TEST_F(FailbackTest, AStateDirectoryThatLostAFileGivesUpEverything) {
  EndOfThePair();
  ASSERT_TRUE(base::FileSystem::Posix().Remove(a_.state + "/intent").ok());
  const auto map = a_.GiveUp();
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_THAT(map->volumes[0].ranges, ElementsAre(ByteRange{0, kDiskBytes}));
}

// The new pair forgets the verdict, so the regions must not be left out.
TEST_F(FailbackTest, WhatAVerifyHasRefutedIsGivenUpWhole) {
  {
    auto primary = a_.Run(at_b_);
    ASSERT_TRUE((*primary)->Start(false, Soon()).ok());
    ASSERT_TRUE(Eventually([&] { return Complete(**primary); }));
    at_b_.Corrupt(20 * kMiB, 'z');
    ASSERT_TRUE((*primary)->Verify(0).ok());
    ASSERT_TRUE(Eventually([&] { return (*primary)->sync_state() == SyncState::kDiverged; }));
  }
  const auto map = a_.GiveUp();
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_THAT(map->volumes[0].ranges, ElementsAre(ByteRange{0, kDiskBytes}));
}

TEST_F(FailbackTest, AnAgentThatHasRunSinceDoesNotTakeThem) {
  const std::vector<FailbackMap> maps = EndOfThePair();
  { ASSERT_TRUE(b_.Run(at_a_).ok()); }
  const auto refused = b_.Run(at_a_, maps);
  EXPECT_THAT(refused.status().message(), HasSubstr("has run since the failback map was taken"));
  std::vector<FailbackMap> newer = maps;
  newer[1].taken = absl::Now();
  EXPECT_TRUE(b_.Run(at_a_, newer).ok()) << "its state is of an older pair";
}

TEST_F(FailbackTest, MapsThatDoNotBelongTogetherAreRefused) {
  const std::vector<FailbackMap> maps = EndOfThePair();
  const std::vector<VolumeSpec> volumes = {{"disk0", kDiskBytes}};
  EXPECT_EQ(CheckFailback(maps, "vm1", volumes), absl::OkStatus());
  EXPECT_EQ(CheckFailback({maps[1], maps[0]}, "vm1", volumes), absl::OkStatus());

  const auto refusal = [&](const std::function<void(std::vector<FailbackMap>&)>& change) {
    std::vector<FailbackMap> changed = maps;
    change(changed);
    const absl::Status status = CheckFailback(changed, "vm1", volumes);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refusal([](auto& m) { m.pop_back(); }), HasSubstr("both ends"));
  EXPECT_THAT(refusal([](auto& m) { m[1] = m[0]; }), HasSubstr("both ends"));
  EXPECT_THAT(refusal([](auto& m) { ++m[0].incarnation.low; }), HasSubstr("different pairs"));
  EXPECT_THAT(refusal([](auto& m) { m[1].agent_id = "other"; }), HasSubstr("different pairs"));
  EXPECT_THAT(refusal([](auto& m) { m[1].group = "vm2"; }), HasSubstr("of group vm2"));
  EXPECT_THAT(refusal([](auto& m) { m[0].volumes[0].spec.size_bytes += 512; }),
              HasSubstr("other volumes"));
  EXPECT_THAT(refusal([](auto& m) { m[0].volumes.clear(); }), HasSubstr("other volumes"));
}

}  // namespace
}  // namespace understudy::client::failback_test
