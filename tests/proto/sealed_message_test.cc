#include "proto/sealed_message.h"

#include <gtest/gtest.h>

#include "understudy/v1/primary_writes.pb.h"

namespace understudy::proto::sealed_message_test {
namespace {

v1::WriteRequest Hello() {
  v1::WriteRequest request;
  request.mutable_handshake()->set_group("vm1");
  request.mutable_handshake()->set_incarnation(std::string(16, 'i'));
  request.mutable_handshake()->set_term(7);
  return request;
}

grpc::ByteBuffer Buffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

TEST(SealedMessageTest, WhatWasSealedIsDecoded) {
  grpc::ByteBuffer buffer = EncodeSealed(Hello());
  v1::WriteRequest decoded;
  ASSERT_EQ(DecodeSealed(buffer, &decoded), absl::OkStatus());
  EXPECT_NE(decoded.crc32c(), 0u);
  EXPECT_EQ(decoded.handshake().SerializeAsString(), Hello().handshake().SerializeAsString());
}

TEST(SealedMessageTest, APlainStubNeedNotSeal) {
  grpc::ByteBuffer buffer = Buffer(Hello().SerializeAsString());
  v1::WriteRequest decoded;
  EXPECT_EQ(DecodeSealed(buffer, &decoded), absl::OkStatus());
  EXPECT_EQ(decoded.handshake().term(), 7u);
  grpc::ByteBuffer empty;
  EXPECT_EQ(DecodeSealed(empty, &decoded), absl::OkStatus());
}

TEST(SealedMessageTest, AStubMaySealByTheFieldItself) {
  grpc::ByteBuffer sealed = EncodeSealed(Hello());
  v1::WriteRequest decoded;
  ASSERT_EQ(DecodeSealed(sealed, &decoded), absl::OkStatus());
  grpc::ByteBuffer buffer = Buffer(decoded.SerializeAsString());
  EXPECT_EQ(DecodeSealed(buffer, &decoded), absl::OkStatus());
}

// Whichever byte and however: either it is noticed, or nothing but the seal itself is different: not known as one, or taken for an
// unknown field of the message inside.
TEST(SealedMessageTest, NoDamagedByteIsBelieved) {
  grpc::ByteBuffer sealed = EncodeSealed(Hello());
  const std::string good = TakeBytes(sealed);
  const std::string hello = Hello().handshake().SerializeAsString();
  for (size_t at = 0; at < good.size(); ++at) {
    for (int flip = 1; flip < 256; ++flip) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ flip);
      grpc::ByteBuffer buffer = Buffer(bad);
      v1::WriteRequest decoded;
      if (!DecodeSealed(buffer, &decoded).ok()) continue;
      decoded.mutable_handshake()->DiscardUnknownFields();
      EXPECT_EQ(decoded.handshake().SerializeAsString(), hello)
          << "byte " << at << " flip " << flip;
    }
  }
}

}  // namespace
}  // namespace understudy::proto::sealed_message_test
