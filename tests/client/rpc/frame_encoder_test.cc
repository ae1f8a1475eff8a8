#include "client/rpc/frame_encoder.h"

#include <cstring>

#include <grpcpp/support/proto_buffer_reader.h>
#include <gtest/gtest.h>

#include "client/window.h"
#include "storage/base/crc32c.h"
#include "understudy/v1/primary_writes.pb.h"

namespace understudy::client::frame_encoder_test {
namespace {

constexpr Grant kGrant{.incarnation = {.high = 0x0102030405060708, .low = 9}, .term = Term(4)};

v1::WriteRequest Parse(grpc::ByteBuffer buffer) {
  v1::WriteRequest request;
  grpc::ProtoBufferReader reader(&buffer);
  EXPECT_TRUE(request.ParseFromZeroCopyStream(&reader));
  return request;
}

// The CRC as the .proto defines it, from the parsed message alone.
uint32_t CrcOf(const v1::Frame& frame) {
  const uint64_t fixed[] = {frame.term(), frame.incarnation_high(), frame.incarnation_low(),
                            frame.first_sequence()};
  uint32_t crc = base::Crc32c(fixed, sizeof(fixed));
  crc = base::ExtendCrc32c(crc, frame.operations().data(), frame.operations().size());
  return base::ExtendCrc32c(crc, frame.payload().data(), frame.payload().size());
}

TEST(FrameEncoderTest, AnyGeneratedStubReadsWhatWasWritten) {
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{512}, uint64_t{4096}, uint64_t{262144}}) {
    Window window(FramePool::Create(), 1);
    if (bytes > 0) {
      const Window::Slot slot = window.AppendData(0, 8192, bytes, {});
      for (uint64_t i = 0; i < bytes; ++i) slot.data[i] = static_cast<char>(i * 7);
    } else {
      window.Append({.kind = OperationKind::kZero, .offset = 512, .length = 1024}, {});
    }
    const auto sent = window.NextToSend();
    const FrameHeader header = MakeFrameHeader(*sent, kGrant);
    const v1::WriteRequest request = Parse(EncodeFrame(header, sent));
    ASSERT_TRUE(request.has_frame());
    const v1::Frame& frame = request.frame();
    EXPECT_EQ(frame.term(), 4u);
    EXPECT_EQ(frame.incarnation_high(), 0x0102030405060708u);
    EXPECT_EQ(frame.incarnation_low(), 9u);
    EXPECT_EQ(frame.first_sequence(), 1u);
    ASSERT_EQ(frame.operations().size(), kOperationBytes);
    Operation operation;
    std::memcpy(&operation, frame.operations().data(), kOperationBytes);
    EXPECT_EQ(operation, sent->operations[0]);
    EXPECT_EQ(frame.payload(),
              std::string(sent->payload_span().begin(), sent->payload_span().end()));
    EXPECT_EQ(frame.crc32c(), CrcOf(frame));
  }
}

TEST(FrameEncoderTest, TheFrameLivesAsLongAsTheSlices) {
  Window window(FramePool::Create(), 1);
  std::memset(window.AppendData(0, 0, 4096, {}).data, 'k', 4096);
  std::shared_ptr<const Frame> frame = window.NextToSend();
  const std::weak_ptr<const Frame> watch = frame;
  grpc::ByteBuffer buffer = EncodeFrame(MakeFrameHeader(*frame, kGrant), frame);
  frame.reset();
  window.Durable(1);
  EXPECT_FALSE(watch.expired());
  EXPECT_EQ(Parse(buffer).frame().payload(), std::string(4096, 'k'));
  buffer.Clear();
  EXPECT_TRUE(watch.expired());
}

TEST(FrameEncoderTest, AnIncarnationIsWrittenAsItReads) {
  EXPECT_EQ(EncodeIncarnation(kGrant.incarnation).substr(0, 3), std::string("\x01\x02\x03"));
  EXPECT_EQ(DecodeIncarnation(EncodeIncarnation(kGrant.incarnation)), kGrant.incarnation);
  EXPECT_TRUE(DecodeIncarnation("short").none());
}

}  // namespace
}  // namespace understudy::client::frame_encoder_test
