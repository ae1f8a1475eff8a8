// The RPCs over a real connection, on the fake store: codes, reasons and fields as they arrive at a client.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "proto/status_codec.h"
#include "server/rpc/replication_service.h"
#include "server/rpc/write_stream.h"
#include "storage/base/reason.h"
#include "tests/server/harness.h"

namespace understudy::server::rpc_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TestFrame;

class RpcTest : public ::testing::Test {
 protected:
  RpcTest() : replication_(harness_.service, "/run/nbd.sock"), writes_(harness_.service) {
    grpc::ServerBuilder builder;
    builder.RegisterService(&replication_).RegisterService(&writes_);
    server_ = builder.BuildAndStart();
    const auto channel = server_->InProcessChannel({});
    stub_ = v1::Replication::NewStub(channel);
    writes_stub_ = v1::PrimaryWrites::NewStub(channel);
  }
  ~RpcTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  template <typename Request, typename Response>
  absl::Status Call(grpc::Status (v1::Replication::Stub::*method)(grpc::ClientContext*,
                                                                  const Request&, Response*),
                    const Request& request, Response& response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    return proto::FromGrpcStatus((stub_.get()->*method)(&context, request, &response));
  }
  absl::Status Start() {
    v1::StartRequest request;
    request.set_group("vm1");
    request.set_mode(v1::MODE_SECONDARY);
    v1::StartResponse response;
    return Call(&v1::Replication::Stub::Start, request, response);
  }

  // Commits what has been received so far; the epoch.
  uint64_t Checkpoint() {
    v1::CheckpointRequest request;
    request.set_group("vm1");
    v1::CheckpointResponse response;
    EXPECT_TRUE(Call(&v1::Replication::Stub::Checkpoint, request, response).ok());
    return response.epoch();
  }

  testing::Harness harness_;
  ReplicationService replication_;
  PrimaryWritesService writes_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Replication::Stub> stub_;
  std::unique_ptr<v1::PrimaryWrites::Stub> writes_stub_;
};

v1::WriteRequest Hello() {
  v1::WriteRequest request;
  v1::Handshake& handshake = *request.mutable_handshake();
  handshake.set_group("vm1");
  handshake.set_agent_id("agent-1");
  handshake.set_stream_id(5);
  handshake.set_first_available_sequence(1);
  v1::StreamVolume& volume = *handshake.add_volumes();
  volume.set_name("disk0");
  volume.set_size_bytes(1 << 20);
  return request;
}

// The frame as a generated stub would send it, from the bytes that the decoder's tests use.
v1::WriteRequest Parsed(const TestFrame& frame) {
  v1::WriteRequest request;
  EXPECT_TRUE(request.ParseFromString(frame.Encode()));
  return request;
}

TEST_F(RpcTest, OpenStartAndStatusCarryTheirFields) {
  v1::OpenRequest open;
  open.set_group("vm2");
  open.set_mode(v1::MODE_SECONDARY);
  v1::VolumeSpec& volume = *open.add_volumes();
  volume.set_name("a");
  volume.set_top_id("vm2/a");
  volume.set_disk_path("/disks/a");
  volume.set_size_bytes(8192);
  v1::OpenResponse opened;
  ASSERT_TRUE(Call(&v1::Replication::Stub::Open, open, opened).ok());
  EXPECT_EQ(opened.stage(), v1::STAGE_NONE);
  EXPECT_FALSE(opened.ignored());
  ASSERT_TRUE(Call(&v1::Replication::Stub::Open, open, opened).ok());
  EXPECT_TRUE(opened.ignored());

  v1::StartRequest start;
  start.set_group("vm2");
  start.set_mode(v1::MODE_SECONDARY);
  v1::StartResponse started;
  ASSERT_TRUE(Call(&v1::Replication::Stub::Start, start, started).ok());
  EXPECT_EQ(started.stage(), v1::STAGE_RUNNING);
  EXPECT_EQ(started.term(), 1u);
  EXPECT_EQ(started.incarnation(), std::string("\0\0\0\0\0\0\0\7\0\0\0\0\0\0\0\1", 16));

  v1::GetStatusRequest ask;
  ask.set_group("vm2");
  v1::GetStatusResponse status;
  ASSERT_TRUE(Call(&v1::Replication::Stub::GetStatus, ask, status).ok());
  ASSERT_EQ(status.groups_size(), 1);
  EXPECT_EQ(status.groups(0).mode(), v1::MODE_SECONDARY);
  EXPECT_EQ(status.groups(0).sync_state(), v1::SYNC_STATE_DISCONNECTED);
  EXPECT_EQ(status.groups(0).volumes(0).size_bytes(), 8192u);

  v1::ListGroupsResponse list;
  ASSERT_TRUE(Call(&v1::Replication::Stub::ListGroups, v1::ListGroupsRequest(), list).ok());
  EXPECT_THAT(list.groups(), ElementsAre("vm1", "vm2"));
}

