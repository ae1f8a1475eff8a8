// Latched errors over a restart of the service, and what an incomplete group says.
#include <fstream>
#include <functional>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/reason.h"
#include "tests/server/harness.h"
#include "tests/testing/fault_file_system.h"
#include "tests/testing/temp_dir.h"

namespace understudy::server::group_errors_test {
namespace {

using ::testing::AllOf;
using testing::FakeReplica;
using testing::FakeStore;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::OneVolume;
using ::testing::SizeIs;
using testing::Soon;
using testing::TestAgent;
using testing::TestFrame;

// A service whose replicas outlive it, as a data directory does.
class GroupErrorsTest : public ::testing::Test {
 protected:
  GroupErrorsTest() {
    Restart();
    service_->Open(Mode::kSecondary, OneVolume("vm1"), Soon()).value();
    group().Start(true, {}, Soon()).value();
  }

  // As kill -9: nothing but what is in the file comes back.
  void Restart() {
    service_.reset();
    service_ = std::make_unique<Service>(store_, base::Clock::Real(), files_, dir_.path());
  }
  Group& group() { return *service_->FindGroup("vm1").value(); }
  FakeReplica& replica() { return *store_.replicas.at("vm1"); }
  std::vector<base::LatchedError> Errors() { return group().GetError().value().errors; }
  std::string file() const { return dir_.path() + "/errors/vm1.errors"; }
  bool FileExists() { return base::FileSystem::Posix().Exists(file()); }

