// docs/semantics.md section 2, each cell over a real connection with its code and text.
#include "client/rpc/agent_service.h"

#include <cstdlib>
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/rpc/control_client.h"
#include "client/rpc/write_stream.h"
#include "proto/grpc_host.h"
#include "storage/base/reason.h"
#include "tests/client/rpc/fake_primary_writes.h"

namespace understudy::client::agent_service_test {
namespace {

using ::testing::HasSubstr;
constexpr absl::Duration kTimeout = absl::Seconds(5);

class AgentServiceTest : public ::testing::Test {
 protected:
  AgentServiceTest() : pool_("test-rpc", 4) {
    char name[] = "/tmp/understudy-service-XXXXXX";
    directory_ = mkdtemp(name);
    const std::string standby = "unix:" + directory_ + "/s.sock";
    writes_ = std::make_unique<FakePrimaryWrites>(standby);
    stream_ = std::make_unique<WriteStream>(standby);
    primary_ = *Primary::Create(
        {.forwarder = {.group = "vm1"}, .volumes = {{.name = "disk0", .size_bytes = 1 << 20}}},
        base::FileSystem::Posix(), *AgentState::Open(base::FileSystem::Posix(), ""), stream_.get());
    service_ = std::make_unique<AgentService>(primary_.get(), &pool_);
    host_ = *proto::GrpcHost::Start("unix:" + directory_ + "/a.sock", {service_.get()});
    client_ = *ControlClient::Create(host_->address());
  }
  ~AgentServiceTest() override {
    host_.reset();
    service_.reset();
    primary_.reset();
    std::filesystem::remove_all(directory_);
  }

  absl::StatusOr<v1::StartResponse> Start(v1::Mode mode, const std::string& group = "vm1") {
    v1::StartRequest request;
    request.set_group(group);
    request.set_mode(mode);
    return client_->Start(request, kTimeout);
  }
  absl::StatusOr<v1::StopResponse> Stop(bool failover) {
    v1::StopRequest request;
    request.set_group("vm1");
    request.set_failover(failover);
    return client_->Stop(request, kTimeout);
  }
  template <typename Request>
  static Request Named() {
    Request request;
    request.set_group("vm1");
    return request;
  }
  static void Expect(const absl::Status& status, absl::StatusCode code, const std::string& text) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }

