// proto/nbd/wire.h
//
// The numbers of the NBD protocol, and how they lie in bytes: big endian, without padding.
//
// Source   doc/proto.md of NetworkBlockDevice/nbd, and its branch extension-ext-header.
#ifndef UNDERSTUDY_PROTO_NBD_WIRE_H_
#define UNDERSTUDY_PROTO_NBD_WIRE_H_

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/string_view.h"

namespace understudy::nbd {

static_assert(std::endian::native == std::endian::little, "Swapped() turns every number round");

inline uint16_t Swapped(uint16_t value) { return __builtin_bswap16(value); }
inline uint32_t Swapped(uint32_t value) { return __builtin_bswap32(value); }
inline uint64_t Swapped(uint64_t value) { return __builtin_bswap64(value); }

template <typename Number>
Number Load(const char* from) {
  Number value;
  std::memcpy(&value, from, sizeof(value));
  return Swapped(value);
}
template <typename Number>
void Append(std::string& to, Number value) {
  const Number swapped = Swapped(value);
  to.append(reinterpret_cast<const char*>(&swapped), sizeof(swapped));
}

// ---- handshake ------------------------------------------------------------------------------

inline constexpr uint64_t kMagic = 0x4e42444d41474943;        // "NBDMAGIC"
inline constexpr uint64_t kOptionMagic = 0x49484156454f5054;  // "IHAVEOPT"
inline constexpr uint64_t kOptionReplyMagic = 0x0003e889045565a9;

inline constexpr uint16_t kFixedNewstyle = 1 << 0;  // of the server, and of the client
inline constexpr uint16_t kNoZeroes = 1 << 1;

inline constexpr uint32_t kOptionHeaderBytes = 16;
inline constexpr uint32_t kNameBytesMax = 4096;

enum class Option : uint32_t {
  kExportName = 1,
  kAbort = 2,
  kList = 3,
  kInfo = 6,
  kGo = 7,
  kStructuredReply = 8,
  kListMetaContext = 9,
  kSetMetaContext = 10,
  kExtendedHeaders = 11,
};

enum class OptionReply : uint32_t {
  kAck = 1,
  kServer = 2,
  kInfo = 3,
  kMetaContext = 4,
  kUnsupported = (1u << 31) + 1,
  kInvalid = (1u << 31) + 3,
  kUnknown = (1u << 31) + 6,
  kExtendedHeadersRequired = (1u << 31) + 10,
};

enum class Info : uint16_t { kExport = 0, kName = 1, kDescription = 2, kBlockSize = 3 };

inline constexpr absl::string_view kAllocationContext = "base:allocation";
inline constexpr uint32_t kAllocationContextId = 1;

inline constexpr uint32_t kBlockBytesMin = 512;
inline constexpr uint32_t kBlockBytesPreferred = 4096;
inline constexpr uint32_t kPayloadBytesMax = 32 << 20;

inline constexpr uint16_t kHasFlags = 1 << 0;  // of an export
inline constexpr uint16_t kSendFlush = 1 << 2;
inline constexpr uint16_t kSendFua = 1 << 3;
inline constexpr uint16_t kSendTrim = 1 << 5;
inline constexpr uint16_t kSendWriteZeroes = 1 << 6;
inline constexpr uint16_t kSendDf = 1 << 7;
inline constexpr uint16_t kCanMultiConn = 1 << 8;
inline constexpr uint16_t kSendCache = 1 << 10;

// ---- transmission -----------------------------------------------------------------------------

inline constexpr uint32_t kRequestMagic = 0x25609513;
inline constexpr uint32_t kExtendedRequestMagic = 0x21e41c71;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr uint32_t kStructuredReplyMagic = 0x668e33ef;
inline constexpr uint32_t kExtendedReplyMagic = 0x6e8a278c;

inline constexpr uint32_t kRequestBytes = 28;
inline constexpr uint32_t kExtendedRequestBytes = 32;

// What was negotiated: each kind of reply needs the one before.
enum class ReplyStyle : uint8_t { kSimple = 0, kStructured, kExtended };

enum class Command : uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisconnect = 2,
  kFlush = 3,
  kTrim = 4,
  kCache = 5,
  kWriteZeroes = 6,
  kBlockStatus = 7,
};

inline constexpr uint16_t kFua = 1 << 0;  // of a request
inline constexpr uint16_t kNoHole = 1 << 1;
inline constexpr uint16_t kDf = 1 << 2;
inline constexpr uint16_t kReqOne = 1 << 3;
inline constexpr uint16_t kPayloadLength = 1 << 5;

inline constexpr uint16_t kDone = 1 << 0;  // of a chunk: the last one of its reply

enum class Chunk : uint16_t {
  kNone = 0,
  kOffsetData = 1,
  kOffsetHole = 2,
  kBlockStatus = 5,
  kBlockStatusExtended = 6,
  kError = (1 << 15) + 1,
};

inline constexpr uint32_t kStateHole = 1 << 0;  // of base:allocation
inline constexpr uint32_t kStateZero = 1 << 1;

enum class Error : uint32_t {
  kNone = 0,
  kPermission = 1,
  kIo = 5,
  kInvalid = 22,
  kNoSpace = 28,
  kNotSupported = 95,
};

// A request as it came, of either length.
struct RequestHeader {
  uint32_t magic = 0;
  uint16_t flags = 0;
  uint16_t command = 0;
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint64_t length = 0;

  static RequestHeader Parse(const char* from, bool extended) {
    return {.magic = Load<uint32_t>(from),
            .flags = Load<uint16_t>(from + 4),
            .command = Load<uint16_t>(from + 6),
            .cookie = Load<uint64_t>(from + 8),
            .offset = Load<uint64_t>(from + 16),
            .length = extended ? Load<uint64_t>(from + 24) : Load<uint32_t>(from + 24)};
  }
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_WIRE_H_