  testing::TempDir dir_;
  testing::FaultFileSystem files_;
  FakeStore store_;
  std::unique_ptr<Service> service_;
};

TEST_F(GroupErrorsTest, ErrorsSurviveARestartWithEveryFieldAndGoOnCounting) {
  const absl::Status full = absl::ResourceExhaustedError("/data: No space left on device");
  group().Latch(VolumeId(0), "write", {4096, 8192}, full);
  group().Latch(VolumeId(0), "write", {0, 512}, full);
  const base::LatchedError before = Errors().at(0);
  group().StoreErrors();
  Restart();
  ASSERT_THAT(Errors(), SizeIs(1));
  const base::LatchedError after = Errors().at(0);
  EXPECT_EQ(after.volume, "disk0");
  EXPECT_EQ(after.operation, "write");
  EXPECT_EQ(after.code, absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(after.message, "/data: No space left on device");
  EXPECT_EQ(after.range, (ByteRange{0, 512}));
  EXPECT_EQ(after.count, 2u);
  EXPECT_EQ(after.bytes, 4608u);
  EXPECT_EQ(after.first, absl::FromUnixMicros(absl::ToUnixMicros(before.first)));
  group().Latch(VolumeId(0), "write", {0, 512}, full);
  ASSERT_THAT(Errors(), SizeIs(1));
  EXPECT_EQ(Errors()[0].count, 3u);
}

TEST_F(GroupErrorsTest, AnOrderlyShutdownStoresAndSoDoesASecondOfTime) {
  group().Latch(VolumeId(0), "apply", {}, absl::InternalError("Input/output error"));
  service_->Shutdown();
  EXPECT_TRUE(FileExists());
  Restart();
  EXPECT_THAT(Errors(), SizeIs(1));
  group().Latch(VolumeId(0), "read", {}, absl::DataLossError("bad block"));
  const base::Deadline deadline = Soon();
  const auto stored = [&] {
    const auto text = base::FileSystem::Posix().ReadWholeFile(file());
    return text.ok() && text->find("bad block") != std::string::npos;
  };
  while (!stored() && !deadline.over()) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_TRUE(stored());
}

TEST_F(GroupErrorsTest, AStopForgetsThemOverARestartToo) {
  group().Latch(VolumeId(0), "apply", {}, absl::InternalError("dead"));
  group().StoreErrors();
  ASSERT_TRUE(group().Stop({}, Soon()).ok());
  EXPECT_FALSE(FileExists());
  Restart();
  EXPECT_THAT(Errors(), IsEmpty());
}

TEST_F(GroupErrorsTest, WhatACrashLeftOfAClearedFileIsNotBelieved) {
  group().Latch(VolumeId(0), "apply", {}, absl::InternalError("dead"));
  group().StoreErrors();
  // The failover is durable, its clearing has not reached the file.
  const std::string text = base::FileSystem::Posix().ReadWholeFile(file()).value();
  ASSERT_TRUE(group().Stop({.failover = true}, Soon()).ok());
  service_.reset();
  std::ofstream(file()) << text;
  Restart();
  EXPECT_EQ(group().Status().replica.stage, Stage::kFailover);
  EXPECT_THAT(Errors(), IsEmpty());
}

TEST_F(GroupErrorsTest, ADamagedFileKeepsNoGroupFromOpening) {
  group().Latch(VolumeId(0), "apply", {}, absl::InternalError("dead"));
  group().StoreErrors();
  service_.reset();
  std::ofstream(file(), std::ios::app) << "garbage";
  Restart();
  EXPECT_THAT(Errors(), IsEmpty());
  group().Latch(VolumeId(0), "apply", {}, absl::InternalError("dead again"));
  group().StoreErrors();
  Restart();
  EXPECT_THAT(Errors(), SizeIs(1));
}

TEST_F(GroupErrorsTest, ARemovedGroupLeavesNothingToTheNextOfItsName) {
  ASSERT_TRUE(group().Stop({}, Soon()).ok());
  const std::shared_ptr<Group> removed = service_->FindGroup("vm1").value();
  removed->Latch(VolumeId(0), "disk_write", {}, absl::InternalError("dead"));
  removed->StoreErrors();
  EXPECT_TRUE(FileExists());
  ASSERT_TRUE(service_->Remove("vm1", false, {}, Soon()).ok());
  EXPECT_FALSE(FileExists());
  removed->Latch(VolumeId(0), "disk_write", {}, absl::InternalError("late"));
  removed->StoreErrors();
  EXPECT_FALSE(FileExists());
}

// ---- acknowledged errors ---------------------------------------------------------------------------------------------------

TEST_F(GroupErrorsTest, WhatIsOverCanBeAcknowledgedAndStaysSo) {
  group().Latch(VolumeId(0), "disk_write", {0, 512}, absl::InternalError("Input/output error"));
  group().Latch(VolumeId(0), "apply", {}, absl::InternalError("Input/output error"));
  const auto cleared = group().ClearError({});
  ASSERT_TRUE(cleared.ok()) << cleared.status();
  EXPECT_THAT(cleared->errors, SizeIs(2));
  EXPECT_THAT(Errors(), IsEmpty());
  EXPECT_THAT(group().ClearError({})->errors, IsEmpty());
  Restart();
  EXPECT_THAT(Errors(), IsEmpty());
  group().Latch(VolumeId(0), "disk_write", {0, 512}, absl::InternalError("Input/output error"));
  EXPECT_EQ(Errors().at(0).count, 1u);
  EXPECT_EQ(group().ClearError({.term = Term(77)}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(GroupErrorsTest, WhoAcknowledgesIsToldWhenThatCannotBeStored) {
  group().Latch(VolumeId(0), "disk_write", {0, 512}, absl::InternalError("Input/output error"));
  group().StoreErrors();
  files_.SetHook([](testing::FileOperation operation, const std::string&) {
    return operation == testing::FileOperation::kRemove
               ? absl::PermissionDeniedError("Read-only file system")
               : absl::OkStatus();
  });
  EXPECT_THAT(std::string(group().ClearError({}).status().message()),
              AllOf(HasSubstr("group vm1: "), HasSubstr("until a restart: Read-only")));
  EXPECT_THAT(Errors(), IsEmpty());
  EXPECT_FALSE(group().ClearError({}).ok()) << "it is still so";
  files_.SetHook(nullptr);
  EXPECT_TRUE(group().ClearError({}).ok());
  EXPECT_FALSE(FileExists());
}

TEST_F(GroupErrorsTest, NoneIsClearedWhileTheCauseOfOneLasts) {
  using State = storage::ReplicaState;
  struct Case {
    std::string operation;
    absl::Status error;
    std::function<void(State&)> lasts;
    std::function<void(State&)> over;
    std::string told;
  };
  const absl::Status io = absl::InternalError("Input/output error");
  const absl::Status missed = WithReason(absl::AbortedError("missed"), kReasonIncomplete);
  for (const Case& one : {
           Case{"apply", io, [&](State& state) { state.job_failure = io; },
                [](State& state) { state.job_failure = absl::OkStatus(); }, "tried again"},
           Case{"open", io, [](State& state) { state.failure = absl::NotFoundError("/disks/vm1"); },
                [](State& state) { state.failure = absl::OkStatus(); }, "/disks/vm1"},
           Case{"write", missed, [](State& state) { state.incomplete = true; },
                [](State& state) { state.incomplete = false; }, "until a resync has ended"},
       }) {
    SCOPED_TRACE(one.operation);
    group().Latch(VolumeId(0), "disk_write", {}, io);  // this one is over
    group().Latch(VolumeId(0), one.operation, {}, one.error);
    replica().Mutate(one.lasts);
    const absl::Status refused = group().ClearError({}).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(refused.message()),
                AllOf(HasSubstr("group vm1"), HasSubstr("of operation "), HasSubstr("volume disk0"),
                      HasSubstr(one.told)));
    EXPECT_THAT(Errors(), SizeIs(2));
    replica().Mutate(one.over);
    EXPECT_TRUE(group().ClearError({}).ok());
    EXPECT_THAT(Errors(), IsEmpty());
  }
}

TEST_F(GroupErrorsTest, DamageIsOverWhenAScrubSaysSo) {
  group().Latch(VolumeId(0), "read", {0, 4096}, absl::DataLossError("checksum mismatch"));
  EXPECT_THAT(std::string(group().ClearError({}).status().message()),
              HasSubstr("understudyctl scrub vm1 --wait"));
  ASSERT_TRUE(group().Scrub({}, {}).ok());
  replica().EndScrub(storage::ScrubOutcome::kClean);
  EXPECT_THAT(Errors(), IsEmpty());
}

TEST_F(GroupErrorsTest, ARefusedWriteIsOverWhenOneIsTakenAgain) {
  replica().FailAppend(absl::ResourceExhaustedError("no room"));
  TestAgent refused(*service_);
  ASSERT_TRUE(refused.Greet(TestAgent::Hello("vm1")));
  refused.Send(TestFrame().Add(OperationKind::kFlush));
  EXPECT_EQ(refused.sink.End().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(group().ClearError({}).status().message()),
              HasSubstr("none was taken since"));
  replica().FailAppend(absl::OkStatus());
  TestAgent taken(*service_);
  ASSERT_TRUE(taken.Greet(TestAgent::Hello("vm1")));
  taken.Send(TestFrame().Add(OperationKind::kFlush));
  ASSERT_TRUE(taken.sink.AckThat([](const Ack& ack) { return ack.received_sequence == 1; }));
  EXPECT_TRUE(group().ClearError({}).ok());
}

TEST_F(GroupErrorsTest, AnEndThatIsGoneIsNoErrorAndSaysSinceWhen) {
  EXPECT_GT(group().GetError()->disconnected, absl::ZeroDuration());
  TestAgent agent(*service_);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  EXPECT_EQ(group().GetError()->disconnected, absl::ZeroDuration());
  ASSERT_TRUE(group().Stop({.failover = true}, Soon()).ok());
  EXPECT_EQ(group().GetError()->disconnected, absl::ZeroDuration()) << "none is wanted";
}

// ---- missed writes --------------------------------------------------------------------------------------------------------

TEST_F(GroupErrorsTest, ASkippedWriteIsNamedByTheCheckpointAndGetErrorOverARestartToo) {
  {
    TestAgent agent(*service_);
    ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
    TestFrame frame;
    frame.operations.push_back(
        {.volume = 0, .kind = OperationKind::kIncomplete, .offset = 8192, .length = 4096});
    agent.Send(frame);
    ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.received_sequence == 1; }));
  }
  for (const bool restarted : {false, true}) {
    if (restarted) {
      group().StoreErrors();
      Restart();
    }
    ASSERT_THAT(Errors(), SizeIs(1)) << restarted;
    EXPECT_EQ(Errors()[0].volume, "disk0");
    EXPECT_EQ(Errors()[0].range, (ByteRange{8192, 12288}));
    EXPECT_EQ(Errors()[0].reason, kReasonIncomplete);
    for (const absl::Status& refused :
         {group().Checkpoint({}, Soon()).status(), group().Stop({}, Soon()).status()}) {
      EXPECT_EQ(refused.code(), absl::StatusCode::kAborted);
      EXPECT_TRUE(HasReason(refused, kReasonIncomplete));
      EXPECT_THAT(std::string(refused.message()),
                  HasSubstr("volume disk0: 1 time, 4096 bytes, the newest [8192, 12288)"));
    }
  }
}

TEST_F(GroupErrorsTest, ARangeThatTheVolumeDoesNotHaveIsNotBelieved) {
  TestAgent agent(*service_);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  TestFrame frame;
  frame.operations.push_back(
      {.volume = 7, .kind = OperationKind::kIncomplete, .offset = 1, .length = ~uint64_t{0}});
  agent.Send(frame);
  ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.received_sequence == 1; }));
  ASSERT_THAT(Errors(), SizeIs(1));
  EXPECT_EQ(Errors()[0].volume, "");
  EXPECT_TRUE(Errors()[0].range.empty());
  EXPECT_THAT(std::string(group().Checkpoint({}, Soon()).status().message()),
              HasSubstr("which ones is not known here"));
}

