#include "proto/grpc_host.h"

#include <chrono>
#include <filesystem>
#include <future>
#include <string>
#include <sys/stat.h>
#include <thread>

#include "absl/strings/match.h"
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"
#include "tests/testing/unix_socket.h"
#include "understudy/v1/replication.grpc.pb.h"

namespace understudy::proto::grpc_host_test {
namespace {

using ::understudy::testing::TempDir;
using ::understudy::testing::UnixListener;

std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(2 * kMessageBytesMax);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

void SetDeadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
}

std::string Bytes(const grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  return buffer.DumpToSingleSlice(&slice).ok()
             ? std::string(reinterpret_cast<const char*>(slice.begin()), slice.size())
             : "";
}

// grpc.health.v1, spoken by hand: field 1 of the request is the name, field 1 of the answer 1 (SERVING) or 2.
std::string Health(const std::string& address, const std::string& name) {
  const grpc::Slice slice(
      name.empty() ? "" : "\x0a" + std::string(1, static_cast<char>(name.size())) + name);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::GenericStub stub(Connect(address));
  grpc::ClientContext context;
  SetDeadline(context);
  grpc::ByteBuffer response;
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", {}, &request, &response,
                 [&](grpc::Status status) { done.set_value(std::move(status)); });
  const grpc::Status status = done.get_future().get();
  if (!status.ok()) return "error " + std::to_string(status.error_code());
  const std::string answer = Bytes(response);
  return answer == "\x08\x01" ? "SERVING" : answer == "\x08\x02" ? "NOT_SERVING" : "odd answer";
}

// The answer of grpc.reflection.v1alpha to list_services, undecoded.
std::string ReflectedServices(const std::string& address) {
  grpc::GenericStub stub(Connect(address));
  grpc::ClientContext context;
  SetDeadline(context);
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  const auto next = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const grpc::Slice slice("\x3a\x01*");
  grpc::ByteBuffer answer;
  call->StartCall(nullptr);
  EXPECT_TRUE(next());
  call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  EXPECT_TRUE(next());
  call->Read(&answer, nullptr);
  EXPECT_TRUE(next());
  call->WritesDone(nullptr);
  EXPECT_TRUE(next());
  grpc::Status status;
  call->Finish(&status, nullptr);
  next();
  EXPECT_TRUE(status.ok()) << status.error_message();
  return Bytes(answer);
}

// ListGroups answers with a name of answer_bytes_; GetError waits until it is cancelled.
class FakeService : public v1::Replication::Service {
 public:
  grpc::Status ListGroups(grpc::ServerContext*, const v1::ListGroupsRequest*,
                          v1::ListGroupsResponse* response) override {
    response->add_groups(std::string(answer_bytes_, 'x'));
    return grpc::Status::OK;
  }
  grpc::Status GetError(grpc::ServerContext* context, const v1::GetErrorRequest*,
                        v1::GetErrorResponse*) override {
    entered_.set_value();
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return grpc::Status::CANCELLED;
  }

  size_t answer_bytes_ = 1;
  std::promise<void> entered_;
};

class GrpcHostTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<GrpcHost>> Start(const std::string& listen) {
    return GrpcHost::Start(listen, {&service_});
  }
  grpc::Status Ask(const std::string& address) {
    const auto stub = v1::Replication::NewStub(Connect(address));
    grpc::ClientContext context;
    SetDeadline(context);
    v1::ListGroupsResponse response;
    return stub->ListGroups(&context, {}, &response);
  }

  TempDir dir_;
  FakeService service_;
};

TEST_F(GrpcHostTest, PortZeroBecomesTheAddressOfAFreePort) {
  const auto host = Start("127.0.0.1:0");
  ASSERT_TRUE(host.ok()) << host.status();
  EXPECT_TRUE(absl::StartsWith((*host)->address(), "127.0.0.1:"));
  EXPECT_FALSE(absl::EndsWith((*host)->address(), ":0"));
  EXPECT_TRUE(Ask((*host)->address()).ok());
}

TEST_F(GrpcHostTest, APortInUseIsRefusedWithAddressAndFlag) {
  const auto first = Start("127.0.0.1:0");
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = Start((*first)->address()).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition) << second;
  EXPECT_TRUE(absl::StrContains(second.message(), (*first)->address())) << second;
  EXPECT_TRUE(absl::StrContains(second.message(), "--listen")) << second;
  EXPECT_TRUE(Ask((*first)->address()).ok());
}