  std::string directory_;
  base::WorkerPool pool_;
  std::unique_ptr<FakePrimaryWrites> writes_;
  std::unique_ptr<WriteStream> stream_;
  std::unique_ptr<Primary> primary_;
  std::unique_ptr<AgentService> service_;
  std::unique_ptr<proto::GrpcHost> host_;
  std::unique_ptr<ControlClient> client_;
};

TEST_F(AgentServiceTest, StageNone) {
  Expect(Start(v1::MODE_SECONDARY).status(), absl::StatusCode::kInvalidArgument,
         "The parameter mode's value is invalid, needs 0, but got 1");
  Expect(Start(v1::MODE_UNSPECIFIED).status(), absl::StatusCode::kInvalidArgument,
         "Missing the option mode");
  Expect(Start(static_cast<v1::Mode>(9)).status(), absl::StatusCode::kInvalidArgument,
         "The option mode's value should be primary or secondary");
  EXPECT_TRUE(client_->Checkpoint(Named<v1::CheckpointRequest>(), kTimeout)->ignored());
  for (const bool failover : {false, true}) {
    Expect(Stop(failover).status(), absl::StatusCode::kFailedPrecondition,
           "Block replication is not running");
  }
  Expect(client_->GetError(Named<v1::GetErrorRequest>(), kTimeout).status(),
         absl::StatusCode::kFailedPrecondition, "Block replication is not running");
  EXPECT_TRUE(client_->Remove(Named<v1::RemoveRequest>(), kTimeout).ok());
}

TEST_F(AgentServiceTest, ARepeatedCallGetsTheFirstAnswer) {
  auto start = Named<v1::StartRequest>();
  start.set_mode(v1::MODE_PRIMARY);
  start.set_request_id("start-1");
  const auto started = client_->Start(start, kTimeout);
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_EQ(client_->Start(start, kTimeout)->SerializeAsString(), started->SerializeAsString());
  ASSERT_TRUE(primary_->volumes()[0]->Write(0, std::string(4096, 'a'), false).ok());
  auto checkpoint = Named<v1::CheckpointRequest>();
  checkpoint.set_request_id("checkpoint-1");
  for (int i = 0; i < 2; ++i) {
    const auto committed = client_->Checkpoint(checkpoint, kTimeout);
    ASSERT_TRUE(committed.ok()) << committed.status();
    EXPECT_EQ(committed->epoch(), 1u);
  }
  auto stop = Named<v1::StopRequest>();
  stop.set_request_id("checkpoint-1");
  Expect(client_->Stop(stop, kTimeout).status(), absl::StatusCode::kInvalidArgument,
         "names another call");
  stop.set_request_id("stop-1");
  for (int i = 0; i < 2; ++i) {
    const auto stopped = client_->Stop(stop, kTimeout);
    ASSERT_TRUE(stopped.ok()) << stopped.status();
    EXPECT_FALSE(stopped->ignored());
    EXPECT_EQ(stopped->term(), started->term());
  }
}

TEST_F(AgentServiceTest, StageRunningThenDone) {
  const auto started = Start(v1::MODE_PRIMARY);
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_EQ(started->stage(), v1::STAGE_RUNNING);
  EXPECT_EQ(started->term(), 2u);
  EXPECT_EQ(started->incarnation().size(), 16u);
  for (const v1::Mode mode : {v1::MODE_PRIMARY, v1::MODE_SECONDARY}) {
    Expect(Start(mode).status(), absl::StatusCode::kFailedPrecondition,
           "Block replication is running or done");
  }
  ASSERT_TRUE(primary_->volumes()[0]->Write(0, std::string(4096, 'a'), false).ok());
  const auto checkpoint = client_->Checkpoint(Named<v1::CheckpointRequest>(), kTimeout);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->epoch(), 1u);
  const auto status = client_->GetStatus(Named<v1::GetStatusRequest>(), kTimeout);
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->groups(0).mode(), v1::MODE_PRIMARY);
  EXPECT_TRUE(status->groups(0).connected());
  EXPECT_EQ(status->groups(0).forward_queue_bytes(), 0u);
  EXPECT_EQ(status->groups(0).acknowledged_sequence(), 2u);
  EXPECT_EQ(client_->GetError(Named<v1::GetErrorRequest>(), kTimeout)->errors_size(), 0);
  EXPECT_EQ(client_->Remove(Named<v1::RemoveRequest>(), kTimeout).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Stop(false)->stage(), v1::STAGE_DONE);
  EXPECT_TRUE(Start(v1::MODE_PRIMARY)->ignored());
  EXPECT_TRUE(Start(v1::MODE_SECONDARY)->ignored());
  EXPECT_TRUE(Stop(true)->ignored());
  EXPECT_EQ(client_->GetError(Named<v1::GetErrorRequest>(), kTimeout)->errors_size(), 0);
  EXPECT_TRUE(client_->Remove(Named<v1::RemoveRequest>(), kTimeout).ok());
}