TEST_F(RpcTest, RefusalsCarryCodeTextAndReason) {
  v1::OpenRequest open;
  open.set_group("vm9");
  v1::OpenResponse opened;
  EXPECT_EQ(Call(&v1::Replication::Stub::Open, open, opened).message(), "Missing the option mode");
  open.set_mode(static_cast<v1::Mode>(17));
  EXPECT_EQ(Call(&v1::Replication::Stub::Open, open, opened).message(),
            "The option mode's value should be primary or secondary");

  v1::GetErrorRequest ask;
  ask.set_group("vm9");
  v1::GetErrorResponse errors;
  const absl::Status unknown = Call(&v1::Replication::Stub::GetError, ask, errors);
  EXPECT_EQ(unknown.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(HasReason(unknown, kReasonUnknownGroup));

  v1::CheckpointRequest checkpoint;
  checkpoint.set_group("vm1");
  v1::CheckpointResponse answer;
  EXPECT_EQ(Call(&v1::Replication::Stub::Checkpoint, checkpoint, answer).message(),
            "Block replication is not running: group vm1 is in stage NONE; remedy: understudyctl "
            "start vm1 --mode secondary begins it");
  checkpoint.set_mode(v1::CHECKPOINT_MODE_PREPARE);
  const absl::Status prepared = Call(&v1::Replication::Stub::Checkpoint, checkpoint, answer);
  EXPECT_EQ(prepared.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(HasReason(prepared, kReasonWrongMode));
  checkpoint.clear_mode();
  checkpoint.mutable_expected()->set_incarnation("short");
  EXPECT_EQ(Call(&v1::Replication::Stub::Checkpoint, checkpoint, answer).code(),
            absl::StatusCode::kInvalidArgument);

  ASSERT_TRUE(Start().ok());
  v1::RemoveRequest remove;
  remove.set_group("vm1");
  v1::RemoveResponse removed;
  EXPECT_EQ(Call(&v1::Replication::Stub::Remove, remove, removed).message(),
            "Block device is in use by internal backup job: group vm1 is in stage RUNNING; remedy: "
            "understudyctl stop vm1 ends it, with --failover as a failover");
}

TEST_F(RpcTest, HistoryCarriesItsFields) {
  v1::HistoryRequest ask;
  ask.set_group("vm1");
  v1::HistoryResponse history;
  ASSERT_TRUE(Call(&v1::Replication::Stub::History, ask, history).ok());
  EXPECT_EQ(history.stage(), v1::STAGE_NONE);
  EXPECT_EQ(history.epochs_size(), 0);
  ASSERT_TRUE(Start().ok());
  Checkpoint();
  const uint64_t newest = Checkpoint();
  ASSERT_TRUE(Call(&v1::Replication::Stub::History, ask, history).ok());
  EXPECT_EQ(history.stage(), v1::STAGE_RUNNING);
  ASSERT_EQ(history.epochs_size(), 2);
  const v1::HistoryEpoch& epoch = history.epochs(0);
  EXPECT_EQ(epoch.epoch(), newest);
  EXPECT_EQ(epoch.committed_unix_micros(), static_cast<int64_t>(newest) * 1'000'000);
  EXPECT_EQ(epoch.bytes(), 4096u);
  ASSERT_EQ(epoch.volumes_size(), 1);
  EXPECT_EQ(epoch.volumes(0).volume(), "disk0");
  EXPECT_EQ(epoch.volumes(0).bytes(), 4096u);
  EXPECT_FALSE(epoch.on_disk());
}

TEST_F(RpcTest, ACloneIsMadeListedShownAndRemoved) {
  ASSERT_TRUE(Start().ok());
  const uint64_t epoch = Checkpoint();
  Checkpoint();
  v1::CloneRequest clone;
  clone.set_group("vm1");
  clone.set_name("drill");
  clone.set_epoch(epoch);
  clone.set_bytes_max(4096);
  clone.set_time_to_live_micros(90'000'000);
  const absl::Time before = absl::Now();
  v1::CloneResponse made;
  ASSERT_TRUE(Call(&v1::Replication::Stub::Clone, clone, made).ok());
  EXPECT_EQ(made.stage(), v1::STAGE_RUNNING);
  EXPECT_EQ(made.nbd_socket(), "/run/nbd.sock");
  EXPECT_EQ(made.clone().name(), "drill");
  EXPECT_EQ(made.clone().epoch(), epoch);
  EXPECT_EQ(made.clone().bytes_max(), 4096u);
  EXPECT_THAT(made.clone().exports(), ElementsAre("vm1@drill/disk0"));
  const absl::Duration lives = absl::FromUnixMicros(made.clone().expires_unix_micros()) - before;
  EXPECT_GE(lives, absl::Seconds(90) - absl::Milliseconds(1));
  EXPECT_LT(lives, absl::Seconds(110));

  v1::ListClonesRequest ask;
  ask.set_group("vm1");
  v1::ListClonesResponse list;
  ASSERT_TRUE(Call(&v1::Replication::Stub::ListClones, ask, list).ok());
  ASSERT_EQ(list.clones_size(), 1);
  EXPECT_EQ(list.clones(0).expires_unix_micros(), made.clone().expires_unix_micros());
  EXPECT_EQ(harness_.group->Status().clones.size(), 1u);

  v1::RemoveCloneRequest remove;
  remove.set_group("vm1");
  remove.set_name("drill");
  v1::RemoveCloneResponse removed;
  ASSERT_TRUE(Call(&v1::Replication::Stub::RemoveClone, remove, removed).ok());
  EXPECT_EQ(removed.stage(), v1::STAGE_RUNNING);
  EXPECT_EQ(Call(&v1::Replication::Stub::RemoveClone, remove, removed).code(),
            absl::StatusCode::kNotFound);
  clone.set_time_to_live_micros(~0ULL);
  EXPECT_EQ(Call(&v1::Replication::Stub::Clone, clone, made).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(RpcTest, StatusShowsWhatIsKeptAndItsSpace) {
  ASSERT_TRUE(Start().ok());
  Checkpoint();
  ASSERT_TRUE(harness_.group->CreateClone({.name = "drill"}, {}).ok());
  harness_.service.FindExport("vm1/disk0").value()->Connect();
  harness_.replica().Mutate([](storage::ReplicaState& state) {
    state.history_epochs = 3;
    state.usage[0].history_bytes = 77;
    state.overlay_bytes = 900;
    state.overlay_bytes_max = 1000;
    state.overlay_soft_mark = true;
  });
  v1::GetStatusRequest ask;
  ask.set_group("vm1");
  v1::GetStatusResponse status;
  ASSERT_TRUE(Call(&v1::Replication::Stub::GetStatus, ask, status).ok());
  const v1::GroupStatus& group = status.groups(0);
  EXPECT_EQ(group.history_epochs(), 3u);
  EXPECT_EQ(group.volumes(0).history_bytes(), 77u);
  EXPECT_EQ(group.overlay_bytes(), 900u);
  EXPECT_EQ(group.overlay_bytes_max(), 1000u);
  EXPECT_TRUE(group.overlay_soft_mark());
  EXPECT_EQ(group.nbd_connections(), 1u);
  ASSERT_EQ(group.clones_size(), 1);
  EXPECT_EQ(group.clones(0).name(), "drill");
}

TEST_F(RpcTest, AFailoverToAnOlderEpochIsRefusedWhileConnectedUnlessForced) {
  ASSERT_TRUE(Start().ok());
  const uint64_t epoch = Checkpoint();
  Checkpoint();
  harness_.service.FindExport("vm1/disk0").value()->Connect();
  v1::StopRequest stop;
  stop.set_group("vm1");
  stop.set_failover(true);
  stop.set_epoch(epoch);
  v1::StopResponse stopped;
  const absl::Status refused = Call(&v1::Replication::Stub::Stop, stop, stopped);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(HasReason(refused, kReasonInUse));
  stop.set_received(true);
  EXPECT_EQ(Call(&v1::Replication::Stub::Stop, stop, stopped).code(),
            absl::StatusCode::kInvalidArgument);
  stop.set_received(false);
  stop.set_force(true);
  ASSERT_TRUE(Call(&v1::Replication::Stub::Stop, stop, stopped).ok());
  EXPECT_EQ(stopped.epoch(), epoch);
}

TEST_F(RpcTest, AStreamOfAGeneratedStubIsTakenAndAcknowledged) {
  ASSERT_TRUE(Start().ok());
  grpc::ClientContext context;
  const auto stream = writes_stub_->Write(&context);
  v1::WriteRequest hello = Hello();
  hello.mutable_handshake()->set_may_checkpoint(true);
  ASSERT_TRUE(stream->Write(hello));
  v1::WriteResponse response;
  ASSERT_TRUE(stream->Read(&response));
  ASSERT_TRUE(response.has_handshake());
  EXPECT_TRUE(harness_.replica().may_checkpoint());
  EXPECT_EQ(response.handshake().term(), 1u);
  EXPECT_THAT(response.handshake().volume_ids(), ElementsAre(0));
  EXPECT_EQ(response.handshake().frame_payload_bytes_max(), kFramePayloadBytesMax);
  TestFrame frame;
  frame.Data(0, std::string(256 << 10, 'x')).Data(1 << 19, std::string(512, 'y'));
  ASSERT_TRUE(stream->Write(Parsed(frame.Add(OperationKind::kCheckpoint))));
  while (response.ack().committed_sequence() != 3) ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.ack().received_sequence(), 3u);
  EXPECT_EQ(response.ack().committed_epoch(), 1u);
  EXPECT_EQ(harness_.replica().disk(0).substr(0, 256 << 10), std::string(256 << 10, 'x'));
  EXPECT_EQ(harness_.replica().disk(0).substr(1 << 19, 512), std::string(512, 'y'));
  stream->WritesDone();
  while (stream->Read(&response)) {
  }
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(RpcTest, AStreamWithoutHandshakeIsRefused) {
  grpc::ClientContext context;
  const auto stream = writes_stub_->Write(&context);
  stream->Write(Parsed(TestFrame().Add(OperationKind::kFlush)));
  v1::WriteResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(RpcTest, AStreamBeforeStartIsToldToTryAgain) {
  grpc::ClientContext context;
  const auto stream = writes_stub_->Write(&context);
  stream->Write(Hello());
  v1::WriteResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(HasReason(proto::FromGrpcStatus(stream->Finish()), kReasonNotRunning));
}

// A wait for the stuck thread would have no end. The agent is told, too, while the stream's storage thread hangs in file I/O.
TEST_F(RpcTest, AFailoverAnswersAtOnceWithAStuckStream) {
  ASSERT_TRUE(Start().ok());
  grpc::ClientContext context;
  const auto stream = writes_stub_->Write(&context);
  ASSERT_TRUE(stream->Write(Hello()));
  v1::WriteResponse response;
  ASSERT_TRUE(stream->Read(&response));
  harness_.replica().Stick(true);
  ASSERT_TRUE(stream->Write(Parsed(TestFrame().Add(OperationKind::kFlush))));
  harness_.replica().AwaitStuckAppend();
  v1::StopRequest stop;
  stop.set_group("vm1");
  stop.set_failover(true);
  v1::StopResponse stopped;
  const absl::Time begun = absl::Now();
  ASSERT_TRUE(Call(&v1::Replication::Stub::Stop, stop, stopped).ok());
  EXPECT_LT(absl::Now() - begun, absl::Seconds(10));
  EXPECT_EQ(stopped.stage(), v1::STAGE_FAILOVER);
  while (stream->Read(&response)) {
  }
  const absl::Status end = proto::FromGrpcStatus(stream->Finish());
  EXPECT_TRUE(HasReason(end, kReasonFenced)) << end;
  harness_.replica().Stick(false);
}

TEST_F(RpcTest, APlannedStopSaysThatItGoesOnBeforeTheClientGivesUp) {
  ASSERT_TRUE(Start().ok());
  using Place = testing::FakeReplica::Place;
  harness_.replica().Stick(true, Place::kStop);
  v1::StopRequest stop;
  stop.set_group("vm1");
  v1::StopResponse stopped;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(4));
  const absl::Status late = proto::FromGrpcStatus(stub_->Stop(&context, stop, &stopped));
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(late.message()), HasSubstr("goes on in the background"));
  harness_.replica().Stick(false, Place::kStop);
  ASSERT_TRUE(Call(&v1::Replication::Stub::Stop, stop, stopped).ok());
  EXPECT_EQ(stopped.stage(), v1::STAGE_DONE);
}

// They used to share 64 threads with the calls that wait.
TEST_F(RpcTest, CallsThatWaitHoldNoOtherCallUp) {
  ASSERT_TRUE(Start().ok());
  ASSERT_TRUE(
      harness_.service.Start(Mode::kSecondary, testing::OneVolume("vm2"), {}, testing::Soon())
          .ok());
  using Place = testing::FakeReplica::Place;
  harness_.replica().Stick(true, Place::kStop);
  std::vector<std::thread> stops;
  for (int i = 0; i < 70; ++i) {
    stops.emplace_back([this] {
      v1::StopRequest stop;
      stop.set_group("vm1");
      v1::StopResponse stopped;
      EXPECT_EQ(Call(&v1::Replication::Stub::Stop, stop, stopped), absl::OkStatus());
    });
  }
  harness_.replica().AwaitStuck(Place::kStop);
  absl::SleepFor(absl::Milliseconds(300));  // until they all wait
  const auto soon = [](grpc::ClientContext& context) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  };
  {
    grpc::ClientContext context;
    soon(context);
    v1::GetStatusResponse status;
    EXPECT_TRUE(stub_->GetStatus(&context, {}, &status).ok());
    EXPECT_EQ(status.groups_size(), 2);
  }
  {
    grpc::ClientContext context;
    soon(context);
    v1::CheckpointRequest request;
    request.set_group("vm2");
    v1::CheckpointResponse response;
    EXPECT_TRUE(stub_->Checkpoint(&context, request, &response).ok());
  }
  harness_.replica().Stick(false, Place::kStop);
  for (std::thread& stop : stops) stop.join();
}

TEST_F(RpcTest, AnAgentThatCancelsIsDisconnectedAndOneThatEndsInOrderIsNoError) {
  ASSERT_TRUE(Start().ok());
  const auto& unavailable =
      harness_.group->stats().errors[static_cast<size_t>(base::ErrorReason::kUnavailable)];
  for (const bool orderly : {true, false}) {
    grpc::ClientContext context;
    const auto stream = writes_stub_->Write(&context);
    ASSERT_TRUE(stream->Write(Hello()));
    v1::WriteResponse response;
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_TRUE(harness_.group->Status().connected);
    if (orderly) {
      stream->WritesDone();
      while (stream->Read(&response)) {
      }
    } else {
      context.TryCancel();
    }
    EXPECT_EQ(stream->Finish().ok(), orderly);
    const base::Deadline deadline = testing::Soon();
    while (harness_.group->Status().connected && !deadline.over()) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_FALSE(harness_.group->Status().connected);
    EXPECT_TRUE(harness_.group->GetError()->errors.empty());
    EXPECT_EQ(unavailable.value(), orderly ? 0u : 1u);
  }
}

// ---- repeated calls ---------------------------------------------------------------------------------------------------------

TEST_F(RpcTest, ARepeatedCallGetsTheFirstAnswerAndAnotherCallIsRefused) {
  v1::StartRequest start;
  start.set_group("vm1");
  start.set_mode(v1::MODE_SECONDARY);
  start.set_request_id("start-1");
  v1::StartResponse first;
  ASSERT_TRUE(Call(&v1::Replication::Stub::Start, start, first).ok());
  v1::StartResponse again;
  ASSERT_TRUE(Call(&v1::Replication::Stub::Start, start, again).ok());
  EXPECT_EQ(again.SerializeAsString(), first.SerializeAsString());
  EXPECT_FALSE(again.ignored());
  start.set_request_id("start-2");
  EXPECT_EQ(Call(&v1::Replication::Stub::Start, start, again).code(),
            absl::StatusCode::kFailedPrecondition);

  v1::CheckpointRequest checkpoint;
  checkpoint.set_group("vm1");
  checkpoint.set_request_id("checkpoint-1");
  v1::CheckpointResponse committed;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Call(&v1::Replication::Stub::Checkpoint, checkpoint, committed).ok());
    EXPECT_EQ(committed.epoch(), 1u);
  }
  checkpoint.set_request_id("start-1");
  const absl::Status other = Call(&v1::Replication::Stub::Checkpoint, checkpoint, committed);
  EXPECT_EQ(other.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(other.message()), HasSubstr("start-1 names another call"));
  EXPECT_EQ(harness_.replica().state().committed_epoch, Epoch(1));
}

