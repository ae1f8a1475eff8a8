#include "proto/sealed_message.h"

#include <vector>

#include "storage/base/crc32c.h"

namespace understudy::proto {
namespace {

constexpr char kSealTag = 15 << 3 | 5;  // fixed32
constexpr size_t kSealBytes = 1 + sizeof(uint32_t);

bool HasSeal(const std::string& encoded) {
  return encoded.size() >= kSealBytes && encoded[encoded.size() - kSealBytes] == kSealTag;
}

absl::Status DamagedError() {
  return absl::DataLossError(
      "write stream: CRC32C of a message does not match: damaged on the way; send it again");
}

}  // namespace

std::string SealedBytes(const google::protobuf::MessageLite& message) {
  std::string encoded = message.SerializeAsString();
  const uint32_t crc = base::Crc32c(encoded.data(), encoded.size());
  encoded.push_back(kSealTag);
  for (int shift = 0; shift < 32; shift += 8) encoded.push_back(static_cast<char>(crc >> shift));
  return encoded;
}

grpc::ByteBuffer EncodeSealed(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice(SealedBytes(message));
  return grpc::ByteBuffer(&slice, 1);
}

std::string TakeBytes(grpc::ByteBuffer& buffer) {
  std::string bytes;
  std::vector<grpc::Slice> slices;
  // Dump() fails only for a buffer without bytes.
  if (!buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  buffer.Clear();
  return bytes;
}

absl::Status CheckSeal(const std::string& encoded, uint32_t crc32c) {
  if (crc32c == 0) return absl::OkStatus();
  const bool right =
      HasSeal(encoded) && base::Crc32c(encoded.data(), encoded.size() - kSealBytes) == crc32c;
  return right ? absl::OkStatus() : DamagedError();
}

absl::Status MalformedError(const std::string& encoded) {
  if (HasSeal(encoded)) return DamagedError();
  return absl::InvalidArgumentError("write stream: a message is malformed");
}

}  // namespace understudy::proto
