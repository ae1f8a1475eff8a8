#include "client/rpc/write_stream.h"

#include <cstdlib>
#include <filesystem>
#include <netinet/in.h>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#include <gtest/gtest.h>

#include "client/forwarder.h"
#include "proto/status_codec.h"
#include "storage/base/reason.h"
#include "tests/client/rpc/fake_primary_writes.h"

namespace understudy::client::write_stream_test {
namespace {

class WriteStreamTest : public ::testing::Test {
 protected:
  WriteStreamTest() {
    char name[] = "/tmp/understudy-stream-XXXXXX";
    directory_ = mkdtemp(name);
    address_ = "unix:" + directory_ + "/s.sock";
    stream_ = std::make_unique<WriteStream>(address_);
    forwarder_ = std::make_unique<Forwarder>(
        ForwarderOptions{.group = "vm1",
                         .volumes = {{.name = "disk0", .size_bytes = 64 << 20}},
                         .agent_id = "host-a"},
        stream_.get());
  }
  ~WriteStreamTest() override {
    forwarder_.reset();
    service_.reset();
    std::filesystem::remove_all(directory_);
  }
  void Serve() { service_ = std::make_unique<FakePrimaryWrites>(address_); }

  std::string directory_;
  std::string address_;
  std::unique_ptr<WriteStream> stream_;
  std::unique_ptr<Forwarder> forwarder_;
  std::unique_ptr<FakePrimaryWrites> service_;
};

base::Deadline Soon() { return base::Deadline::After(absl::Seconds(10)); }

TEST_F(WriteStreamTest, BytesArriveThroughGeneratedCodeWithAGoodCrc) {
  Serve();
  ASSERT_TRUE(forwarder_->Start().ok());
  std::string expected;
  for (int i = 0; i < 200; ++i) {
    const std::string data(4096 * (1 + i % 40), static_cast<char>(i));
    ASSERT_TRUE(forwarder_->Write(0, 0, data).ok());
    expected += data;
  }
  const auto checkpoint = forwarder_->Checkpoint(Soon());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->epoch, Epoch(1));
  EXPECT_TRUE(service_->payload() == expected);
  EXPECT_EQ(service_->crc_mismatches(), 0);
  EXPECT_EQ(forwarder_->state().grant, (Grant{.incarnation = {.low = 7}, .term = Term(2)}));
  EXPECT_TRUE(forwarder_->Stop(true, Soon()).ok());
}

TEST_F(WriteStreamTest, ItIsConnectedSoonAfterTheServiceAnswers) {
  ASSERT_TRUE(forwarder_->Start().ok());
  ASSERT_TRUE(forwarder_->Write(0, 0, std::string(4096, 'a')).ok());
  EXPECT_FALSE(forwarder_->WaitForAnswer(base::Deadline::After(absl::Seconds(2))).connected);
  Serve();
  const absl::Time began = absl::Now();
  EXPECT_TRUE(forwarder_->WaitForAnswer(Soon()).connected);
  EXPECT_LT(absl::Now() - began,
            absl::Seconds(5));  // on a busy machine; backoff_max is half a second
  EXPECT_TRUE(forwarder_->Stop(true, Soon()).ok());
  EXPECT_EQ(service_->payload(), std::string(4096, 'a'));
}

TEST_F(WriteStreamTest, AFencedRefusalKeepsItsReason) {
  Serve();
  service_->Refuse(proto::ToGrpcStatus(
      WithReason(absl::FailedPreconditionError("bound to host-b"), kReasonFenced)));
  ASSERT_TRUE(forwarder_->Start().ok());
  EXPECT_TRUE(forwarder_->WaitForAnswer(Soon()).fenced);
  const auto errors = forwarder_->errors().errors();
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_EQ(errors[0].message, "bound to host-b");
}

// ---- a peer that takes no bytes any more ---------------------------------------------------------------------------------------

// Says just enough of HTTP/2 to be sent as much as the sockets hold, and never reads.
class DeafPeer {
 public:
  DeafPeer() : listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in any = {};
    any.sin_family = AF_INET;
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(any);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&any), length), 0);
    EXPECT_EQ(listen(listener_, 8), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&any), &length), 0);
    address_ = absl::StrCat("127.0.0.1:", ntohs(any.sin_port));
    thread_ = std::thread([this] { Run(); });
  }
  ~DeafPeer() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
    for (const int connection : connections_) close(connection);
  }
  const std::string& address() const { return address_; }

 private:
  void Run() {
    // SETTINGS with the largest INITIAL_WINDOW_SIZE, and a WINDOW_UPDATE of the connection's to the same.
    const std::string hello(
        "\0\0\6\4\0\0\0\0\0\0\4\x7f\xff\xff\xff"
        "\0\0\4\x8\0\0\0\0\0\x7f\xff\0\0",
        28);
    while (true) {
      const int connection = accept(listener_, nullptr, nullptr);
      if (connection < 0) return;
      connections_.push_back(connection);
      EXPECT_EQ(send(connection, hello.data(), hello.size(), 0),
                static_cast<ssize_t>(hello.size()));
    }
  }

  const int listener_;
  std::string address_;
  std::vector<int> connections_;
  std::thread thread_;
};

