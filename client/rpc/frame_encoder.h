// client/rpc/frame_encoder.h
//
// A Frame as the bytes of WriteRequest{frame}, without copying its data: a few header bytes by hand, then slices of the frame's own
// memory. On the wire it is ordinary protobuf, fields in order.
//
//     WriteRequest.frame (2)  length | Frame: term (1) fixed64, incarnation_high (2), incarnation_low (3), first_sequence (4),
//     crc32c (5) fixed32, operations (6) length | bytes, payload (7) length | bytes
//
// Memory   each slice keeps the frame alive until gRPC has let go of it, which may be after the write has completed.
#ifndef UNDERSTUDY_CLIENT_RPC_FRAME_ENCODER_H_
#define UNDERSTUDY_CLIENT_RPC_FRAME_ENCODER_H_

#include <memory>
#include <string>

#include <grpcpp/support/byte_buffer.h>

#include "client/frame.h"

namespace understudy::client {

grpc::ByteBuffer EncodeFrame(const FrameHeader& header, const std::shared_ptr<const Frame>& frame);

// 16 bytes, high half first, most significant byte first: as Incarnation::ToHex() reads.
std::string EncodeIncarnation(const Incarnation& incarnation);
// None for anything but 16 bytes.
Incarnation DecodeIncarnation(const std::string& bytes);

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_RPC_FRAME_ENCODER_H_