TEST_F(AgentServiceTest, ErrorsThatAreOverCanBeAcknowledged) {
  const auto clear = [&] { return client_->ClearError(Named<v1::ClearErrorRequest>(), kTimeout); };
  Expect(clear().status(), absl::StatusCode::kFailedPrecondition,
         "Block replication is not running");
  writes_->Refuse({grpc::StatusCode::INVALID_ARGUMENT, "other volumes"});
  ASSERT_TRUE(Start(v1::MODE_PRIMARY).ok());
  const auto errors = [&] { return *client_->GetError(Named<v1::GetErrorRequest>(), kTimeout); };
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (errors().errors_size() == 0 && absl::Now() < deadline)
    absl::SleepFor(absl::Milliseconds(5));
  EXPECT_GT(errors().disconnected_seconds(), 0);
  Expect(clear().status(), absl::StatusCode::kFailedPrecondition, "the standby is not connected");
  EXPECT_EQ(errors().errors_size(), 1);
  writes_->Refuse(grpc::Status::OK);
  while (errors().disconnected_seconds() > 0 && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(errors().errors_size(), 1);
  const auto cleared = clear();
  ASSERT_TRUE(cleared.ok()) << cleared.status();
  ASSERT_EQ(cleared->errors_size(), 1);
  EXPECT_EQ(cleared->errors(0).operation(), "connect");
  EXPECT_EQ(errors().errors_size(), 0);
  EXPECT_TRUE(clear()->ignored());
}

TEST_F(AgentServiceTest, AnAgentHasNoHistoryAndNoClones) {
  const auto expect = [](const absl::Status& status) {
    Expect(status, absl::StatusCode::kFailedPrecondition, "ask the standby's service");
    EXPECT_TRUE(HasReason(status, kReasonWrongMode));
  };
  expect(client_->History(Named<v1::HistoryRequest>(), kTimeout).status());
  expect(client_->Clone(Named<v1::CloneRequest>(), kTimeout).status());
  expect(client_->ListClones(Named<v1::ListClonesRequest>(), kTimeout).status());
  expect(client_->RemoveClone(Named<v1::RemoveCloneRequest>(), kTimeout).status());
}

// Its stages and its connection, the commit that the standby acknowledged, and the end.
TEST_F(AgentServiceTest, AWatchTellsOfStagesConnectionsAndCheckpoints) {
  v1::WatchRequest request;
  request.set_group("vm1");
  const auto call = client_->Watch(request);
  const auto snapshot = call->Read();
  ASSERT_TRUE(snapshot.has_value());
  EXPECT_EQ(snapshot->kind(), v1::WATCH_KIND_SNAPSHOT);
  EXPECT_EQ(snapshot->status().mode(), v1::MODE_PRIMARY);
  EXPECT_EQ(call->Read()->kind(), v1::WATCH_KIND_CURRENT);
  ASSERT_TRUE(Start(v1::MODE_PRIMARY).ok());
  EXPECT_EQ(call->Read()->stage(), v1::STAGE_RUNNING);
  const auto connected = call->Read();
  EXPECT_EQ(connected->kind(), v1::WATCH_KIND_CONNECTED);
  EXPECT_EQ(connected->term(), 2u);
  EXPECT_TRUE(connected->status().connected());
  ASSERT_TRUE(client_->Checkpoint(Named<v1::CheckpointRequest>(), kTimeout).ok());
  const auto checkpoint = call->Read();
  EXPECT_EQ(checkpoint->kind(), v1::WATCH_KIND_CHECKPOINT);
  EXPECT_EQ(checkpoint->epoch(), 1u);
  ASSERT_TRUE(Stop(false).ok());
  EXPECT_EQ(call->Read()->kind(), v1::WATCH_KIND_DISCONNECTED);
  EXPECT_EQ(call->Read()->stage(), v1::STAGE_DONE);
  service_->EndStreams();
  EXPECT_FALSE(call->Read().has_value());
  EXPECT_EQ(call->Finish().code(), absl::StatusCode::kUnavailable);
}

TEST_F(AgentServiceTest, CallsThatCannotConcernThisAgent) {
  const absl::Status unknown = Start(v1::MODE_PRIMARY, "other").status();
  Expect(unknown, absl::StatusCode::kNotFound, "this agent has group vm1");
  EXPECT_TRUE(HasReason(unknown, kReasonUnknownGroup));
  Expect(client_->Open(Named<v1::OpenRequest>(), kTimeout).status(),
         absl::StatusCode::kFailedPrecondition, "command line");
  v1::StopRequest stale = Named<v1::StopRequest>();
  stale.mutable_expected()->set_term(77);
  EXPECT_TRUE(HasReason(client_->Stop(stale, kTimeout).status(), kReasonFenced));
  EXPECT_EQ(client_->ListGroups({}, kTimeout)->groups(0), "vm1");
  v1::WatchRequest other;
  other.set_group("other");
  const auto watch = client_->Watch(other);
  EXPECT_FALSE(watch->Read().has_value());
  EXPECT_TRUE(HasReason(watch->Finish(), kReasonUnknownGroup));
}

}  // namespace
}  // namespace understudy::client::agent_service_test
