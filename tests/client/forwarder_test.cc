#include "client/forwarder.h"

#include <atomic>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/log.h"
#include "tests/client/fake_transport.h"

namespace understudy::client::forwarder_test {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint64_t kDiskBytes = 8 << 20;

base::Deadline Soon() { return base::Deadline::After(absl::Seconds(10)); }

ForwarderOptions Options() {
  return {.group = "vm1",
          .volumes = {{.name = "disk0", .size_bytes = kDiskBytes},
                      {.name = "disk1", .size_bytes = kDiskBytes}},
          .agent_id = "host-a",
          .stall_timeout = absl::Milliseconds(100),
          .heartbeat = absl::Milliseconds(20),
          .lost_peer = absl::Milliseconds(300),
          .backoff_min = absl::Milliseconds(5),
          .backoff_max = absl::Milliseconds(20)};
}

class ForwarderTest : public ::testing::Test {
 protected:
  ForwarderTest() : transport_({kDiskBytes, kDiskBytes}) {}
  void TearDown() override { EXPECT_THAT(transport_.seen().violations, IsEmpty()); }

  Forwarder& Make(ForwarderOptions options = Options()) {
    forwarder_ = std::make_unique<Forwarder>(std::move(options), &transport_);
    return *forwarder_;
  }
  Forwarder& Started(ForwarderOptions options = Options()) {
    Forwarder& forwarder = Make(std::move(options));
    EXPECT_TRUE(forwarder.Start().ok());
    EXPECT_TRUE(forwarder.WaitForAnswer(Soon()).connected);
    return forwarder;
  }
  static std::string Block(char c, size_t bytes = 4096) { return std::string(bytes, c); }
  bool AllReceived() {
    return Eventually([&] {
      const ForwarderState state = forwarder_->state();
      return state.received_sequence + 1 == state.next_sequence;
    });
  }

  FakeTransport transport_;
  std::unique_ptr<Forwarder> forwarder_;
};

TEST_F(ForwarderTest, WritesArriveInOrderAndByteForByte) {
  Forwarder& forwarder = Started();
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  ASSERT_TRUE(forwarder.Write(0, 4096, Block('b', 1 << 20)).ok());
  ASSERT_TRUE(forwarder.Write(0, 8192, Block('c', 512)).ok());
  ASSERT_TRUE(forwarder.WriteZeroes(0, 0, 512).ok());
  ASSERT_TRUE(AllReceived());
  std::string expected(kDiskBytes, '\0');
  expected.replace(0, 4096, Block('a'));
  expected.replace(4096, 1 << 20, Block('b', 1 << 20));
  expected.replace(8192, 512, Block('c', 512));
  expected.replace(0, 512, std::string(512, '\0'));
  EXPECT_TRUE(transport_.disk(0) == expected);
}

TEST_F(ForwarderTest, AStandbyThatIsGoneIsGoneSinceItsLastWord) {
  Forwarder& forwarder = Started();
  EXPECT_EQ(forwarder.state().disconnected(), absl::ZeroDuration());
  transport_.Set([](auto& b) { b.acknowledge = b.reachable = false; });
  ASSERT_TRUE(Eventually([&] { return !forwarder.state().connected; }));
  EXPECT_GE(forwarder.state().disconnected(), Options().lost_peer);
  ASSERT_TRUE(forwarder.Stop(false, Soon()).ok());
  EXPECT_EQ(forwarder.state().disconnected(), absl::ZeroDuration()) << "none is due";
}

TEST_F(ForwarderTest, OperationsQueuedBehindAFrameOnItsWayGoTogether) {
  transport_.Set([](auto& b) { b.hold_sent = true; });
  Forwarder& forwarder = Started();
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(forwarder.Write(0, static_cast<uint64_t>(i) * 4096, Block('x')).ok());
  }
  transport_.Set([](auto& b) { b.hold_sent = false; });
  ASSERT_TRUE(AllReceived());
  const auto frames = transport_.seen().frames;
  // One alone (nothing was on its way), then 256 KiB at a time.
  ASSERT_GE(frames.size(), 4u);
  EXPECT_EQ(frames[0].second, 1u);
  EXPECT_EQ(frames[1].second, 64u);
  EXPECT_EQ(frames[2].second, 64u);
}

