#include "server/frame_decoder.h"

#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/encoded_frame.h"

namespace understudy::server::frame_decoder_test {
namespace {

using ::testing::HasSubstr;
using testing::TestFrame;

// Each slice in memory of exactly its own size, so that AddressSanitizer sees a step over its end.
class CutMessage {
 public:
  CutMessage(const std::string& bytes, const std::vector<size_t>& cuts) {
    size_t from = 0;
    for (const size_t cut : cuts) Add(bytes.substr(from, cut - from)), from = cut;
    Add(bytes.substr(from));
  }
  Slices slices() const { return spans_; }

 private:
  void Add(const std::string& piece) {
    pieces_.push_back(std::make_unique<char[]>(piece.size()));
    std::memcpy(pieces_.back().get(), piece.data(), piece.size());
    spans_.emplace_back(pieces_.back().get(), piece.size());
  }
  std::vector<std::unique_ptr<char[]>> pieces_;
  std::vector<std::span<const char>> spans_;
};

absl::Status DecodeStatus(const std::string& bytes) {
  const CutMessage message(bytes, {});
  FrameDecoder decoder;
  return decoder.Decode(message.slices()).status();
}

std::string Payload(const storage::IncomingFrame& frame) {
  std::string payload;
  for (const auto piece : frame.payload) payload.append(piece.data(), piece.size());
  return payload;
}

TestFrame TwoWrites() {
  TestFrame frame{.term = 5, .first_sequence = 40};
  frame.Data(4096, std::string(512, 'a')).Data(0, std::string(1024, 'b'), 1);
  frame.Add(OperationKind::kCheckpoint);
  return frame;
}

void ExpectTwoWrites(const FrameDecoder& decoder) {
  const TestFrame expected = TwoWrites();
  const storage::IncomingFrame& frame = decoder.frame();
  EXPECT_EQ(frame.term, Term(5));
  EXPECT_EQ(frame.incarnation, expected.incarnation);
  EXPECT_EQ(frame.first_sequence, 40u);
  EXPECT_EQ(std::vector<Operation>(frame.operations.begin(), frame.operations.end()),
            expected.operations);
  EXPECT_EQ(Payload(frame), expected.payload);
  EXPECT_TRUE(decoder.Holds(OperationKind::kCheckpoint));
  EXPECT_FALSE(decoder.Holds(OperationKind::kIncomplete));
}

TEST(FrameDecoderTest, AFrameComesOutAsItWentIn) {
  const CutMessage message(TwoWrites().Encode(), {});
  FrameDecoder decoder;
  ASSERT_EQ(decoder.Decode(message.slices()).value(), FrameDecoder::Kind::kFrame);
  ExpectTwoWrites(decoder);
}

TEST(FrameDecoderTest, SlicesMayBeCutAtEveryByte) {
  const std::string bytes = TwoWrites().Encode();
  FrameDecoder decoder;
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    const CutMessage message(bytes, {cut});
    ASSERT_TRUE(decoder.Decode(message.slices()).ok()) << "cut at " << cut;
    ExpectTwoWrites(decoder);
  }
}

TEST(FrameDecoderTest, SlicesMayBeSingleBytesWithEmptyOnesBetween) {
  const std::string bytes = TwoWrites().Encode();
  std::vector<size_t> cuts;
  for (size_t i = 1; i < bytes.size(); ++i) cuts.insert(cuts.end(), {i, i});
  const CutMessage message(bytes, cuts);
  FrameDecoder decoder;
  ASSERT_TRUE(decoder.Decode(message.slices()).ok());
  ExpectTwoWrites(decoder);
}

TEST(FrameDecoderTest, ThePayloadIsNotCopied) {
  const CutMessage message(TwoWrites().Encode(), {});
  FrameDecoder decoder;
  ASSERT_TRUE(decoder.Decode(message.slices()).ok());
  ASSERT_EQ(decoder.frame().payload.size(), 1u);
  const char* const data = decoder.frame().payload[0].data();
  EXPECT_GE(data, message.slices()[0].data());
  EXPECT_LT(data, message.slices()[0].data() + message.slices()[0].size());
}

TEST(FrameDecoderTest, AMessageTruncatedAtAnyLengthIsRefused) {
  const std::string bytes = TwoWrites().Encode();
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_EQ(DecodeStatus(bytes.substr(0, length)).code(), absl::StatusCode::kInvalidArgument)
        << "length " << length;
  }
}

// The frame's own length says more or less than there is: whatever comes of it, nothing outside is read (AddressSanitizer).
TEST(FrameDecoderTest, ABodyTruncatedAtAnyLengthIsRefused) {
  const std::string body = TwoWrites().Body();
  for (size_t length = 0; length < body.size(); ++length) {
    EXPECT_FALSE(DecodeStatus(testing::BytesField(2, body.substr(0, length))).ok())
        << "length " << length;
  }
}

