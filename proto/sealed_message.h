// proto/sealed_message.h
//
// A CRC32C at the end of an encoded message, for what decides who may write and what is kept: TCP lets a damaged byte through
// now and then, and a handshake with another term, or an acknowledgement of more than was received, must not be believed.
//
// Bytes    the message, then its field 15 as fixed32: the CRC of everything before that field. A message without it is taken as it is,
//          so that a plain stub can speak the protocol.
#ifndef UNDERSTUDY_PROTO_SEALED_MESSAGE_H_
#define UNDERSTUDY_PROTO_SEALED_MESSAGE_H_

#include <string>

#include "absl/status/status.h"
#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>

namespace understudy::proto {

// REQUIRES: the message's own field 15 is not set.
std::string SealedBytes(const google::protobuf::MessageLite& message);
grpc::ByteBuffer EncodeSealed(const google::protobuf::MessageLite& message);

// Decodes a message with a field `fixed32 crc32c = 15`: kDataLoss when a CRC is given and is another one, kInvalidArgument when it is
// malformed without one. `buffer` is used up.
template <typename Message>
absl::Status DecodeSealed(grpc::ByteBuffer& buffer, Message* message);

// The parts of DecodeSealed().
std::string TakeBytes(grpc::ByteBuffer& buffer);
absl::Status CheckSeal(const std::string& encoded, uint32_t crc32c);
absl::Status MalformedError(const std::string& encoded);

template <typename Message>
absl::Status DecodeSealed(grpc::ByteBuffer& buffer, Message* message) {
  const std::string encoded = TakeBytes(buffer);
  if (!message->ParseFromString(encoded)) {
    return MalformedError(encoded);
  }
  return CheckSeal(encoded, message->crc32c());
}

}  // namespace understudy::proto

#endif  // UNDERSTUDY_PROTO_SEALED_MESSAGE_H_