TEST_F(GrpcHostTest, AMalformedAddressIsRefused) {
  for (const char* address :
       {"", "7410", "host", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", ":7410", "unix:"}) {
    EXPECT_EQ(Start(address).status().code(), absl::StatusCode::kInvalidArgument) << address;
  }
}

// Whoever reaches it can fail a VM over.
TEST_F(GrpcHostTest, AUnixSocketIsItsOwnersAlone) {
  const mode_t before = umask(0);
  const auto host = Start("unix:" + dir_.File("s"));
  umask(before);
  ASSERT_TRUE(host.ok()) << host.status();
  EXPECT_EQ(std::filesystem::status(dir_.File("s")).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST_F(GrpcHostTest, AStaleUnixSocketIsReplacedAndRemovedInTheEnd) {
  UnixListener(dir_.File("s")).Abandon();
  {
    const auto host = Start("unix:" + dir_.File("s"));
    ASSERT_TRUE(host.ok()) << host.status();
    EXPECT_EQ((*host)->address(), "unix:" + dir_.File("s"));
    EXPECT_TRUE(Ask((*host)->address()).ok());
  }
  EXPECT_FALSE(std::filesystem::exists(dir_.File("s")));
}

TEST_F(GrpcHostTest, ALiveUnixSocketIsRefusedAndGoesOnServing) {
  const auto first = Start("unix:" + dir_.File("s"));
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = Start("unix:" + dir_.File("s")).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition) << second;
  EXPECT_TRUE(absl::StrContains(second.message(), dir_.File("s"))) << second;
  EXPECT_TRUE(Ask("unix:" + dir_.File("s")).ok());
}

TEST_F(GrpcHostTest, HealthIsServingUntilToldOtherwise) {
  const auto host = Start("127.0.0.1:0");
  ASSERT_TRUE(host.ok()) << host.status();
  for (const char* name : {"", "startup", "liveness", "understudy.v1.Replication"}) {
    EXPECT_EQ(Health((*host)->address(), name), "SERVING") << name;
  }
  EXPECT_EQ(Health((*host)->address(), "unheard-of"), "error 5");
  (*host)->SetServing(false);
  for (const char* name : {"", "startup", "liveness", "understudy.v1.Replication"}) {
    EXPECT_EQ(Health((*host)->address(), name), "NOT_SERVING") << name;
  }
  (*host)->SetServing(true);
  EXPECT_EQ(Health((*host)->address(), ""), "SERVING");
}

TEST_F(GrpcHostTest, ReflectionNamesTheServices) {
  const auto host = Start("127.0.0.1:0");
  ASSERT_TRUE(host.ok()) << host.status();
  const std::string services = ReflectedServices((*host)->address());
  EXPECT_TRUE(absl::StrContains(services, "understudy.v1.Replication")) << services;
  EXPECT_TRUE(absl::StrContains(services, "grpc.health.v1.Health")) << services;
}

TEST_F(GrpcHostTest, MessagesUpToTheLimitPassAndLargerOnesDoNot) {
  const auto host = Start("127.0.0.1:0");
  ASSERT_TRUE(host.ok()) << host.status();
  service_.answer_bytes_ = kMessageBytesMax - 16;  // far above gRPC's own 4 MiB
  EXPECT_TRUE(Ask((*host)->address()).ok());
  service_.answer_bytes_ = kMessageBytesMax + 1;
  EXPECT_EQ(Ask((*host)->address()).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GrpcHostTest, ShutdownCancelsACallThatOutlastsTheGrace) {
  const auto host = Start("127.0.0.1:0");
  ASSERT_TRUE(host.ok()) << host.status();
  const auto stub = v1::Replication::NewStub(Connect((*host)->address()));
  auto call = std::async(std::launch::async, [&] {
    grpc::ClientContext context;
    v1::GetErrorResponse response;
    return stub->GetError(&context, {}, &response);
  });
  service_.entered_.get_future().wait();
  EXPECT_TRUE((*host)->Shutdown(absl::Milliseconds(50)));
  EXPECT_FALSE(call.get().ok());
  EXPECT_FALSE(Ask((*host)->address()).ok());
  (*host)->Shutdown(absl::ZeroDuration());
}

}  // namespace
}  // namespace understudy::proto::grpc_host_test