TEST(FrameDecoderTest, EveryDamagedByteOfTheBodyIsNoticed) {
  const std::string body = TwoWrites().Body();
  for (size_t i = 0; i < body.size(); ++i) {
    std::string damaged = body;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    EXPECT_FALSE(DecodeStatus(testing::BytesField(2, damaged)).ok()) << "byte " << i;
  }
}

TEST(FrameDecoderTest, AWrongCrcIsDataLoss) {
  TestFrame frame = TwoWrites();
  frame.crc_flip = 1;
  const absl::Status status = DecodeStatus(frame.Encode());
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("sequence 40"));
}

TEST(FrameDecoderTest, UnknownFieldsAreSkipped) {
  const std::string extra = testing::Field(99, 0) + testing::Varint(1ULL << 63) +
                            testing::Field(98, 5) + testing::Fixed<uint32_t>(1) +
                            testing::Field(97, 1) + testing::Fixed<uint64_t>(1) +
                            testing::BytesField(96, "later");
  const CutMessage message(
      extra + testing::BytesField(2, extra + TwoWrites().Body() + extra) + extra, {});
  FrameDecoder decoder;
  ASSERT_TRUE(decoder.Decode(message.slices()).ok());
  ExpectTwoWrites(decoder);
}

TEST(FrameDecoderTest, AHeartbeatSaysWhatItHolds) {
  const CutMessage message(testing::EncodeHeartbeat(true, 123456789), {});
  FrameDecoder decoder;
  ASSERT_EQ(decoder.Decode(message.slices()).value(), FrameDecoder::Kind::kHeartbeat);
  EXPECT_TRUE(decoder.durable_wanted());
  EXPECT_EQ(decoder.sent_micros(), 123456789u);
  const CutMessage empty(testing::BytesField(3, ""), {});
  ASSERT_TRUE(decoder.Decode(empty.slices()).ok());
  EXPECT_FALSE(decoder.durable_wanted());
  EXPECT_EQ(decoder.sent_micros(), 0u);
}

struct BadInput {
  const char* name;
  std::string bytes;
  const char* text;
};

TestFrame With(Operation operation, const std::string& payload = "") {
  TestFrame frame;
  frame.operations.push_back(operation);
  frame.payload = payload;
  return frame;
}

TEST(FrameDecoderTest, BadInputIsRefusedWithWords) {
  TestFrame too_many;
  too_many.operations.resize(kFrameOperationsMax + 1, {.kind = OperationKind::kFlush});
  TestFrame too_large;
  too_large.Data(0, std::string(kFramePayloadBytesMax + 1, 'x'));
  TestFrame marker_first;
  marker_first.Add(OperationKind::kCheckpoint).Add(OperationKind::kFlush);
  Operation reserved{.kind = OperationKind::kFlush};
  reserved.reserved[1] = 1;
  const Operation overflow{.kind = OperationKind::kData, .length = ~0ULL};
  const std::vector<BadInput> inputs = {
      {"empty", "", "empty"},
      {"handshake", testing::BytesField(1, ""), "second handshake"},
      {"two messages", TwoWrites().Encode() + TwoWrites().Encode(), "two messages"},
      {"no operations", TestFrame().Encode(), "no operations"},
      {"too many operations", too_many.Encode(), "over the limit"},
      {"payload too large", too_large.Encode(), "over the limit"},
      {"marker not last", marker_first.Encode(), "not its last"},
      {"kind 0", With({.kind = static_cast<OperationKind>(0)}).Encode(), "unknown kind"},
      {"kind 10", With({.kind = static_cast<OperationKind>(10)}).Encode(), "unknown kind"},
      {"reserved", With(reserved).Encode(), "reserved"},
      {"flush with a range", With({.kind = OperationKind::kFlush, .length = 512}).Encode(),
       "with a range"},
      {"payload missing", With({.kind = OperationKind::kData, .length = 512}).Encode(), "payload"},
      {"payload left over", With({.kind = OperationKind::kFlush}, "x").Encode(), "payload"},
      {"length overflows", With(overflow).Encode(), "over the limit"},
      {"operations cut", testing::BytesField(2, testing::BytesField(6, std::string(25, '\1'))),
       "multiple"},
      {"wrong wire type", testing::BytesField(2, testing::Field(1, 0) + testing::Varint(5)),
       "wrong type"},
      {"group", std::string("\x13\x14", 2), "bad length"},
      {"endless varint", std::string(11, '\xff'), "bad tag"},
  };
  for (const BadInput& input : inputs) {
    const absl::Status status = DecodeStatus(input.bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << input.name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(input.text)) << input.name;
  }
}

}  // namespace
}  // namespace understudy::server::frame_decoder_test
