// The primary's half of a hand-over: what the VM may still do, what is in the stream, and what a restart makes of it.
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/agent_state.h"
#include "client/primary.h"
#include "tests/client/fake_transport.h"
#include "tests/testing/scripted_clock.h"

namespace understudy::client::handover_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kDiskBytes = 1 << 20;

base::Deadline Soon() { return base::Deadline::After(absl::Seconds(10)); }

class HandoverTest : public ::testing::Test {
 protected:
  HandoverTest() : transport_({kDiskBytes}) {
    char name[] = "/tmp/understudy-handover-XXXXXX";
    directory_ = mkdtemp(name);
    disk_ = directory_ + "/disk.raw";
    auto file = base::FileSystem::Posix().Open(disk_, {.create = true});
    EXPECT_TRUE((*file)->Truncate(kDiskBytes).ok());
  }
  ~HandoverTest() override {
    primary_.reset();
    EXPECT_THAT(transport_.seen().violations, IsEmpty());
    std::filesystem::remove_all(directory_);
  }

  // As a new process on the same state directory.
  Primary& Make(bool tee = true) {
    primary_.reset();
    PrimaryOptions options{
        .forwarder = {.group = "vm1",
                      .heartbeat = absl::Milliseconds(20),
                      .lost_peer = absl::Seconds(20),
                      .backoff_min = absl::Milliseconds(5),
                      .backoff_max = absl::Milliseconds(20)},
        .volumes = {{.name = "disk0", .disk_path = tee ? disk_ : "", .size_bytes = kDiskBytes}}};
    auto state = AgentState::Open(base::FileSystem::Posix(), directory_ + "/state", clock_);
    EXPECT_TRUE(state.ok()) << state.status();
    auto primary =
        Primary::Create(options, base::FileSystem::Posix(), *std::move(state), &transport_);
    EXPECT_TRUE(primary.ok()) << primary.status();
    primary_ = *std::move(primary);
    EXPECT_TRUE(primary_->Resume().ok());
    return *primary_;
  }
  void Started(bool tee = true) {
    ASSERT_TRUE(Make(tee).Start(false, Soon()).ok());
    ASSERT_TRUE(primary_->forwarder().WaitForAnswer(Soon()).connected);
  }
  absl::Status Write(uint64_t offset, char c) {
    return primary_->volumes()[0]->Write(offset, std::string(4096, c), false);
  }
  // The secondary lets nobody in who has handed over, or does again.
  void Refuse(bool refuse) {
    transport_.Set([&](auto& b) {
      b.refuse = refuse ? WithReason(absl::FailedPreconditionError("over"), kReasonHandedOver)
                        : absl::OkStatus();
    });
  }
  bool MarkerSeen() {
    const auto kinds = transport_.seen().kinds;
    return !kinds.empty() && kinds.back() == OperationKind::kHandover;
  }
  void HandOver() {
    transport_.WantHandover();
    ASSERT_TRUE(Eventually([&] { return primary_->handed_over() && MarkerSeen(); }));
    Refuse(true);
  }
  // Of the hand-over, in order: what this process's watchers were told.
  std::vector<base::EventKind> Told() {
    std::vector<base::EventKind> told;
    base::EventJournal::Position position = primary_->journal().End();
    position.number = 0;
    while (position != primary_->journal().End()) {
      const auto reading = primary_->journal().Read(position, "");
      position = reading.position;
      if (reading.event->kind >= base::EventKind::kHandedOver) told.push_back(reading.event->kind);
    }
    return told;
  }
  bool ToldHandedOver() { return Told() == std::vector{base::EventKind::kHandedOver}; }
  std::string Local() { return *base::FileSystem::Posix().ReadWholeFile(disk_); }

  FakeTransport transport_;
  std::string directory_;
  testing::ScriptedClock clock_;  // of the agent's state
  std::string disk_;
  std::unique_ptr<Primary> primary_;
};

TEST_F(HandoverTest, ItIsTheLastOfTheStreamAndTheVmOnlyReadsFromThenOn) {
  Started();
  ASSERT_TRUE(Write(0, 'a').ok());
  HandOver();
  EXPECT_TRUE(HasReason(Write(0, 'b'), kReasonHandedOver));
  Volume& disk = *primary_->volumes()[0];
  EXPECT_TRUE(HasReason(disk.WriteZeroes(0, 4096, ZeroedSpace::kKept, false), kReasonHandedOver));
  EXPECT_TRUE(HasReason(disk.Discard(0, 4096, false), kReasonHandedOver));
  EXPECT_TRUE(disk.Flush().ok());
  std::string out(4096, 'z');
  EXPECT_TRUE(disk.Read(0, out).ok());
  EXPECT_EQ(out[0], 'a');
  EXPECT_TRUE(HasReason(primary_->Checkpoint(Soon()).status(), kReasonHandedOver));
  transport_.WantCheckpoint();
  transport_.WantHandover();
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_TRUE(MarkerSeen());
  EXPECT_TRUE(transport_.disk(0) == Local());
  EXPECT_TRUE(Eventually([&] { return ToldHandedOver(); }));
}