// Counts what a session tells.
class CountedEvents : public TransportEvents {
 public:
  void OnReply(uint64_t, const HandshakeReply&) override {}
  void OnAck(uint64_t, const Ack&) override {}
  void OnCheckpointWanted(uint64_t) override {}
  void OnHandoverWanted(uint64_t) override {}
  void OnFrameSent(uint64_t) override { Count(sent_); }
  void OnClosed(uint64_t, const absl::Status&) override { Count(closed_); }

  // False when it does not get there in time.
  bool AwaitSent(int count, absl::Duration timeout) { return Await(sent_, count, timeout); }
  bool AwaitClosed(int count, absl::Duration timeout) { return Await(closed_, count, timeout); }

 private:
  void Count(int& counter) {
    base::MutexLock lock(mutex_);
    ++counter;
    changed_.NotifyAll();
  }
  bool Await(const int& counter, int count, absl::Duration timeout) {
    const auto deadline = base::Deadline::After(timeout);
    base::MutexLock lock(mutex_);
    while (counter < count) {
      if (!deadline.Wait(changed_, mutex_) && counter < count) return false;
    }
    return true;
  }

  base::Mutex mutex_;
  base::CondVar changed_;
  int sent_ = 0;    // guarded by mutex_
  int closed_ = 0;  // likewise
};

// Without a server or another channel in the process gRPC's threads end with the session's, which a
// reaction lets go of last.
TEST(LastChannelTest, ASessionThatOutlivesItsStreamEnds) {
  CountedEvents events;
  for (int session = 1; session <= 50; ++session) {
    auto stream = std::make_unique<WriteStream>("unix:/nonexistent/s.sock");
    stream->Connect(1, {.group = "vm1"}, &events);
    stream.reset();
    ASSERT_TRUE(events.AwaitClosed(session, absl::Seconds(10)));
  }
}

TEST(DeafPeerTest, ASessionIsClosedSoonThoughItsBytesAreStuck) {
  DeafPeer peer;
  WriteStream stream(peer.address());
  CountedEvents events;
  const auto pool = FramePool::Create();
  const std::shared_ptr<Frame> frame = pool->TakeFrame();
  frame->chunk = pool->TakeChunk();
  frame->payload = frame->chunk->bytes.get();
  frame->payload_bytes = kChunkBytes;
  frame->first_sequence = 1;
  frame->operations.push_back({.kind = OperationKind::kData, .length = kChunkBytes});
  int frames = 0;
  for (int session = 1; session <= 2; ++session) {
    stream.Connect(static_cast<uint64_t>(session), {.group = "vm1"}, &events);
    do {
      stream.SendFrame(static_cast<uint64_t>(session), MakeFrameHeader(*frame, {}), frame);
    } while (events.AwaitSent(++frames, absl::Milliseconds(500)));
    --frames;  // the last one is stuck
    EXPECT_LT(frames, 1000) << "the sockets took everything";
    EXPECT_FALSE(events.AwaitClosed(session, absl::ZeroDuration()));
    stream.Close(static_cast<uint64_t>(session));
    EXPECT_TRUE(events.AwaitClosed(session, absl::Seconds(5))) << "session " << session;
  }
}

}  // namespace
}  // namespace understudy::client::write_stream_test
