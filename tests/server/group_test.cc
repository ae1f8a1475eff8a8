#include "server/group.h"

#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/reason.h"
#include "tests/server/harness.h"

namespace understudy::server::group_test {
namespace {

using testing::Harness;
using ::testing::HasSubstr;
using testing::Soon;
using ::testing::StartsWith;
using testing::TestAgent;
using testing::TestFrame;

TEST(GroupTest, ACheckpointWithoutAStreamCommitsWhatWasReceived) {
  Harness harness;
  harness.Start();
  {
    TestAgent agent(harness.service);
    ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
    agent.Send(TestFrame().Data(0, std::string(512, 'x')));
    ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.received_sequence == 1; }));
  }
  const CheckpointAnswer answer = harness.group->Checkpoint({}, Soon()).value();
  EXPECT_EQ(answer.result.epoch, Epoch(1));
  EXPECT_EQ(harness.replica().disk(0).substr(0, 512), std::string(512, 'x'));
}

TEST(GroupTest, ACheckpointWithAStreamAsksTheAgentAndCommitsAtItsMarker) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  absl::StatusOr<CheckpointAnswer> answer = absl::UnknownError("");
  std::thread caller([&] { answer = harness.group->Checkpoint({}, Soon()); });
  ASSERT_TRUE(agent.sink.AwaitCheckpointWanted());
  agent.Send(TestFrame().Data(0, std::string(512, 'x')).Add(OperationKind::kCheckpoint));
  caller.join();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->result.sequence, 2u);
  EXPECT_EQ(answer->result.epoch, Epoch(1));
}

TEST(GroupTest, ACheckpointWhoseStreamGoesAwayCommitsWhatWasReceived) {
  Harness harness;
  harness.Start();
  absl::StatusOr<CheckpointAnswer> answer = absl::UnknownError("");
  std::thread caller;
  {
    TestAgent agent(harness.service);
    ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
    caller = std::thread([&] { answer = harness.group->Checkpoint({}, Soon()); });
    ASSERT_TRUE(agent.sink.AwaitCheckpointWanted());
  }
  caller.join();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->result.sequence, 0u);
}

TEST(GroupTest, ACheckpointGivesUpAtItsDeadline) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  const auto answer = harness.group->Checkpoint({}, base::Deadline::After(absl::Milliseconds(50)));
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(GroupTest, ACheckpointOfAnIncompleteGroupIsAborted) {
  Harness harness;
  harness.Start();
  harness.replica().Mutate([](storage::ReplicaState& state) { state.incomplete = true; });
  const auto answer = harness.group->Checkpoint({}, Soon());
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(HasReason(answer.status(), kReasonIncomplete));
  EXPECT_EQ(harness.group->Stop({}, Soon()).status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(harness.group->Status().replica.stage, Stage::kRunning);
}

// The promise of DESIGN: the secondary VM can go on at once, whatever the stream is stuck in.
TEST(GroupTest, AFailoverDoesNotWaitForAStuckStream) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  harness.replica().Stick(true);
  agent.Send(TestFrame().Add(OperationKind::kFlush));
  harness.replica().AwaitStuckAppend();
  const StopOutcome outcome = harness.group->Stop({.failover = true}, Soon()).value();
  EXPECT_EQ(outcome.stage, Stage::kFailover);
  const absl::Status end = agent.sink.End();  // while the storage thread is still stuck
  EXPECT_FALSE(agent.session->finished());
  EXPECT_TRUE(HasReason(end, kReasonFenced));
  EXPECT_EQ(ReasonOf(end)->metadata.at("term"), std::to_string(outcome.term.value()));
  harness.replica().Stick(false);
}

using Place = testing::FakeReplica::Place;

// A wait for the stuck call would have no end; 100 ms are promised, but a loaded machine must not decide.
void ExpectQuickFailover(Harness& harness) {
  const absl::Time begun = absl::Now();
  const auto outcome = harness.group->Stop({.failover = true}, Soon());
  EXPECT_LT(absl::Now() - begun, absl::Seconds(10));
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_FALSE(outcome->ignored);
  EXPECT_EQ(outcome->stage, Stage::kFailover);
}

