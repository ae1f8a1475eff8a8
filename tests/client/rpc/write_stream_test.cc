#include "client/rpc/write_stream.h"

#include <cstdlib>
#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>

#include "client/forwarder.h"
#include "proto/status_codec.h"
#include "storage/base/reason.h"
#include "tests/client/rpc/fake_primary_writes.h"

namespace understudy::client {
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

absl::Time Soon() { return absl::Now() + absl::Seconds(10); }

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

TEST_F(WriteStreamTest, ItIsConnectedWithinASecondOfTheServiceAnswering) {
  ASSERT_TRUE(forwarder_->Start().ok());
  ASSERT_TRUE(forwarder_->Write(0, 0, std::string(4096, 'a')).ok());
  EXPECT_FALSE(forwarder_->WaitForAnswer(absl::Now() + absl::Seconds(2)).connected);
  Serve();
  const absl::Time began = absl::Now();
  EXPECT_TRUE(forwarder_->WaitForAnswer(Soon()).connected);
  EXPECT_LT(absl::Now() - began, absl::Seconds(1));
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

}  // namespace
}  // namespace understudy::client
