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

namespace understudy::client {
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
}

}  // namespace
}  // namespace understudy::client
