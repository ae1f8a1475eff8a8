#include "client/rpc/frame_encoder.h"

#include <cstring>
#include <vector>

#include <grpcpp/support/slice.h>

namespace understudy::client {
namespace {

// Field number and wire type of each tag; all fit in one byte.
constexpr char kTagRequestFrame = (2 << 3) | 2;
constexpr char kTagTerm = (1 << 3) | 1;
constexpr char kTagIncarnationHigh = (2 << 3) | 1;
constexpr char kTagIncarnationLow = (3 << 3) | 1;
constexpr char kTagFirstSequence = (4 << 3) | 1;
constexpr char kTagCrc = (5 << 3) | 5;
constexpr char kTagOperations = (6 << 3) | 2;
constexpr char kTagPayload = (7 << 3) | 2;

template <typename Number>
void AppendFixed(std::string& out, char tag, Number number) {
  out.push_back(tag);
  out.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

void AppendVarint(std::string& out, uint64_t number) {
  for (; number >= 0x80; number >>= 7) out.push_back(static_cast<char>(number | 0x80));
  out.push_back(static_cast<char>(number));
}

void Release(void* holder) { delete static_cast<std::shared_ptr<const Frame>*>(holder); }

grpc::Slice Borrow(std::span<const char> bytes, const std::shared_ptr<const Frame>& frame) {
  return grpc::Slice(const_cast<char*>(bytes.data()), bytes.size(), Release,
                     new std::shared_ptr<const Frame>(frame));
}

}  // namespace

grpc::ByteBuffer EncodeFrame(const FrameHeader& header, const std::shared_ptr<const Frame>& frame) {
  std::string fields;  // of Frame, up to the operations' bytes
  AppendFixed(fields, kTagTerm, header.grant.term.value());
  AppendFixed(fields, kTagIncarnationHigh, header.grant.incarnation.high);
  AppendFixed(fields, kTagIncarnationLow, header.grant.incarnation.low);
  AppendFixed(fields, kTagFirstSequence, header.first_sequence);
  AppendFixed(fields, kTagCrc, header.crc32c);
  fields.push_back(kTagOperations);
  AppendVarint(fields, frame->operation_bytes().size());
  std::string payload_head;
  if (frame->payload_bytes > 0) {
    payload_head.push_back(kTagPayload);
    AppendVarint(payload_head, frame->payload_bytes);
  }
  std::string head(1, kTagRequestFrame);
  AppendVarint(head, fields.size() + frame->operation_bytes().size() + payload_head.size() +
                         frame->payload_bytes);
  head += fields;
  std::vector<grpc::Slice> slices;
  slices.reserve(4);
  slices.emplace_back(head);
  slices.push_back(Borrow(frame->operation_bytes(), frame));
  if (frame->payload_bytes > 0) {
    slices.emplace_back(payload_head);
    slices.push_back(Borrow(frame->payload_span(), frame));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

std::string EncodeIncarnation(const Incarnation& incarnation) {
  std::string bytes;
  for (const uint64_t half : {incarnation.high, incarnation.low}) {
    for (int shift = 56; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(half >> shift));
  }
  return bytes;
}

Incarnation DecodeIncarnation(const std::string& bytes) {
  Incarnation incarnation;
  if (bytes.size() != 16) return incarnation;
  for (int i = 0; i < 16; ++i) {
    uint64_t& half = i < 8 ? incarnation.high : incarnation.low;
    half = (half << 8) | static_cast<unsigned char>(bytes[i]);
  }
  return incarnation;
}

}  // namespace understudy::client
