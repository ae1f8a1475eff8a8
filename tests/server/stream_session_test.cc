#include "server/stream_session.h"

#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "tests/server/harness.h"

namespace understudy::server::stream_session_test {
namespace {

using testing::Harness;
using ::testing::HasSubstr;
using testing::TestAgent;
using testing::TestFrame;

TEST(StreamSessionTest, AFrameReachesHiddenAndIsAcknowledged) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  const auto reply = agent.Greet(TestAgent::Hello("vm1"));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->volume_ids, std::vector<uint32_t>{0});
  agent.Send(TestFrame().Data(512, std::string(1024, 'x')).Data(4096, std::string(512, 'y')));
  ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.received_sequence == 2; }));
  EXPECT_EQ(harness.replica().hidden(0).substr(512, 1024), std::string(1024, 'x'));
  EXPECT_EQ(harness.replica().hidden(0).substr(4096, 512), std::string(512, 'y'));
  EXPECT_EQ(harness.replica().disk(0), std::string(1 << 20, '\0')) << "visible before a checkpoint";
  EXPECT_EQ(harness.group->stats().received_bytes.value(), 1536u);
  EXPECT_EQ(harness.group->stats().received_operations.value(), 2u);
}

TEST(StreamSessionTest, AMarkerIsAnsweredWithTheEpochItCommitted) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  agent.Send(TestFrame().Data(0, std::string(512, 'x')).Add(OperationKind::kCheckpoint));
  const auto ack = agent.sink.AckThat([](const Ack& ack) { return ack.committed_sequence == 2; });
  ASSERT_TRUE(ack);
  EXPECT_EQ(ack->committed_epoch, harness.replica().state().committed_epoch.value());
  EXPECT_EQ(ack->committed_bytes, 4096u);
  EXPECT_EQ(ack->committed_duration_micros, 2000u);
  EXPECT_EQ(harness.replica().disk(0).substr(0, 512), std::string(512, 'x'));
}

TEST(StreamSessionTest, AMarkerIsRefusedWhileOperationsAreMissing) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  agent.Send(TestFrame().Add(OperationKind::kIncomplete).Add(OperationKind::kCheckpoint));
  const auto ack = agent.sink.AckThat([](const Ack& ack) { return ack.aborted_sequence == 2; });
  ASSERT_TRUE(ack);
  ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.incomplete; }));
  EXPECT_EQ(harness.replica().state().committed_epoch, Epoch(0));
  agent.Send(TestFrame().Add(OperationKind::kComplete).Add(OperationKind::kCheckpoint));
  ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.committed_sequence == 4; }));
  ASSERT_TRUE(agent.sink.AckThat(
      [](const Ack& ack) { return ack.committed_sequence == 4 && !ack.incomplete; }));
  EXPECT_EQ(harness.group->Status().sync_state, SyncState::kAssumed) << "nobody has said more";
}

TEST(StreamSessionTest, WhatTheAgentKnowsOfTheDisksIsSaidWhileItIsThere) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  uint64_t number = 0;
  for (const auto& [proof, expected] :
       {std::pair(0, SyncState::kAssumed), std::pair(2, SyncState::kInSync),
        std::pair(0, SyncState::kInSync), std::pair(3, SyncState::kDiverged),
        std::pair(2, SyncState::kInSync), std::pair(1, SyncState::kAssumed)}) {
    ++number;
    agent.SendRaw(testing::EncodeHeartbeat(false, number, static_cast<uint64_t>(proof)));
    ASSERT_TRUE(agent.sink.AckThat([&](const Ack& ack) { return ack.echo_micros == number; }));
    EXPECT_EQ(harness.group->Status().sync_state, expected) << number;
  }
}

TEST(StreamSessionTest, AHeartbeatIsEchoedAndAsksForADurablePoint) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  agent.Send(TestFrame().Add(OperationKind::kFlush));
  agent.SendRaw(testing::EncodeHeartbeat(true, 4711));
  ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.echo_micros == 4711; }));
  ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.durable_sequence == 1; }));
  EXPECT_EQ(harness.replica().durable_points(), 1);
}

// What the transport has not taken yet is replaced by the newest: a slow one sees few acks, and the last says all.
TEST(StreamSessionTest, AcksAreCoalescedWhileAWriteIsUnderWay) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  agent.sink.Hold(true);
  const size_t before = agent.sink.answers();
  for (int i = 0; i < 100; ++i) agent.Send(TestFrame().Add(OperationKind::kFlush));
  while (harness.replica().appends() < 100) std::this_thread::yield();
  EXPECT_EQ(agent.sink.answers(), before);
  agent.sink.Hold(false);
  agent.session->OnWritten(true);
  ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.received_sequence == 100; }));
  EXPECT_LE(agent.sink.answers(), before + 4);
}

TEST(StreamSessionTest, AFullQueueStopsTheReaderAndAHalfEmptyOneStartsItAgain) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service, {.queue_bytes_max = 4000});
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  harness.replica().Stick(true);
  agent.Send(TestFrame().Add(OperationKind::kFlush));
  harness.replica().AwaitStuckAppend();  // taken off the queue
  const TestFrame kilobyte = TestFrame().Data(0, std::string(1024, 'x'));
  for (int i = 0; i < 3; ++i) agent.Send(kilobyte);
  const int rooms = agent.sink.rooms();
  agent.Send(kilobyte);
  EXPECT_EQ(agent.sink.rooms(), rooms) << "asked to read with a full queue";
  harness.replica().Stick(false);
  EXPECT_TRUE(agent.sink.AwaitRooms(rooms + 1));
  ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.received_sequence == 5; }));
  EXPECT_EQ(agent.sink.rooms(), rooms + 1);
}