TEST_F(HandoverTest, ForwardModeRefusesToo) {
  Started(/*tee=*/false);
  ASSERT_TRUE(Write(0, 'a').ok());
  HandOver();
  EXPECT_TRUE(HasReason(Write(0, 'b'), kReasonHandedOver));
  EXPECT_TRUE(primary_->volumes()[0]->Flush().ok());
}

TEST_F(HandoverTest, AKilledAgentGoesOnRefusingAndOnWhenItIsTakenBack) {
  Started();
  ASSERT_TRUE(Write(0, 'a').ok());
  HandOver();
  const uint64_t stream = transport_.seen().stream_id;
  ASSERT_TRUE(Eventually([&] {  // what a kill -9 would find
    const auto text = *base::FileSystem::Posix().ReadWholeFile(directory_ + "/state/agent");
    return text.find("next_sequence=3") != std::string::npos;
  }));
  Make();
  EXPECT_TRUE(primary_->handed_over());
  EXPECT_TRUE(HasReason(Write(0, 'b'), kReasonHandedOver));
  Refuse(false);
  ASSERT_TRUE(Eventually([&] { return !primary_->handed_over(); }));
  ASSERT_TRUE(primary_->forwarder().WaitForAnswer(Soon()).connected);
  EXPECT_THAT(Told(), ElementsAre(base::EventKind::kHandoverTakenBack));
  EXPECT_EQ(transport_.seen().stream_id, stream) << "nothing is missing";
  ASSERT_TRUE(Write(0, 'b').ok());
  ASSERT_TRUE(primary_->Checkpoint(Soon()).ok());
  EXPECT_TRUE(transport_.disk(0) == Local());
  Make();
  EXPECT_FALSE(primary_->handed_over());
}

TEST_F(HandoverTest, ALostAnswerIsGivenByTheNextHandshake) {
  Started();
  ASSERT_TRUE(Write(0, 'a').ok());
  transport_.Set([](auto& b) { b.acknowledge = false; });
  transport_.WantHandover();
  ASSERT_TRUE(Eventually([&] { return MarkerSeen(); }));
  Refuse(true);
  transport_.Disconnect();
  ASSERT_TRUE(Eventually([&] {
    const ForwarderState state = primary_->forwarder().state();
    return state.window_bytes == 0 && state.received_sequence + 1 == state.next_sequence;
  }));
  EXPECT_TRUE(primary_->handed_over());
  EXPECT_THAT(primary_->errors(), IsEmpty());
}

TEST_F(HandoverTest, AMarkerThatMadeNothingLetsTheVmWriteAgain) {
  Started();
  transport_.Set([](auto& b) {
    b.acknowledge = false;
    b.incomplete = true;
  });
  transport_.WantHandover();
  ASSERT_TRUE(Eventually([&] { return MarkerSeen(); }));
  EXPECT_TRUE(HasReason(Write(0, 'a'), kReasonHandedOver));
  transport_.Set([](auto& b) { b.acknowledge = true; });
  ASSERT_TRUE(Eventually([&] { return !primary_->handed_over(); }));
  EXPECT_TRUE(Write(0, 'a').ok());
  EXPECT_THAT(Told(), IsEmpty());
}

TEST_F(HandoverTest, WritersUnderWayComeBeforeTheMarkerOrAreRefused) {
  Started();
  std::atomic<uint64_t> answered{0};
  std::vector<std::thread> writers;
  for (uint64_t i = 0; i < 4; ++i) {
    writers.emplace_back([&, i] {
      for (uint64_t n = 0;; ++n) {
        if (!Write(i * (64 << 10) + (n % 16) * 4096, static_cast<char>('a' + n % 26)).ok()) return;
        ++answered;
      }
    });
  }
  ASSERT_TRUE(Eventually([&] { return answered.load() > 100; }));
  HandOver();
  for (std::thread& writer : writers) writer.join();
  EXPECT_TRUE(MarkerSeen());
  EXPECT_TRUE(transport_.disk(0) == Local());
}