TEST(GroupTest, AFailoverDoesNotWaitForAStuckAttach) {
  for (const bool late : {false, true}) {
    Harness harness;
    harness.Start();
    if (late) harness.replica().AllowLateAttach();
    harness.replica().Stick(true, Place::kAttachStream);
    TestAgent agent(harness.service);
    agent.session->Begin(TestAgent::Hello("vm1"));
    harness.replica().AwaitStuck(Place::kAttachStream);
    ExpectQuickFailover(harness);
    EXPECT_TRUE(HasReason(agent.sink.End(), kReasonFenced)) << "told while it is still stuck";
    EXPECT_FALSE(agent.session->finished());
    harness.replica().Stick(false, Place::kAttachStream);
    ASSERT_TRUE(agent.session->WaitFinished(absl::Seconds(20)));
    EXPECT_FALSE(harness.group->Status().connected) << "attached to a group that has failed over";
  }
}

TEST(GroupTest, AFailoverOvertakesAPlannedStop) {
  Harness harness;
  harness.Start();
  harness.replica().Stick(true, Place::kStop);
  absl::StatusOr<StopOutcome> planned = absl::UnknownError("");
  std::thread caller([&] { planned = harness.group->Stop({}, Soon()); });
  harness.replica().AwaitStuck(Place::kStop);
  ExpectQuickFailover(harness);
  harness.replica().Stick(false, Place::kStop);
  caller.join();
  EXPECT_EQ(planned.status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(harness.replica().state().stage, Stage::kFailover);
}

TEST(GroupTest, AStuckStartHoldsNobodyElseUp) {
  Harness harness;
  harness.replica().Stick(true, Place::kStart);
  absl::StatusOr<StartOutcome> started = absl::UnknownError("");
  std::thread caller([&] { started = harness.group->Start(true, {}, Soon()); });
  harness.replica().AwaitStuck(Place::kStart);
  const absl::Time begun = absl::Now();
  EXPECT_TRUE(
      HasReason(harness.group->Stop({.failover = true}, Soon()).status(), kReasonNotRunning));
  EXPECT_LT(absl::Now() - begun, absl::Seconds(10));
  const auto second = harness.group->Start(true, {}, base::Deadline::After(absl::Milliseconds(20)));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kDeadlineExceeded);
  harness.replica().Stick(false, Place::kStart);
  caller.join();
  EXPECT_TRUE(started.ok()) << started.status();
}

TEST(GroupTest, APlannedStopGoesOnWhenItsCallerGivesUp) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  harness.replica().Stick(true, Place::kStop);
  const auto first = harness.group->Stop({}, base::Deadline::After(absl::Milliseconds(20)));
  EXPECT_EQ(first.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(first.status().message()), HasSubstr("goes on in the background"));
  EXPECT_FALSE(harness.group->AwaitPlannedStop(base::Deadline::After(absl::Milliseconds(20))));
  absl::StatusOr<StopOutcome> second = absl::UnknownError("");
  std::thread caller([&] { second = harness.group->Stop({}, Soon()); });
  harness.replica().Stick(false, Place::kStop);
  caller.join();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(harness.group->AwaitPlannedStop(Soon()));
  EXPECT_EQ(harness.group->Status().replica.stage, Stage::kDone);
  EXPECT_TRUE(HasReason(agent.sink.End(), kReasonFenced));
}

TEST(GroupTest, AnErrorThatComesDuringAStopStays) {
  Harness harness;
  harness.Start();
  const auto report = [&](const char* what) {
    harness.replica().Report({.operation = "apply",
                              .volume = VolumeId(0),
                              .range = {0, 4096},
                              .status = absl::InternalError(what)});
  };
  report("before");
  harness.replica().Stick(true, Place::kStop);
  std::thread caller([&] { (void)harness.group->Stop({}, Soon()); });
  harness.replica().AwaitStuck(Place::kStop);
  EXPECT_EQ(harness.group->GetError()->errors.size(), 1u)
      << "cleared before the stop has succeeded";
  report("during");
  harness.replica().Stick(false, Place::kStop);
  caller.join();
  const ErrorReport errors = harness.group->GetError().value();
  ASSERT_EQ(errors.errors.size(), 1u);
  EXPECT_EQ(errors.errors[0].message, "during");
}

