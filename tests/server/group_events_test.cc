// What a group and its service tell the journal, from opened to removed.
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/reason.h"
#include "tests/server/harness.h"

namespace understudy::server::group_events_test {
namespace {

using base::Event;
using base::EventKind;
using testing::Harness;
using ::testing::HasSubstr;
using testing::Soon;
using testing::TestAgent;
using testing::TestFrame;

class GroupEventsTest : public ::testing::Test {
 protected:
  // The next event, which the test expects to have happened already.
  Event Next(const std::string& group = "") {
    const base::EventJournal::Reading reading = harness_.service.journal().Read(position_, group);
    EXPECT_FALSE(reading.gap);
    position_ = reading.position;
    EXPECT_TRUE(reading.event.has_value()) << "no more events";
    return reading.event.value_or(Event());
  }
  bool AtEnd() { return position_ == harness_.service.journal().End(); }

  Harness harness_;
  base::EventJournal::Position position_ = [this] {
    auto begin = harness_.service.journal().End();
    begin.number = 0;
    return begin;
  }();
};

TEST_F(GroupEventsTest, AGroupIsToldFromOpenedToRemoved) {
  EXPECT_EQ(Next().kind, EventKind::kOpened);
  harness_.Start();
  const Event running = Next();
  EXPECT_EQ(running.kind, EventKind::kStage);
  EXPECT_EQ(running.group, "vm1");
  EXPECT_EQ(running.stage, Stage::kRunning);
  EXPECT_EQ(running.term, Term(1));
  ASSERT_TRUE(harness_.group->Checkpoint({}, Soon()).ok());
  const Event checkpoint = Next();
  EXPECT_EQ(checkpoint.kind, EventKind::kCheckpoint);
  EXPECT_EQ(checkpoint.epoch, Epoch(1));
  EXPECT_EQ(checkpoint.bytes, 4096u);
  EXPECT_EQ(checkpoint.duration, absl::Milliseconds(2));
  ASSERT_TRUE(harness_.group->Stop({}, Soon()).ok());
  EXPECT_EQ(Next().epoch, Epoch(2)) << "the last checkpoint of a planned stop";
  EXPECT_EQ(Next().stage, Stage::kDone);
  ASSERT_TRUE(harness_.service.Remove("vm1", false, {}, Soon()).ok());
  EXPECT_EQ(Next().kind, EventKind::kRemoved);
  EXPECT_TRUE(AtEnd());
}

TEST_F(GroupEventsTest, ConnectionsAreToldWithTheAgentAndTheReasonOfTheirEnd) {
  harness_.Start();
  position_ = harness_.service.journal().End();
  {
    TestAgent agent(harness_.service);
    ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
    const Event connected = Next();
    EXPECT_EQ(connected.kind, EventKind::kConnected);
    EXPECT_EQ(connected.detail, "agent-1");
    EXPECT_EQ(connected.term, Term(1));
  }
  const Event gone = Next();
  EXPECT_EQ(gone.kind, EventKind::kDisconnected);
  EXPECT_EQ(gone.detail, "gone");
  TestAgent agent(harness_.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  EXPECT_EQ(Next().kind, EventKind::kConnected);
  ASSERT_TRUE(harness_.group->Stop({.failover = true}, Soon()).ok());
  EXPECT_EQ(Next().stage, Stage::kFailover);
  const Event fenced = Next();
  EXPECT_EQ(fenced.kind, EventKind::kDisconnected);
  EXPECT_THAT(fenced.detail, HasSubstr("the standby has taken over"));
  EXPECT_TRUE(AtEnd());
}

TEST_F(GroupEventsTest, WhoIsFencedAgainAndAgainIsToldOncePerTerm) {
  harness_.Start();
  TestAgent first(harness_.service);
  ASSERT_TRUE(first.Greet(TestAgent::Hello("vm1")));
  position_ = harness_.service.journal().End();
  Handshake other = TestAgent::Hello("vm1");
  other.agent_id = "agent-2";
  for (int i = 0; i < 3; ++i) {
    TestAgent late(harness_.service);
    ASSERT_FALSE(late.Greet(other));
  }
  const Event fenced = Next();
  EXPECT_EQ(fenced.kind, EventKind::kFenced);
  EXPECT_FALSE(fenced.detail.empty());
  EXPECT_TRUE(AtEnd());
  EXPECT_TRUE(harness_.group->Status().connected);
}

TEST_F(GroupEventsTest, AnErrorIsToldWhenItLatchesAndNotWhenItIsCounted) {
  harness_.Start();
  position_ = harness_.service.journal().End();
  const absl::Status bad = absl::DataLossError("block 7 is damaged");
  for (int i = 0; i < 3; ++i) harness_.group->Latch(VolumeId(0), "read", {0, 512}, bad);
  const Event error = Next();
  EXPECT_EQ(error.kind, EventKind::kError);
  EXPECT_EQ(error.error.volume, "disk0");
  EXPECT_EQ(error.error.operation, "read");
  EXPECT_EQ(error.error.code, absl::StatusCode::kDataLoss);
  EXPECT_EQ(error.error.message, "block 7 is damaged");
  EXPECT_EQ(error.error.count, 1u);
  EXPECT_TRUE(AtEnd());
}

TEST_F(GroupEventsTest, JobsMissingOperationsAndHandoversAreToldAsTheReplicaTellsThem) {
  position_ = harness_.service.journal().End();
  harness_.group->OnJob("apply", std::nullopt);
  harness_.group->OnJob("apply", absl::InternalError("disk full of holes"));
  harness_.group->OnIncomplete(true);
  harness_.group->OnIncomplete(false);
  harness_.group->OnHandover(true);
  harness_.group->OnHandover(false);
  const Event begun = Next();
  EXPECT_EQ(begun.kind, EventKind::kJobBegun);
  EXPECT_EQ(begun.job, "apply");
  const Event ended = Next();
  EXPECT_EQ(ended.kind, EventKind::kJobEnded);
  EXPECT_EQ(ended.detail, "disk full of holes");
  EXPECT_EQ(Next().kind, EventKind::kIncomplete);
  EXPECT_EQ(Next().kind, EventKind::kComplete);
  EXPECT_EQ(Next().kind, EventKind::kHandedOver);
  EXPECT_EQ(Next().kind, EventKind::kHandoverTakenBack);
}

// Checkpoints of a stream from one thread, calls from another: every epoch is told once.
TEST_F(GroupEventsTest, EveryEpochIsToldOnce) {
  harness_.Start();
  std::thread caller([this] {
    for (int i = 0; i < 50; ++i) ASSERT_TRUE(harness_.group->Checkpoint({}, Soon()).ok());
  });
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(harness_.group->Checkpoint({}, Soon()).ok());
  caller.join();
  Next();
  Next();  // opened, RUNNING
  std::vector<Epoch> epochs;
  while (!AtEnd()) epochs.push_back(Next().epoch);
  std::sort(epochs.begin(), epochs.end());  // the fake replica orders nothing: listener_test does
  ASSERT_EQ(epochs.size(), 100u);
  for (size_t i = 0; i < epochs.size(); ++i) EXPECT_EQ(epochs[i], Epoch(i + 1));
}

}  // namespace
}  // namespace understudy::server::group_events_test