TEST_F(HandoverTest, ItOutlivesStopAndOnlyAStartThatIsLetInEndsIt) {
  Started();
  ASSERT_TRUE(Write(0, 'a').ok());
  HandOver();
  ASSERT_TRUE(primary_->Stop(false, Soon()).ok());
  EXPECT_TRUE(HasReason(Write(0, 'b'), kReasonHandedOver));
  ASSERT_TRUE(primary_->Remove(Soon()).ok());
  EXPECT_TRUE(HasReason(Write(0, 'b'), kReasonHandedOver));
  ASSERT_TRUE(primary_->Start(false, Soon()).ok());  // goes on trying
  EXPECT_TRUE(HasReason(Write(0, 'b'), kReasonHandedOver));
  transport_.StartAfresh();
  Refuse(false);
  ASSERT_TRUE(Eventually([&] { return !primary_->handed_over(); }));
  EXPECT_TRUE(Write(0, 'b').ok());
}

TEST_F(HandoverTest, ATakeoverWhileHandedOverStartsAnew) {
  Started();
  HandOver();
  EXPECT_FALSE(primary_->Start(/*takeover=*/false, Soon()).ok());
  transport_.StartAfresh();
  Refuse(false);
  transport_.Set([](auto& b) { b.reachable = true; });
  const auto started = primary_->Start(/*takeover=*/true, Soon());
  ASSERT_TRUE(started.ok()) << started.status();
  ASSERT_TRUE(Eventually([&] { return !primary_->handed_over(); }));
  EXPECT_TRUE(transport_.seen().handshakes.back().takeover);
  EXPECT_TRUE(Write(0, 'b').ok());
}

// The state directory is an older copy: the standby knows better.
TEST_F(HandoverTest, AnAgentThatHasForgottenItIsTold) {
  Started();
  ASSERT_TRUE(Write(0, 'a').ok());
  Refuse(true);
  transport_.Disconnect();
  ASSERT_TRUE(Eventually([&] { return primary_->handed_over(); }));
  EXPECT_TRUE(HasReason(Write(0, 'b'), kReasonHandedOver));
  EXPECT_TRUE(Eventually([&] { return ToldHandedOver(); }));
}

// A forward volume's owner has a disk of its own and may go on when we refuse (QEMU's quorum with vote-threshold=1, a mirror whose job
// ends): what was refused is on that disk and not at the standby.
TEST_F(HandoverTest, WhatAForwardVolumeWasRefusedIsMissingWhenItIsTakenBack) {
  transport_.Set([](auto& b) { b.strict_streams = true; });
  Started(/*tee=*/false);
  ASSERT_TRUE(Write(0, 'a').ok());
  HandOver();
  ASSERT_TRUE(HasReason(Write(0, 'b'),
                        kReasonHandedOver));  // QEMU: "child failed", and its own disk has the 'b'
  transport_.Disconnect();
  Refuse(false);
  ASSERT_TRUE(Eventually([&] { return !primary_->handed_over(); }));
  ASSERT_TRUE(primary_->forwarder().WaitForAnswer(Soon()).connected);
  const auto checkpoint = primary_->Checkpoint(Soon());
  EXPECT_TRUE(HasReason(checkpoint.status(), kReasonIncomplete))
      << "a checkpoint without the 'b' was committed as complete: " << checkpoint.status()
      << ", standby has '" << transport_.disk(0)[0] << "'";
}

// Nobody refuses a VM's writes while the agent is dead.
TEST_F(HandoverTest, AForwardVolumeWhoseAgentWasAwayWhileHandedOverIsNotKnown) {
  transport_.Set([](auto& b) { b.strict_streams = true; });
  Started(/*tee=*/false);
  ASSERT_TRUE(Write(0, 'a').ok());
  HandOver();
  const std::string path = directory_ + "/state/agent";
  ASSERT_TRUE(Eventually([&] {
    const std::string text = *base::FileSystem::Posix().ReadWholeFile(path);
    return text.find("next_sequence=3") != std::string::npos;
  }));
  primary_.reset();  // killed; a day passes, in which the VM runs on with its own disk
  clock_.Advance(absl::Hours(24));
  Refuse(false);  // taken back
  Make(/*tee=*/false);
  ASSERT_TRUE(Eventually([&] { return !primary_->handed_over(); }));
  ASSERT_TRUE(primary_->forwarder().WaitForAnswer(Soon()).connected);
  const auto checkpoint = primary_->Checkpoint(Soon());
  EXPECT_TRUE(HasReason(checkpoint.status(), kReasonIncomplete))
      << "claims to be complete: " << checkpoint.status();
}

}  // namespace
}  // namespace understudy::client::handover_test