TEST(GroupTest, ACheckpointWhoseMarkerHasComeWaitsForItWhenTheStreamGoes) {
  Harness harness;
  harness.Start();
  harness.replica().HoldNextMarker();
  absl::StatusOr<CheckpointAnswer> answer = absl::UnknownError("");
  std::thread caller;
  {
    TestAgent agent(harness.service);
    ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
    caller = std::thread([&] { answer = harness.group->Checkpoint({}, Soon()); });
    ASSERT_TRUE(agent.sink.AwaitCheckpointWanted());
    agent.Send(TestFrame().Data(0, std::string(512, 'x')).Add(OperationKind::kCheckpoint));
    harness.replica().AwaitHeldMarker();
  }
  EXPECT_FALSE(harness.group->Status().connected);
  harness.replica().CommitHeld();
  caller.join();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->result.sequence, 2u);
  EXPECT_EQ(harness.replica().state().committed_epoch, Epoch(1)) << "one more, empty epoch";
}

TEST(GroupTest, ACheckpointWhoseMarkerIsDroppedCommitsWhatWasReceived) {
  Harness harness;
  harness.Start();
  harness.replica().HoldNextMarker();
  absl::StatusOr<CheckpointAnswer> answer = absl::UnknownError("");
  std::thread caller;
  {
    TestAgent agent(harness.service);
    ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
    caller = std::thread([&] { answer = harness.group->Checkpoint({}, Soon()); });
    ASSERT_TRUE(agent.sink.AwaitCheckpointWanted());
    agent.Send(TestFrame().Add(OperationKind::kCheckpoint));
    harness.replica().AwaitHeldMarker();
  }
  harness.replica().DropHeld();
  caller.join();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->result.sequence, 0u);
}

TEST(GroupTest, ACheckpointWhoseCallerGaveUpIsWaitedForUnderItsRequestId) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  const auto soon = base::Deadline::After(absl::Milliseconds(50));
  EXPECT_EQ(harness.group->Checkpoint({}, soon, "c1").status().code(),
            absl::StatusCode::kDeadlineExceeded);
  const auto gone = base::Deadline::After(absl::Seconds(10), [] { return true; });
  EXPECT_EQ(harness.group->Checkpoint({}, gone, "c1").status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_TRUE(harness.group->CheckpointAtWork("c1"));
  ASSERT_TRUE(agent.sink.AwaitCheckpointWanted());
  agent.Send(TestFrame().Add(OperationKind::kCheckpoint));
  ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.committed_epoch == 1; }));
  const CheckpointAnswer answer = harness.group->Checkpoint({}, Soon(), "c1").value();
  EXPECT_EQ(answer.result.epoch, Epoch(1));
  EXPECT_EQ(harness.replica().state().committed_epoch, Epoch(1)) << "a second epoch";
  EXPECT_FALSE(harness.group->CheckpointAtWork("c1"));
}

TEST(GroupTest, ANewerStreamEndsTheOlderOneFirst) {
  Harness harness;
  harness.Start();
  TestAgent older(harness.service);
  ASSERT_TRUE(older.Greet(TestAgent::Hello("vm1")));
  older.Send(TestFrame().Add(OperationKind::kFlush));
  ASSERT_TRUE(older.sink.AckThat([](const Ack& ack) { return ack.received_sequence == 1; }));
  TestAgent newer(harness.service);
  const auto reply = newer.Greet(TestAgent::Hello("vm1"));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->received_sequence, 1u) << "the same stream id goes on where it was";
  EXPECT_EQ(older.sink.End().code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(older.session->finished());
  EXPECT_TRUE(harness.group->Status().connected);
}

