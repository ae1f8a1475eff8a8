// How old the newest checkpoint is, as far as the primary's end can know.
#include <thread>

#include <gtest/gtest.h>

#include "client/forwarder.h"
#include "tests/client/fake_transport.h"
#include "tests/testing/scripted_clock.h"

namespace understudy::client::checkpoint_age_test {
namespace {

constexpr uint64_t kDiskBytes = 1 << 20;

base::Deadline Soon() { return base::Deadline::After(absl::Seconds(10)); }

ForwarderOptions Options() {
  return {.group = "vm1",
          .volumes = {{.name = "disk0", .size_bytes = kDiskBytes}},
          .agent_id = "host-a",
          .backoff_min = absl::Milliseconds(5),
          .backoff_max = absl::Milliseconds(20)};
}

class CheckpointAgeTest : public ::testing::Test {
 protected:
  testing::ScriptedClock clock_;
  FakeTransport transport_{{kDiskBytes}};
};

// The standby's wall clock says nothing about an age here.
TEST_F(CheckpointAgeTest, TheAgeOfACheckpointOfBeforeIsWhatTheStandbyHasCounted) {
  transport_.CommitReceived();
  for (const absl::Duration ahead : {absl::Hours(1), -absl::Hours(1)}) {
    transport_.Set([&](auto& b) {
      b.committed_time = clock_.Now() + ahead;
      b.committed_age = absl::Seconds(30);
    });
    Forwarder restarted(Options(), &transport_, clock_);
    ASSERT_TRUE(restarted.Start().ok());
    ASSERT_TRUE(restarted.WaitForAnswer(Soon()).connected);
    EXPECT_EQ(restarted.state().checkpoint_age, absl::Seconds(30));
    EXPECT_EQ(restarted.state().committed_time, clock_.Now() - absl::Seconds(30));
    clock_.Advance(absl::Seconds(2));
    EXPECT_EQ(restarted.state().checkpoint_age, absl::Seconds(32));
    ASSERT_TRUE(restarted.Stop(false, Soon()).ok());
  }
}

TEST_F(CheckpointAgeTest, AStandbyOfAnEarlierReleaseSaysOnlyWhen) {
  transport_.CommitReceived();
  transport_.Set([&](auto& b) { b.committed_time = clock_.Now() - absl::Seconds(30); });
  Forwarder forwarder(Options(), &transport_, clock_);
  ASSERT_TRUE(forwarder.Start().ok());
  ASSERT_TRUE(forwarder.WaitForAnswer(Soon()).connected);
  EXPECT_EQ(forwarder.state().checkpoint_age, absl::Seconds(30));
  ASSERT_TRUE(forwarder.Stop(false, Soon()).ok());
}

// Committed while there was no connection, the outcome of a marker that somebody still waits for.
TEST_F(CheckpointAgeTest, ACheckpointThatIsHeardOfLateIsNotYounger) {
  transport_.Set([](auto& b) {
    b.lose_answers = true;
    b.committed_age = absl::Minutes(1);
  });
  Forwarder forwarder(Options(), &transport_, clock_);
  ASSERT_TRUE(forwarder.Start().ok());
  ASSERT_TRUE(forwarder.WaitForAnswer(Soon()).connected);
  std::thread waits([&] { EXPECT_TRUE(forwarder.Checkpoint(Soon()).ok()); });
  ASSERT_TRUE(Eventually([&] { return transport_.seen().committed == Epoch(1); }));
  ASSERT_TRUE(Eventually([&] {
    clock_.Advance(absl::Milliseconds(1));  // until it tries to connect again
    return forwarder.state().committed_epoch == Epoch(1);
  }));
  waits.join();
  EXPECT_GE(forwarder.state().checkpoint_age, absl::Minutes(1));
  ASSERT_TRUE(forwarder.Stop(false, Soon()).ok());
}

}  // namespace
}  // namespace understudy::client::checkpoint_age_test