TEST_F(GroupErrorsTest, ARefusedWriteNamesItsVolumeAndExtent) {
  TestAgent agent(*service_);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  replica().FailAppend(absl::ResourceExhaustedError("No space left on device"));
  agent.Send(TestFrame().Data(4096, std::string(512, 'x')).Data(0, std::string(512, 'y')));
  EXPECT_EQ(agent.sink.End().code(), absl::StatusCode::kResourceExhausted);
  ASSERT_THAT(Errors(), SizeIs(1));
  EXPECT_EQ(Errors()[0].volume, "disk0");
  EXPECT_EQ(Errors()[0].range, (ByteRange{4096, 4608}));
}

TEST_F(GroupErrorsTest, AStreamThatDoesNotContinueTheOneBeforeSaysSo) {
  {
    TestAgent agent(*service_);
    ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  }
  EXPECT_THAT(Errors(), IsEmpty());
  TestAgent agent(*service_);
  Handshake other = TestAgent::Hello("vm1");
  other.stream_id = 100;
  ASSERT_TRUE(agent.Greet(other));
  ASSERT_THAT(Errors(), SizeIs(1));
  EXPECT_THAT(Errors()[0].message,
              AllOf(HasSubstr("agent agent-1 does not continue the stream"),
                    HasSubstr("none needed in tee mode, a resync sends what is missing")));
}

TEST_F(GroupErrorsTest, TheCheckpointThatCommitsAResyncClearsThemAfterARestartToo) {
  TestFrame skipped;
  skipped.operations.push_back(
      {.volume = 0, .kind = OperationKind::kIncomplete, .offset = 8192, .length = 4096});
  const auto wait = [](TestAgent& agent, uint64_t sequence) {
    return agent.sink.AckThat([=](const Ack& ack) { return ack.received_sequence >= sequence; });
  };
  {
    TestAgent agent(*service_);
    ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
    agent.Send(skipped);
    agent.Send(TestFrame().Add(OperationKind::kComplete));
    ASSERT_TRUE(wait(agent, 2));
  }
  group().Latch(VolumeId(0), "apply", {}, absl::InternalError("dead"));
  group().StoreErrors();
  Restart();  // between COMPLETE and its checkpoint
  ASSERT_THAT(Errors(), SizeIs(2));
  ASSERT_TRUE(group().Checkpoint({}, Soon()).ok());
  ASSERT_THAT(Errors(), SizeIs(1));
  EXPECT_EQ(Errors()[0].operation, "apply");
}

}  // namespace
}  // namespace understudy::server::group_errors_test
