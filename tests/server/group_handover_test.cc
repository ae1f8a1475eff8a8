// The hand-over as server/group.h has it: who is asked, who is answered what, and what is refused afterwards.
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/group.h"
#include "storage/base/reason.h"
#include "tests/server/harness.h"

namespace understudy::server::group_handover_test {
namespace {

using testing::Harness;
using ::testing::HasSubstr;
using testing::Soon;
using testing::TestAgent;
using testing::TestFrame;

class GroupHandoverTest : public ::testing::Test {
 protected:
  GroupHandoverTest() { harness_.Start(); }

  Group& group() { return *harness_.group; }
  // HandOver() on a thread of its own, while the agent does its part.
  absl::Status HandOver(TestAgent& agent, const std::function<void()>& agents_part) {
    absl::Status status = absl::UnknownError("");
    std::thread caller([&] { status = group().HandOver(Soon()); });
    EXPECT_TRUE(agent.sink.AwaitHandoverWanted());
    agents_part();
    caller.join();
    return status;
  }
  static TestFrame LastFrame() {
    return TestFrame().Data(0, std::string(512, 'x')).Add(OperationKind::kHandover);
  }

  Harness harness_;
};

TEST_F(GroupHandoverTest, TheAgentIsAskedAndItsLastFrameIsCommitted) {
  TestAgent agent(harness_.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  EXPECT_EQ(HandOver(agent, [&] { agent.Send(LastFrame()); }), absl::OkStatus());
  EXPECT_TRUE(group().Status().replica.handed_over);
  EXPECT_EQ(group().Status().replica.checkpoint_bytes, 4096u);
  EXPECT_EQ(harness_.replica().disk(0).substr(0, 512), std::string(512, 'x'));
  EXPECT_EQ(group().HandOver(Soon()), absl::OkStatus()) << "repeated";
  // A checkpoint asks nobody any more.
  EXPECT_TRUE(group().Checkpoint({}, Soon()).ok());
  agent.Send(TestFrame().Data(0, std::string(512, 'y')));
  EXPECT_TRUE(HasReason(agent.sink.End(), kReasonHandedOver));
  const StopOutcome promoted =
      group().Stop({.failover = true, .after_handover = true}, Soon()).value();
  EXPECT_EQ(promoted.stage, Stage::kFailover);
  EXPECT_EQ(group().HandOver(Soon()), absl::OkStatus()) << "repeated after the failover";
}

TEST_F(GroupHandoverTest, AStreamOfTheSameAgentIsRefusedUntilItIsTakenBack) {
  TestAgent agent(harness_.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  ASSERT_EQ(HandOver(agent, [&] { agent.Send(LastFrame()); }), absl::OkStatus());
  {
    TestAgent knocking(harness_.service);
    EXPECT_FALSE(knocking.Greet(TestAgent::Hello("vm1")));
    EXPECT_TRUE(HasReason(knocking.sink.End(), kReasonHandedOver));
  }
  {
    server::Handshake other = TestAgent::Hello("vm1");
    other.agent_id = "agent-2";
    TestAgent foreign(harness_.service);
    EXPECT_FALSE(foreign.Greet(other));
    EXPECT_TRUE(HasReason(foreign.sink.End(), kReasonFenced));
  }
  ASSERT_EQ(group().TakeBackHandover(Soon()), absl::OkStatus());
  EXPECT_EQ(agent.sink.End().code(), absl::StatusCode::kUnavailable);
  TestAgent back(harness_.service);
  const auto reply = back.Greet(TestAgent::Hello("vm1"));
  ASSERT_TRUE(reply);
  EXPECT_FALSE(reply->incomplete);
  EXPECT_EQ(reply->received_sequence, 2u);
  EXPECT_TRUE(HasReason(group().Stop({.failover = true, .after_handover = true}, Soon()).status(),
                        kReasonNotHandedOver));
  EXPECT_EQ(group().Status().replica.stage, Stage::kRunning);
}

TEST_F(GroupHandoverTest, WithoutAnAgentNothingChanges) {
  const absl::Status alone = group().HandOver(Soon());
  EXPECT_EQ(alone.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(alone.message()), HasSubstr("no agent is connected"));
  EXPECT_FALSE(group().Status().replica.handing_over);
}

TEST_F(GroupHandoverTest, WhileIncompleteNobodyIsAsked) {
  TestAgent agent(harness_.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  harness_.replica().Mutate([](storage::ReplicaState& state) { state.incomplete = true; });
  EXPECT_TRUE(HasReason(group().HandOver(Soon()), kReasonIncomplete));
  EXPECT_FALSE(group().Status().replica.handing_over);
}

TEST_F(GroupHandoverTest, AnAgentThatBecomesIncompleteOnTheWayEndsTheCall) {
  TestAgent agent(harness_.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  const absl::Status status = HandOver(agent, [&] { group().OnIncomplete(true); });
  EXPECT_TRUE(HasReason(status, kReasonIncomplete)) << status;
}

TEST_F(GroupHandoverTest, AnAgentThatGoesAwayOnTheWayEndsTheCall) {
  auto agent = std::make_unique<TestAgent>(harness_.service);
  ASSERT_TRUE(agent->Greet(TestAgent::Hello("vm1")));
  const absl::Status status = HandOver(*agent, [&] { agent.reset(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
}

TEST_F(GroupHandoverTest, AMarkerBeforeItIsNotTakenForIt) {
  TestAgent agent(harness_.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  const absl::Status status = HandOver(agent, [&] {
    agent.Send(TestFrame().Add(OperationKind::kCheckpoint));
    ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.committed_epoch == 1; }));
    agent.Send(LastFrame());
  });
  EXPECT_EQ(status, absl::OkStatus());
  EXPECT_EQ(group().Status().replica.committed_epoch, Epoch(2));
}

TEST_F(GroupHandoverTest, AFailoverOnTheWayEndsTheCall) {
  TestAgent agent(harness_.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  const absl::Status status =
      HandOver(agent, [&] { ASSERT_TRUE(group().Stop({.failover = true}, Soon()).ok()); });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(group().HandOver(Soon()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(group().TakeBackHandover(Soon()).code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace understudy::server::group_handover_test
