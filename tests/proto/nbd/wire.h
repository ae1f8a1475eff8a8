// tests/proto/nbd/wire.h
//
// NBD messages as bytes, written down from the protocol's text and not from our server's constants.
#ifndef UNDERSTUDY_TESTS_PROTO_NBD_WIRE_H_
#define UNDERSTUDY_TESTS_PROTO_NBD_WIRE_H_

#include <cstdint>
#include <initializer_list>
#include <string>

namespace understudy::nbd::script {

// Big-endian.
template <typename Number>
std::string Big(Number number) {
  std::string bytes(sizeof(number), '\0');
  for (size_t i = 0; i < sizeof(number); ++i) {
    bytes[sizeof(number) - 1 - i] = static_cast<char>(static_cast<uint64_t>(number) >> (8 * i));
  }
  return bytes;
}
inline std::string U16(uint16_t number) { return Big(number); }
inline std::string U32(uint32_t number) { return Big(number); }
inline std::string U64(uint64_t number) { return Big(number); }
inline std::string Text(const std::string& text) { return U32(text.size()) + text; }

// Of `bytes` at `at`; 0 where they end before.
template <typename Number>
Number BigAt(const std::string& bytes, size_t at) {
  uint64_t number = 0;
  for (size_t i = at; i < at + sizeof(Number); ++i) {
    number = number << 8 | (i < bytes.size() ? static_cast<unsigned char>(bytes[i]) : 0);
  }
  return static_cast<Number>(number);
}

// Handshake
inline std::string Greeting() { return "NBDMAGICIHAVEOPT" + U16(3); }
inline constexpr uint32_t kFixedNewstyle = 1;
inline constexpr uint32_t kNoZeroes = 2;
inline constexpr uint64_t kOptionReplyMagic = 0x3e889045565a9;

enum : uint32_t {
  kExportName = 1,
  kAbort = 2,
  kList = 3,
  kStartTls = 5,
  kInfo = 6,
  kGo = 7,
  kStructuredReply = 8,
  kListMetaContext = 9,
  kSetMetaContext = 10,
  kExtendedHeaders = 11,
};
enum : uint32_t {
  kAck = 1,
  kRepServer = 2,
  kRepInfo = 3,
  kRepMetaContext = 4,
  kErrUnsup = 1U << 31 | 1,
  kErrPolicy = 1U << 31 | 2,
  kErrInvalid = 1U << 31 | 3,
  kErrUnknown = 1U << 31 | 6,
  kErrTooBig = 1U << 31 | 9,
  kErrExtHeaderReqd = 1U << 31 | 10,
};
enum : uint16_t { kInfoExport = 0, kInfoName = 1, kInfoDescription = 2, kInfoBlockSize = 3 };

inline std::string Option(uint32_t option, const std::string& data = "") {
  return "IHAVEOPT" + U32(option) + Text(data);
}
// An error has a text, of which no test says what it is.
inline std::string OptionReply(uint32_t option, uint32_t type, const std::string& data = "") {
  return U64(kOptionReplyMagic) + U32(option) + U32(type) + Text(data);
}
// The data of INFO and GO.
inline std::string Asked(const std::string& name, std::initializer_list<uint16_t> infos = {}) {
  std::string data = Text(name) + U16(infos.size());
  for (const uint16_t info : infos) data += U16(info);
  return data;
}
// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
inline std::string Queries(const std::string& name, std::initializer_list<const char*> queries) {
  std::string data = Text(name) + U32(queries.size());
  for (const char* query : queries) data += Text(query);
  return data;
}

// Transmission
enum : uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisc = 2,
  kFlush = 3,
  kTrim = 4,
  kCache = 5,
  kWriteZeroes = 6,
  kBlockStatus = 7,
};
enum : uint16_t { kFua = 1, kNoHole = 2, kDf = 4, kReqOne = 8, kFastZero = 16, kPayloadLen = 32 };
enum : uint32_t { kEperm = 1, kEio = 5, kEinval = 22, kEnospc = 28, kEnotsup = 95 };
enum : uint16_t {
  kNone = 0,
  kOffsetData = 1,
  kOffsetHole = 2,
  kStatus = 5,
  kStatusExt = 6,
  kError = 1 << 15 | 1,
  kErrorOffset = 1 << 15 | 2,
};
inline constexpr uint16_t kDone = 1;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr uint32_t kChunkMagic = 0x668e33ef;
inline constexpr uint32_t kExtendedChunkMagic = 0x6e8a278c;

enum class Style { kSimple, kStructured, kExtended };

struct Request {
  uint16_t flags = 0;
  uint16_t command = kRead;
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  std::string payload = {};

  std::string In(Style style) const {
    const bool extended = style == Style::kExtended;
    return U32(extended ? 0x21e41c71 : 0x25609513) + U16(flags) + U16(command) + U64(cookie) +
           U64(offset) + (extended ? U64(length) : U32(length)) + payload;
  }
};

struct Chunk {
  uint16_t flags = 0;
  uint16_t type = kNone;
  uint64_t cookie = 0;
  uint64_t offset = 0;  // of the request
  std::string payload = {};

  std::string In(Style style) const {
    if (style == Style::kStructured) {
      return U32(kChunkMagic) + U16(flags) + U16(type) + U64(cookie) + Text(payload);
    }
    return U32(kExtendedChunkMagic) + U16(flags) + U16(type) + U64(cookie) + U64(offset) +
           U64(payload.size()) + payload;
  }
};

}  // namespace understudy::nbd::script

#endif  // UNDERSTUDY_TESTS_PROTO_NBD_WIRE_H_