// The error of the first try changed nothing, so its id is free for the next one.
TEST_F(RpcTest, AnErrorIsNotRemembered) {
  v1::CheckpointRequest checkpoint;
  checkpoint.set_group("vm1");
  checkpoint.set_request_id("c");
  v1::CheckpointResponse committed;
  EXPECT_EQ(Call(&v1::Replication::Stub::Checkpoint, checkpoint, committed).code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Start().ok());
  EXPECT_TRUE(Call(&v1::Replication::Stub::Checkpoint, checkpoint, committed).ok());
}

TEST_F(RpcTest, AFailoverThatIsRepeatedTellsTheFirstAnswer) {
  ASSERT_TRUE(Start().ok());
  v1::StopRequest stop;
  stop.set_group("vm1");
  stop.set_failover(true);
  stop.set_request_id("f");
  for (int i = 0; i < 2; ++i) {
    v1::StopResponse stopped;
    ASSERT_TRUE(Call(&v1::Replication::Stub::Stop, stop, stopped).ok());
    EXPECT_FALSE(stopped.ignored());
    EXPECT_EQ(stopped.term(), 2u);
  }
}

// A planned stop is stuck on a dead disk: its callers go away, and so do those who wait for it under its request id. None of them
// keeps a thread, and the next call of the id gets the answer.
TEST_F(RpcTest, CallersThatGoAwayLeaveNothingBehind) {
  ASSERT_TRUE(Start().ok());
  harness_.replica().Stick(true, testing::FakeReplica::Place::kStop);
  v1::StopRequest stop;
  stop.set_group("vm1");
  stop.set_request_id("s");
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::thread> callers;
  std::atomic<int> cancelled = 0;
  for (int i = 0; i < 100; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    callers.emplace_back([&, i, context = contexts.back().get()] {
      v1::StopRequest request = stop;
      if (i % 2 == 0) request.clear_request_id();
      v1::StopResponse response;
      if (stub_->Stop(context, request, &response).error_code() == grpc::StatusCode::CANCELLED) {
        ++cancelled;
      }
    });
  }
  harness_.replica().AwaitStuck(testing::FakeReplica::Place::kStop);
  for (const auto& context : contexts) context->TryCancel();
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(cancelled, 100);
  v1::GetStatusRequest ask;
  v1::GetStatusResponse status;
  EXPECT_TRUE(Call(&v1::Replication::Stub::GetStatus, ask, status).ok()) << "no thread is left";
  harness_.replica().Stick(false, testing::FakeReplica::Place::kStop);
  v1::StopResponse stopped;
  ASSERT_TRUE(Call(&v1::Replication::Stub::Stop, stop, stopped).ok());
  EXPECT_EQ(stopped.stage(), v1::STAGE_DONE);
  EXPECT_EQ(stopped.epoch(), 1u);
}

}  // namespace
}  // namespace understudy::server::rpc_test