TEST(GroupTest, AnotherAgentIsFencedUntilItTakesOver) {
  Harness harness;
  harness.Start();
  TestAgent first(harness.service);
  ASSERT_TRUE(first.Greet(TestAgent::Hello("vm1")));
  Handshake other = TestAgent::Hello("vm1");
  other.agent_id = "agent-2";
  other.stream_id = 100;
  {
    TestAgent second(harness.service);
    EXPECT_FALSE(second.Greet(other));
    EXPECT_TRUE(HasReason(second.sink.End(), kReasonFenced));
  }
  EXPECT_TRUE(harness.group->Status().connected) << "the fenced one ended the rightful stream";
  other.takeover = true;
  TestAgent second(harness.service);
  const auto reply = second.Greet(other);
  ASSERT_TRUE(reply);
  EXPECT_GT(reply->term, Term(first.term));
  EXPECT_TRUE(HasReason(first.sink.End(), kReasonFenced)) << "not only when it asks again";
  EXPECT_TRUE(reply->incomplete) << "a second stream since Start: what is missing is unknown";
}

struct BadHandshake {
  const char* name;
  std::function<void(Handshake&)> spoil;
  absl::StatusCode code;
  const char* text;
};

TEST(GroupTest, ABadHandshakeIsRefusedWithItsCode) {
  const std::vector<BadHandshake> table = {
      {"incarnation", [](Handshake& h) { h.incarnation = {.high = 1, .low = 1}; },
       absl::StatusCode::kFailedPrecondition, "incarnation"},
      {"older term", [](Handshake& h) { h.term = Term(9); }, absl::StatusCode::kFailedPrecondition,
       "term 9"},
      {"agent name", [](Handshake& h) { h.agent_id = "Agent!"; },
       absl::StatusCode::kInvalidArgument, "agent"},
      {"stream id", [](Handshake& h) { h.stream_id = 0; }, absl::StatusCode::kInvalidArgument,
       "stream_id"},
      {"unknown volume", [](Handshake& h) { h.volumes[0].name = "other"; },
       absl::StatusCode::kInvalidArgument, "no volume \"other\""},
      {"volume missing", [](Handshake& h) { h.volumes.clear(); },
       absl::StatusCode::kInvalidArgument, "as a whole"},
      {"volume twice", [](Handshake& h) { h.volumes.push_back(h.volumes[0]); },
       absl::StatusCode::kInvalidArgument, "twice"},
      {"size", [](Handshake& h) { h.volumes[0].size_bytes += 512; },
       absl::StatusCode::kFailedPrecondition, "secondary disk's length are not the same"},
  };
  Harness harness;
  harness.Start();
  for (const BadHandshake& row : table) {
    TestAgent agent(harness.service);
    Handshake handshake = TestAgent::Hello("vm1");
    row.spoil(handshake);
    EXPECT_FALSE(agent.Greet(handshake)) << row.name;
    EXPECT_EQ(agent.sink.End().code(), row.code) << row.name;
    EXPECT_THAT(std::string(agent.sink.End().message()), HasSubstr(row.text)) << row.name;
  }
  EXPECT_EQ(harness.replica().state().agent_id, "") << "a refused agent was bound";
  EXPECT_EQ(harness.group->stats().sessions_failed.value(), table.size());
  EXPECT_EQ(harness.group->stats().fenced_requests.value(), 2u);
}

TEST(GroupTest, WhetherTheAgentTakesCheckpointsReachesTheReplica) {
  Harness harness;
  harness.Start();
  Handshake handshake = TestAgent::Hello("vm1");
  for (const bool may : {true, false}) {
    handshake.may_checkpoint = may;
    TestAgent agent(harness.service);
    ASSERT_TRUE(agent.Greet(handshake));
    EXPECT_EQ(harness.replica().may_checkpoint(), may);
  }
}

