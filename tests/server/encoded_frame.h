// tests/server/encoded_frame.h
//
// Messages of the write stream made by hand, byte for byte, without protobuf: what the decoder must understand.
#ifndef UNDERSTUDY_TESTS_SERVER_ENCODED_FRAME_H_
#define UNDERSTUDY_TESTS_SERVER_ENCODED_FRAME_H_

#include <cstring>
#include <string>
#include <vector>

#include "server/stream_types.h"
#include "storage/base/crc32c.h"
#include "storage/base/ids.h"
#include "storage/base/operation.h"

namespace understudy::testing {

inline std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}

template <typename Number>
std::string Fixed(Number value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return bytes;
}

inline std::string Field(int number, int type) {
  return Varint(static_cast<uint64_t>(number) << 3 | type);
}
inline std::string BytesField(int number, const std::string& bytes) {
  return Field(number, 2) + Varint(bytes.size()) + bytes;
}

struct TestFrame {
  uint64_t term = 1;
  Incarnation incarnation = {.high = 7, .low = 1};
  uint64_t first_sequence = 1;
  std::vector<Operation> operations;
  std::string payload;
  uint32_t crc_flip = 0;  // damages the CRC

  TestFrame& Data(uint64_t offset, const std::string& data, uint32_t volume = 0) {
    operations.push_back(
        {.volume = volume, .kind = OperationKind::kData, .offset = offset, .length = data.size()});
    payload += data;
    return *this;
  }
  TestFrame& Add(OperationKind kind) {
    operations.push_back({.kind = kind});
    return *this;
  }

  std::string OperationBytes() const {
    return {reinterpret_cast<const char*>(operations.data()), operations.size() * kOperationBytes};
  }
  uint32_t Crc() const {
    const std::string covered = Fixed(term) + Fixed(incarnation.high) + Fixed(incarnation.low) +
                                Fixed(first_sequence) + OperationBytes() + payload;
    return base::Crc32c(covered.data(), covered.size()) ^ crc_flip;
  }
  std::string Body() const {
    return Field(1, 1) + Fixed(term) + Field(2, 1) + Fixed(incarnation.high) + Field(3, 1) +
           Fixed(incarnation.low) + Field(4, 1) + Fixed(first_sequence) + Field(5, 5) +
           Fixed(Crc()) + BytesField(6, OperationBytes()) + BytesField(7, payload);
  }
  std::string Encode() const { return BytesField(2, Body()); }
};

inline std::string EncodeHeartbeat(bool durable_wanted, uint64_t sent_micros, uint64_t proof = 0) {
  return BytesField(3, Field(1, 0) + Varint(durable_wanted) + Field(2, 0) + Varint(sent_micros) +
                           Field(3, 0) + Varint(proof));
}

// A message in one slice, at its own address.
class StringMessage : public server::RawMessage {
 public:
  explicit StringMessage(std::string bytes) : bytes_(std::move(bytes)), slice_(bytes_) {}
  std::span<const std::span<const char>> slices() const override { return {&slice_, 1}; }
  uint64_t bytes() const override { return bytes_.size(); }

 private:
  const std::string bytes_;
  const std::span<const char> slice_;
};

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_SERVER_ENCODED_FRAME_H_