TEST_F(ForwarderTest, BadRangesAreTheCallersErrors) {
  Forwarder& forwarder = Started();
  EXPECT_EQ(forwarder.Write(0, kDiskBytes, Block('a')).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(forwarder.Write(0, 100, Block('a')).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(forwarder.Write(7, 0, Block('a')).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(forwarder.WriteZeroes(0, 512, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(forwarder.state().next_sequence, 1u);
}

TEST_F(ForwarderTest, NothingIsTakenBeforeStartOrAfterStop) {
  Forwarder& forwarder = Make();
  EXPECT_TRUE(HasReason(forwarder.Write(0, 0, Block('a')), kReasonNotRunning));
  ASSERT_TRUE(forwarder.Start().ok());
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  ASSERT_TRUE(forwarder.Stop(true, Soon()).ok());
  EXPECT_EQ(transport_.disk(0)[0], 'a');
  EXPECT_TRUE(HasReason(forwarder.Write(0, 0, Block('b')), kReasonNotRunning));
}

TEST_F(ForwarderTest, AReconnectSendsExactlyWhatWasNotReceived) {
  Forwarder& forwarder = Started();
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  ASSERT_TRUE(AllReceived());
  transport_.Set([](auto& b) { b.reachable = false; });
  transport_.Disconnect();
  ASSERT_TRUE(Eventually([&] { return !forwarder.state().connected; }));
  ASSERT_TRUE(forwarder.Write(0, 4096, Block('b')).ok());
  ASSERT_TRUE(forwarder.Write(0, 8192, Block('c')).ok());
  transport_.Set([](auto& b) { b.reachable = true; });
  ASSERT_TRUE(AllReceived());
  const auto seen = transport_.seen();
  EXPECT_THAT(seen.frames,
              ElementsAre(std::pair<uint64_t, size_t>(1, 1), std::pair<uint64_t, size_t>(2, 2)));
  EXPECT_EQ(transport_.disk(0)[4096], 'b');
  EXPECT_EQ(transport_.disk(0)[8192], 'c');
  EXPECT_EQ(seen.handshakes.back().stream_id, seen.handshakes.front().stream_id);
  EXPECT_THAT(forwarder.errors().errors(), IsEmpty());
}

TEST_F(ForwarderTest, WhatWasReceivedButNotDurableIsSentAgainAfterAPowerCut) {
  transport_.Set([](auto& b) { b.durable = false; });
  Forwarder& forwarder = Started();
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  ASSERT_TRUE(forwarder.Write(0, 4096, Block('b')).ok());
  ASSERT_TRUE(AllReceived());
  transport_.ForgetAfter(0);
  transport_.Disconnect();
  ASSERT_TRUE(Eventually([&] { return transport_.seen().received == 2; }));
  EXPECT_EQ(transport_.seen().frames.back().first + transport_.seen().frames.back().second, 3u);
  EXPECT_THAT(forwarder.errors().errors(), IsEmpty());
}

TEST_F(ForwarderTest, ALostDurableOperationMakesTheStandbyBehindForGood) {
  Forwarder& forwarder = Started();
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  ASSERT_TRUE(Eventually([&] { return forwarder.state().durable_sequence == 1; }));
  const uint64_t stream = transport_.seen().stream_id;
  transport_.ForgetAfter(0);
  transport_.Disconnect();
  ASSERT_TRUE(Eventually([&] { return transport_.seen().stream_id != stream; }));
  ASSERT_TRUE(Eventually([&] { return forwarder.state().connected; }));
  EXPECT_EQ(forwarder.state().sync_state, SyncState::kBehind);
  EXPECT_THAT(forwarder.errors().errors(), SizeIs(1));
  ASSERT_TRUE(Eventually([&] {
    return !transport_.seen().kinds.empty() &&
           transport_.seen().kinds.back() == OperationKind::kIncomplete;
  }));
  EXPECT_TRUE(HasReason(forwarder.Checkpoint(Soon()).status(), kReasonIncomplete));
}

TEST_F(ForwarderTest, AFullWindowDegradesAfterTheStallTimeoutAndSaysSoInTheStream) {
  ForwarderOptions options = Options();
  options.window_bytes = kWindowBytesMin;
  options.lost_peer = absl::Seconds(20);
  Forwarder& forwarder = Started(options);
  transport_.Set([](auto& b) { b.acknowledge = false; });
  const absl::Time began = absl::Now();
  absl::Status status;
  uint64_t accepted = 0;
  for (; status.ok() && accepted < 100; ++accepted)
    status = forwarder.Write(0, 0, Block('x', 65536));
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
  EXPECT_TRUE(HasReason(status, kReasonIncomplete));
  EXPECT_GE(absl::Now() - began, options.stall_timeout);
  EXPECT_LE(accepted * 65536, kWindowBytesMin + 65536);
  // Later writes are counted, not sent, also when there is room again.
  transport_.Set([](auto& b) { b.acknowledge = true; });
  ASSERT_TRUE(AllReceived());
  EXPECT_FALSE(forwarder.Write(0, 0, Block('y')).ok());
  EXPECT_EQ(forwarder.state().volumes[0].missed_bytes, 65536u + 4096u);
  EXPECT_EQ(transport_.seen().kinds.back(), OperationKind::kIncomplete);
  EXPECT_EQ(transport_.seen().incomplete.range(), (ByteRange{0, 65536})) << "what is missing first";
  EXPECT_THAT(forwarder.errors().errors(), SizeIs(2));
  const absl::Status refused = forwarder.Checkpoint(Soon()).status();
  EXPECT_TRUE(HasReason(refused, kReasonIncomplete));
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("2 times, 69632 bytes, the newest [0, 4096)"));
  EXPECT_EQ(transport_.seen().committed, Epoch(0));
}

// A sync that hangs at the standby held the guest for ever: everything was received, and nothing became free.
TEST_F(ForwarderTest, AWindowThatIsReceivedAndNeverDurableDegradesToo) {
  ForwarderOptions options = Options();
  options.window_bytes = kWindowBytesMin;
  Forwarder& forwarder = Started(options);
  transport_.Set([](auto& b) { b.hung_sync = true; });
  absl::Status status;
  absl::Time began;
  for (int i = 0; status.ok() && i < 100; ++i) {
    began = absl::Now();
    status = forwarder.Write(0, 0, Block('x', 65536));
  }
  EXPECT_TRUE(HasReason(status, kReasonIncomplete)) << status;
  EXPECT_GE(absl::Now() - began, options.lost_peer) << "a slow sync is no reason to copy all anew";
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
  ASSERT_TRUE(AllReceived());
  EXPECT_EQ(forwarder.state().durable_sequence, 0u);
  EXPECT_GE(forwarder.state().window_bytes, kWindowBytesMin - 65536) << "kept until it is durable";
  EXPECT_EQ(transport_.seen().kinds.back(), OperationKind::kIncomplete);
  transport_.Set([](auto& b) { b.hung_sync = false; });
  EXPECT_TRUE(Eventually([&] { return forwarder.state().window_bytes == 0; }));
}

TEST_F(ForwarderTest, AFullWindowBlocksUntilThereIsRoomWhenToldSo) {
  ForwarderOptions options = Options();
  options.window_bytes = kWindowBytesMin;
  options.on_full = OnFull::kBlock;
  options.lost_peer = absl::Seconds(20);
  Forwarder& forwarder = Started(options);
  transport_.Set([](auto& b) { b.acknowledge = false; });
  std::atomic<int> written{0};
  std::thread writer([&] {
    for (int i = 0; i < 64; ++i) {
      EXPECT_TRUE(forwarder.Write(0, 0, Block('x', 65536)).ok());
      ++written;
    }
  });
  absl::SleepFor(3 * options.stall_timeout);
  EXPECT_LT(written.load(), 64);
  transport_.Set([](auto& b) { b.acknowledge = true; });
  writer.join();
  EXPECT_EQ(written.load(), 64);
  EXPECT_THAT(forwarder.errors().errors(), IsEmpty());
}

TEST_F(ForwarderTest, AHalfFullWindowAsksForADurablePoint) {
  transport_.Set([](auto& b) { b.durable = false; });
  ForwarderOptions options = Options();
  options.window_bytes = kWindowBytesMin;
  Forwarder& forwarder = Started(options);
  for (int i = 0; i < 64; ++i) ASSERT_TRUE(forwarder.Write(0, 0, Block('x', 65536)).ok());
  EXPECT_GE(transport_.seen().durable_requests, 1u);
  EXPECT_LE(forwarder.state().window_bytes, kWindowBytesMin);
}

TEST_F(ForwarderTest, DurableModeReturnsOnlyWhenItIsDurable) {
  transport_.Set([](auto& b) { b.durable = b.acknowledge = false; });
  ForwarderOptions options = Options();
  options.ack = AckMode::kDurable;
  options.on_full = OnFull::kBlock;
  Forwarder& forwarder = Make(options);
  ASSERT_TRUE(forwarder.Start().ok());
  std::atomic<bool> returned{false};
  std::thread writer([&] {
    EXPECT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
    returned = true;
  });
  ASSERT_TRUE(Eventually([&] { return transport_.seen().received == 1; }));
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(returned.load());
  transport_.Set([](auto& b) { b.acknowledge = true; });
  writer.join();
  EXPECT_EQ(forwarder.state().durable_sequence, 1u);
  EXPECT_GE(transport_.seen().durable_requests, 1u);
}

TEST_F(ForwarderTest, WhatAStopDropsIsNotAnsweredAsDurable) {
  transport_.Set([](auto& b) { b.durable = b.acknowledge = false; });
  ForwarderOptions options = Options();
  options.ack = AckMode::kDurable;
  options.on_full = OnFull::kBlock;
  Forwarder& forwarder = Make(options);
  ASSERT_TRUE(forwarder.Start().ok());
  absl::Status written;
  std::thread writer([&] { written = forwarder.Write(0, 0, Block('a')); });
  ASSERT_TRUE(Eventually([&] { return transport_.seen().received == 1; }));
  ASSERT_TRUE(forwarder.Stop(/*drain=*/false).ok());
  writer.join();
  EXPECT_TRUE(HasReason(written, kReasonNotRunning)) << written;
}

TEST_F(ForwarderTest, DurableModeDoesNotHoldTheGuestWhenTheStandbysSyncHangs) {
  ForwarderOptions options = Options();
  options.ack = AckMode::kDurable;
  Forwarder& forwarder = Started(options);
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  transport_.Set([](auto& b) { b.hung_sync = true; });
  const absl::Time began = absl::Now();
  EXPECT_EQ(forwarder.Write(0, 4096, Block('b')).code(), absl::StatusCode::kUnavailable);
  EXPECT_GE(absl::Now() - began, options.lost_peer);
  EXPECT_THAT(forwarder.errors().errors(), SizeIs(1));
  EXPECT_EQ(transport_.disk(0)[4096], 'b') << "it is on its way all the same";
}

TEST_F(ForwarderTest, ReceivedModeDoesNotHoldTheGuestWhenThePeerIsLost) {
  ForwarderOptions options = Options();
  options.ack = AckMode::kReceived;
  Forwarder& forwarder = Started(options);
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  EXPECT_EQ(transport_.seen().received, 1u);
  transport_.Set([](auto& b) { b.reachable = false; });
  transport_.Disconnect();
  EXPECT_EQ(forwarder.Write(0, 4096, Block('b')).code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(forwarder.errors().errors(), SizeIs(1));
  transport_.Set([](auto& b) { b.reachable = true; });
  ASSERT_TRUE(AllReceived());
  EXPECT_EQ(transport_.disk(0)[4096], 'b');  // it stayed queued
}

TEST_F(ForwarderTest, ACheckpointReturnsTheSecondarysAnswer) {
  Forwarder& forwarder = Started();
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  const auto first = forwarder.Checkpoint(Soon());
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->epoch, Epoch(1));
  EXPECT_EQ(first->sequence, 2u);
  EXPECT_EQ(first->bytes, 4096u);
  EXPECT_EQ(forwarder.Checkpoint(Soon())->epoch, Epoch(2));
  EXPECT_EQ(forwarder.state().checkpoints.at("ok"), 2u);
}

TEST_F(ForwarderTest, ACheckpointWhoseAnswerWasLostIsAnsweredAfterTheReconnect) {
  Forwarder& forwarder = Started();
  transport_.Set([](auto& b) { b.lose_answers = true; });
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  const auto result = forwarder.Checkpoint(Soon());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->epoch, Epoch(1));
  EXPECT_EQ(transport_.seen().committed, Epoch(1));
}

TEST_F(ForwarderTest, ARepeatedCheckpointReturnsTheEpochOfTheFirstOnesMarker) {
  transport_.Set([](auto& b) { b.reachable = false; });
  Forwarder& forwarder = Make();
  ASSERT_TRUE(forwarder.Start().ok());
  const auto first = forwarder.Checkpoint(base::Deadline::After(absl::Milliseconds(50)));
  EXPECT_EQ(first.status().code(), absl::StatusCode::kUnavailable);
  transport_.Set([](auto& b) { b.reachable = true; });
  ASSERT_TRUE(Eventually([&] { return transport_.seen().committed == Epoch(1); }));
  const auto second = forwarder.Checkpoint(Soon());
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->epoch, Epoch(1));
  EXPECT_EQ(transport_.seen().committed, Epoch(1));
  EXPECT_EQ(forwarder.Checkpoint(Soon())->epoch, Epoch(2));
}

// The stream breaks before the marker is answered, and it never will be: the next call used to adopt it and time out, for ever.
TEST_F(ForwarderTest, AMarkerWhoseAnswerIsLostForGoodIsRepeated) {
  Forwarder& forwarder = Started();
  transport_.Set([](auto& b) { b.commit = false; });
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  EXPECT_EQ(forwarder.Checkpoint(base::Deadline::After(absl::Milliseconds(30))).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(Eventually([&] { return transport_.seen().received == 2; }));
  transport_.Set([](auto& b) { b.commit = true; });
  transport_.Disconnect();
  const auto result = forwarder.Checkpoint(Soon());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->epoch, Epoch(1));
  EXPECT_EQ(result->sequence, 3u);
  EXPECT_EQ(forwarder.Checkpoint(Soon())->epoch, Epoch(2));
}

TEST_F(ForwarderTest, ALostMarkerThatNobodyWaitsForIsNotRepeated) {
  Forwarder& forwarder = Started();
  transport_.Set([](auto& b) { b.commit = false; });
  EXPECT_FALSE(forwarder.Checkpoint(base::Deadline::After(absl::Milliseconds(30))).ok());
  transport_.Set([](auto& b) { b.commit = true; });
  transport_.Disconnect();
  absl::SleepFor(absl::Milliseconds(200));  // ten heartbeats
  EXPECT_EQ(forwarder.state().next_sequence, 2u);
  EXPECT_EQ(transport_.seen().committed, Epoch(0));
  EXPECT_EQ(forwarder.Checkpoint(Soon())->epoch, Epoch(1));
}

TEST_F(ForwarderTest, AMarkerThatACommitOfTheSecondarysOwnOvertookCountsAsCommitted) {
  Forwarder& forwarder = Started();
  transport_.Set([](auto& b) { b.commit = false; });
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  EXPECT_FALSE(forwarder.Checkpoint(base::Deadline::After(absl::Milliseconds(30))).ok());
  ASSERT_TRUE(Eventually([&] { return transport_.seen().received == 2; }));
  transport_.CommitReceived();
  transport_.CommitReceived();
  transport_.Disconnect();
  const auto result = forwarder.Checkpoint(Soon());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->epoch, Epoch(2));
  EXPECT_EQ(forwarder.state().next_sequence, 3u);  // no other marker was needed
}

TEST_F(ForwarderTest, TheSecondaryMayAskForAMarker) {
  Started();
  transport_.WantCheckpoint();
  EXPECT_TRUE(Eventually([&] { return transport_.seen().committed == Epoch(1); }));
}

TEST_F(ForwarderTest, FencedIsFinal) {
  Forwarder& forwarder = Started();
  transport_.Set([](auto& b) {
    b.refuse = WithReason(absl::FailedPreconditionError("term 4 has taken over"), kReasonFenced);
  });
  transport_.Disconnect();
  ASSERT_TRUE(Eventually([&] { return forwarder.state().fenced; }));
  const size_t attempts = transport_.seen().handshakes.size();
  EXPECT_TRUE(HasReason(forwarder.Write(0, 0, Block('a')), kReasonFenced));
  EXPECT_TRUE(HasReason(forwarder.Checkpoint(Soon()).status(), kReasonFenced));
  EXPECT_EQ(forwarder.state().sync_state, SyncState::kDiverged);
  EXPECT_THAT(forwarder.errors().errors(), SizeIs(1));
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(transport_.seen().handshakes.size(), attempts);
}

TEST_F(ForwarderTest, NotRunningIsTriedAgainWithoutAnError) {
  transport_.Set([](auto& b) {
    b.refuse = WithReason(absl::FailedPreconditionError("not started yet"), kReasonNotRunning);
  });
  Forwarder& forwarder = Make();
  ASSERT_TRUE(forwarder.Start().ok());
  ASSERT_TRUE(Eventually([&] { return transport_.seen().handshakes.size() >= 3; }));
  EXPECT_THAT(forwarder.errors().errors(), IsEmpty());
  transport_.Set([](auto& b) { b.refuse = absl::OkStatus(); });
  EXPECT_TRUE(forwarder.WaitForAnswer(Soon()).connected);
}

TEST_F(ForwarderTest, TheSameFrameDamagedThreeTimesIsLatched) {
  Forwarder& forwarder = Started();
  transport_.Set([](auto& b) { b.crc_failures = 2; });
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  ASSERT_TRUE(AllReceived());
  EXPECT_THAT(forwarder.errors().errors(), IsEmpty());
  transport_.Set([](auto& b) { b.crc_failures = 3; });
  ASSERT_TRUE(forwarder.Write(0, 4096, Block('b')).ok());
  ASSERT_TRUE(AllReceived());
  const auto errors = forwarder.errors().errors();
  ASSERT_THAT(errors, SizeIs(1));
  EXPECT_EQ(errors[0].code, absl::StatusCode::kDataLoss);
  EXPECT_THAT(errors[0].message, HasSubstr("damaged 3 times"));
  EXPECT_EQ(forwarder.state().failures.at("checksum"), 5u);
}

TEST_F(ForwarderTest, AnIncompleteStandbyIsSaidAtOnce) {
  transport_.Set([](auto& b) { b.incomplete = true; });
  Forwarder& forwarder = Started();
  EXPECT_EQ(forwarder.state().sync_state, SyncState::kBehind);
  EXPECT_THAT(forwarder.errors().errors(), SizeIs(1));
  EXPECT_TRUE(forwarder.Write(0, 0, Block('a')).ok()) << "nothing is skipped";
  EXPECT_TRUE(HasReason(forwarder.Checkpoint(Soon()).status(), kReasonIncomplete));
}

TEST_F(ForwarderTest, ADrainedStreamGoesOnWithItsNumbersAndASkippedWriteBeginsANewOne) {
  Forwarder& forwarder = Started();
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  ASSERT_TRUE(forwarder.Stop(true, Soon()).ok());
  const ResumePoint resume = forwarder.resume_point();
  EXPECT_EQ(resume.next_sequence, 2u);
  EXPECT_EQ(resume.stream_id, transport_.seen().stream_id);
  ASSERT_TRUE(forwarder.Start({.resume = resume}).ok());
  EXPECT_TRUE(forwarder.WaitForAnswer(Soon()).connected);
  EXPECT_EQ(transport_.seen().stream_id, resume.stream_id);
  EXPECT_EQ(forwarder.state().next_sequence, 2u);
  ASSERT_TRUE(forwarder.Stop(true, Soon()).ok());
  EXPECT_FALSE(forwarder.Write(0, 0, Block('b')).ok());
  EXPECT_EQ(forwarder.resume_point().stream_id, 0u);
  ASSERT_TRUE(forwarder.Start({.resume = resume}).ok());
  EXPECT_TRUE(forwarder.WaitForAnswer(Soon()).connected);
  EXPECT_NE(transport_.seen().stream_id, resume.stream_id);
}

TEST_F(ForwarderTest, AStartBeginsANewStreamAtItsFirstSequence) {
  Forwarder& forwarder = Started();
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  ASSERT_TRUE(forwarder.Checkpoint(Soon()).ok());
  ASSERT_TRUE(forwarder.Stop(true, Soon()).ok());
  const uint64_t stream = transport_.seen().stream_id;
  transport_.StartAfresh();
  ASSERT_TRUE(forwarder.Start().ok());
  EXPECT_TRUE(forwarder.WaitForAnswer(Soon()).connected);
  const ForwarderState state = forwarder.state();
  EXPECT_NE(transport_.seen().stream_id, stream);
  EXPECT_EQ(transport_.seen().handshakes.back().first_available_sequence, 1u);
  EXPECT_EQ(transport_.seen().handshakes.back().last_committed_epoch, Epoch());
  EXPECT_EQ(state.next_sequence, 1u);
  EXPECT_EQ(state.committed_epoch, Epoch());
  EXPECT_FALSE(state.incomplete);
  ASSERT_TRUE(forwarder.Write(0, 4096, Block('b')).ok());
  const auto checkpoint = forwarder.Checkpoint(Soon());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->epoch, Epoch(1));
  EXPECT_EQ(checkpoint->sequence, 2u);
}