TEST(GroupTest, ADelayedCallForAnotherPairingIsFenced) {
  Harness harness;
  harness.Start();
  const storage::ReplicaState state = harness.replica().state();
  const Expected wrong{.incarnation = {.high = 1, .low = 2}, .term = {}};
  const Expected old{.incarnation = {}, .term = Term(state.term.value() + 1)};
  for (const Expected& expected : {wrong, old}) {
    EXPECT_TRUE(HasReason(harness.group->Checkpoint(expected, Soon()).status(), kReasonFenced));
    EXPECT_TRUE(
        HasReason(harness.group->Stop({.failover = true, .expected = expected}, Soon()).status(),
                  kReasonFenced));
  }
  EXPECT_EQ(harness.replica().state().stage, Stage::kRunning);
  const Expected right{.incarnation = state.incarnation, .term = state.term};
  EXPECT_TRUE(harness.group->Checkpoint(right, Soon()).ok());
}

TEST(GroupTest, StartClearsLatchedErrorsAndAFailedStopKeepsThem) {
  Harness harness;
  harness.Start();
  harness.replica().Report({.operation = "apply",
                            .volume = VolumeId(0),
                            .range = {0, 4096},
                            .status = absl::DataLossError("bad block")});
  ASSERT_EQ(harness.group->GetError()->errors.size(), 1u);
  EXPECT_EQ(harness.group->GetError()->errors[0].volume, "disk0");
  harness.replica().Mutate([](storage::ReplicaState& state) { state.incomplete = true; });
  EXPECT_FALSE(harness.group->Stop({}, Soon()).ok());
  EXPECT_EQ(harness.group->GetError()->errors.size(), 1u);
  EXPECT_TRUE(harness.group->Stop({.failover = true}, Soon()).ok());
  EXPECT_TRUE(harness.group->GetError()->errors.empty());
}

TEST(GroupTest, OnlyACleanScrubClearsDataLossAndOnlyWhatCameBeforeIt) {
  Harness harness;
  harness.Start();
  Group& group = *harness.group;
  const auto errors = [&] { return group.GetError()->errors.size(); };
  group.Latch(VolumeId(0), "read", {0, 4096}, absl::DataLossError("old"));
  group.Latch(VolumeId(0), "apply", {}, absl::ResourceExhaustedError("full"));
  ASSERT_TRUE(group.Scrub({}, {}).ok());
  harness.replica().EndScrub(storage::ScrubOutcome::kDamaged);
  EXPECT_EQ(errors(), 2u);
  ASSERT_TRUE(group.Scrub({}, {}).ok());
  group.Latch(VolumeId(0), "read", {0, 4096}, absl::DataLossError("while it ran"));
  ASSERT_EQ(errors(), 3u);
  harness.replica().EndScrub(storage::ScrubOutcome::kClean);
  ASSERT_EQ(errors(), 2u);
  EXPECT_EQ(group.GetError()->errors[0].message, "full");
  EXPECT_EQ(group.GetError()->errors[1].message, "while it ran");
}

TEST(GroupTest, AFailedFailoverSaysIoErrorOccurredWithItsCause) {
  Harness harness;
  harness.Start();
  ASSERT_TRUE(harness.group->Stop({.failover = true}, Soon()).ok());
  harness.replica().Report({.operation = "commit",
                            .volume = VolumeId(0),
                            .range = {0, 4096},
                            .status = absl::InternalError("/disks/vm1: Input/output error")});
  harness.replica().Mutate(
      [](storage::ReplicaState& state) { state.stage = Stage::kFailoverFailed; });
  const ErrorReport report = harness.group->GetError().value();
  ASSERT_EQ(report.errors.size(), 1u);
  EXPECT_EQ(report.errors[0].message, "I/O error occurred: /disks/vm1: Input/output error");
  EXPECT_EQ(report.errors[0].range, (ByteRange{0, 4096}));
  // A restarted service remembers the stage only.
  testing::FakeStore store;
  store.replicas["vm1"] = harness.store.replicas["vm1"];
  Service restarted(store, base::Clock::Real());
  const ErrorReport later = restarted.FindGroup("vm1").value()->GetError().value();
  ASSERT_EQ(later.errors.size(), 1u);
  EXPECT_THAT(later.errors[0].message, StartsWith("I/O error occurred"));
}

}  // namespace
}  // namespace understudy::server::group_test