TEST(StreamSessionTest, ADamagedFrameEndsTheStreamAndLatchesAtTheThirdTime) {
  Harness harness;
  harness.Start();
  for (int i = 1; i <= 3; ++i) {
    TestAgent agent(harness.service);
    ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
    TestFrame frame;
    frame.Data(0, std::string(512, 'x'));
    frame.crc_flip = 1;
    agent.Send(frame);
    EXPECT_EQ(agent.sink.End().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(harness.group->GetError()->errors.size(), i == 3 ? 1u : 0u) << "time " << i;
    EXPECT_EQ(harness.group->stats().wire_checksum_failures.value(), static_cast<uint64_t>(i));
  }
  EXPECT_EQ(harness.replica().appends(), 0);
}

TEST(StreamSessionTest, ARefusedWriteEndsTheStreamAndIsLatched) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  harness.replica().FailAppend(absl::ResourceExhaustedError("no space left"));
  agent.Send(TestFrame().Add(OperationKind::kFlush));
  EXPECT_EQ(agent.sink.End().code(), absl::StatusCode::kResourceExhausted);
  const ErrorReport report = harness.group->GetError().value();
  ASSERT_EQ(report.errors.size(), 1u);
  EXPECT_EQ(report.errors[0].operation, "write");
  EXPECT_EQ(report.errors[0].code, absl::StatusCode::kResourceExhausted);
}

TEST(StreamSessionTest, AnAgentThatEndsItsStreamHasEverythingTakenFirst) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  for (int i = 0; i < 10; ++i) agent.Send(TestFrame().Add(OperationKind::kFlush));
  agent.session->ReadsDone();
  EXPECT_TRUE(agent.sink.End().ok()) << agent.sink.End();
  EXPECT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.received_sequence == 10; }));
  EXPECT_EQ(agent.sink.ends(), 1);
  ASSERT_TRUE(agent.session->WaitFinished(absl::Seconds(20)));
  for (const Counter& count : harness.group->stats().errors) EXPECT_EQ(count.value(), 0u);
}

// A transport says of a dead peer only that there is nothing more to read, as of one that has ended its stream.
TEST(StreamSessionTest, ABrokenConnectionIsNotAnOrderlyEnd) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  agent.Send(TestFrame().Add(OperationKind::kFlush));
  ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.received_sequence == 1; }));
  agent.sink.Break();
  agent.session->ReadsDone();
  EXPECT_EQ(agent.sink.End().code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(std::string(agent.sink.End().message()), HasSubstr("the agent has gone away"));
  ASSERT_TRUE(agent.session->WaitFinished(absl::Seconds(20)));
  const auto& errors = harness.group->stats().errors;
  EXPECT_EQ(errors[static_cast<size_t>(base::ErrorReason::kUnavailable)].value(), 1u);
  EXPECT_TRUE(harness.group->GetError()->errors.empty()) << "a disconnect is no latched error";
}

TEST(StreamSessionTest, ASilentAgentIsLostAndThatIsNoError) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service, {.heartbeat_interval = absl::Milliseconds(20),
                                    .peer_lost_after = absl::Seconds(2)});
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  EXPECT_THAT(std::string(agent.sink.End().message()), HasSubstr("no word"));
  agent.session->WaitFinished(absl::Seconds(20));
  EXPECT_TRUE(harness.group->GetError()->errors.empty());
  EXPECT_FALSE(harness.group->Status().connected);
  EXPECT_EQ(harness.group->Status().sync_state, SyncState::kDisconnected);
  EXPECT_EQ(harness.group->stats().errors[static_cast<size_t>(base::ErrorReason::kTimeout)].value(),
            1u);
}

TEST(StreamSessionTest, AStreamForAnUnknownGroupIsRefusedAndLoggedOnce) {
  std::atomic<int> lines = 0;
  base::SetLogSinkForTest([&](base::LogLevel, absl::string_view) { ++lines; });
  Harness harness;
  lines = 0;
  for (uint64_t count = 1; count <= 3; ++count) {
    TestAgent agent(harness.service);
    EXPECT_FALSE(agent.Greet(TestAgent::Hello("other")));
    EXPECT_TRUE(HasReason(agent.sink.End(), kReasonUnknownGroup));
    ASSERT_TRUE(agent.session->WaitFinished(absl::Seconds(20)));
    EXPECT_EQ(harness.service.stats().sessions_refused.value(), count);
  }
  EXPECT_EQ(lines, 1);
  base::SetLogSinkForTest(nullptr);
}

// The storage thread ends, answers and heartbeats race with a peer that goes away; run under ThreadSanitizer.
TEST(StreamSessionTest, EndsMeetEverythingElse) {
  Harness harness;
  harness.Start();
  for (int round = 0; round < 50; ++round) {
    TestAgent agent(harness.service, {.heartbeat_interval = absl::Milliseconds(1)});
    agent.session->Begin(TestAgent::Hello("vm1"));
    std::thread sender([&] {
      for (int i = 0; i < 20; ++i) agent.SendRaw(testing::EncodeHeartbeat(true, 1));
    });
    std::thread ender([&] {
      for (int i = 0; i < round; ++i) std::this_thread::yield();
      agent.session->End(absl::CancelledError("gone"));
    });
    sender.join();
    ender.join();
    (void)agent.sink.End();
    EXPECT_EQ(agent.sink.ends(), 1);
  }
}

}  // namespace
}  // namespace understudy::server::stream_session_test