TEST_F(ForwarderTest, ADrainThatMissesItsDeadlineLeavesItRunning) {
  transport_.Set([](auto& b) { b.reachable = false; });
  Forwarder& forwarder = Make();
  ASSERT_TRUE(forwarder.Start().ok());
  ASSERT_TRUE(forwarder.Write(0, 0, Block('a')).ok());
  EXPECT_EQ(forwarder.Stop(true, base::Deadline::After(absl::Milliseconds(50))).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_TRUE(forwarder.state().running);
  transport_.Set([](auto& b) { b.reachable = true; });
  EXPECT_TRUE(forwarder.Stop(true, Soon()).ok());
}

// Several writers, markers between them, a connection that breaks again and again: nothing is lost, doubled or damaged.
TEST_F(ForwarderTest, ManyWritersOverABreakingConnectionLeaveEqualDisks) {
  ForwarderOptions options = Options();
  options.window_bytes = 4 << 20;
  options.on_full = OnFull::kBlock;
  Forwarder& forwarder = Started(options);
  constexpr int kWriters = 4;
  constexpr uint64_t kShare = kDiskBytes / kWriters;
  std::vector<std::string> shares(kWriters, std::string(kShare, '\0'));
  std::vector<std::thread> threads;
  for (int w = 0; w < kWriters; ++w) {
    threads.emplace_back([&, w] {
      std::mt19937 random(static_cast<uint32_t>(w));
      for (int i = 0; i < 400; ++i) {
        const uint64_t length = 512 * (1 + random() % (i % 10 == 0 ? 1000 : 16));
        const uint64_t offset = 512 * (random() % ((kShare - length) / 512));
        const char c = static_cast<char>('a' + random() % 26);
        shares[w].replace(offset, length, std::string(length, c));
        EXPECT_TRUE(forwarder.Write(0, w * kShare + offset, std::string(length, c)).ok());
      }
    });
  }
  std::atomic<bool> done{false};
  std::thread breaker([&] {
    while (!done) {
      absl::SleepFor(absl::Milliseconds(15));
      transport_.Disconnect();
    }
  });
  std::thread checkpoints([&] {
    uint64_t last = 0;
    while (!done) {
      const auto result = forwarder.Checkpoint(Soon());
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_GT(result->epoch.value(), last);
      last = result->epoch.value();
      absl::SleepFor(absl::Milliseconds(5));
    }
  });
  for (std::thread& thread : threads) thread.join();
  done = true;
  breaker.join();
  checkpoints.join();
  ASSERT_TRUE(forwarder.Stop(true, Soon()).ok());
  std::string expected;
  for (const std::string& share : shares) expected += share;
  EXPECT_TRUE(transport_.disk(0) == expected);
  EXPECT_THAT(forwarder.errors().errors(), IsEmpty());
}

}  // namespace
}  // namespace understudy::client::forwarder_test
