// A server in this process; each input is a client of its own, which ends in the middle of it all.
#include <cstdio>

#include "storage/base/log.h"
#include "tests/fuzz/target.h"
#include "tests/proto/nbd/peer.h"

namespace understudy::fuzz {
namespace {

using namespace nbd::script;  // NOLINT: the bytes of the protocol

// Some requests fail, and none is taken at once.
nbd::MemoryDisk::Options Failing() {
  return {.name = "failing", .before = [](nbd::Kind, ByteRange range) {
            return range.start % 1024 == 0 ? absl::OkStatus() : absl::DataLossError("odd");
          }};
}

const std::string& SocketPath() {
  struct World {
    nbd::MemoryDisk disk{{.try_write_max = 1}};
    nbd::MemoryDisk failing{Failing()};
    Rig rig{{&disk, &failing}};
    std::string path = rig.socket_path();
    // A line for each client that is thrown out would be most of what a fuzzer does.
    World() {
      base::SetLogSinkForTest([](base::LogLevel level, absl::string_view line) {
        if (level == base::LogLevel::kFatal) {
          std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
        }
      });
    }
  };
  static World world;
  return world.path;
}

void Talk(const std::string& bytes) {
  Peer peer(SocketPath());
  peer.Send(bytes);
  peer.EndSending();
  UNDERSTUDY_CHECK(absl::StartsWith(peer.ReceiveAll(), Greeting()));
}

void RunHandshake(absl::string_view input) { Talk(std::string(input)); }

std::string Opening(unsigned char choice) {
  const char* const name = choice % 2 == 0 ? "disk" : "failing";
  std::string bytes = U32(kFixedNewstyle | kNoZeroes);
  if (choice / 2 % 3 != 0) {
    bytes += Option(choice / 2 % 3 == 1 ? kStructuredReply : kExtendedHeaders) +
             Option(kSetMetaContext, Queries(name, {"base:allocation"}));
  }
  return bytes + Option(kGo, Asked(name));
}

void RunTransmission(absl::string_view input) {
  if (input.empty()) return;
  Talk(Opening(static_cast<unsigned char>(input[0])) + std::string(input.substr(1)));
}

std::vector<std::string> HandshakeSeeds() {
  const std::string start = U32(kFixedNewstyle | kNoZeroes);
  const std::string structured = start + Option(kStructuredReply);
  const std::string extended = start + Option(kExtendedHeaders);
  const std::string context = Queries("disk", {"base:allocation", "base:", "x"});
  return {
      U32(0) + Option(kExportName, "disk"),
      start + Option(kExportName) + Request{.command = kDisc}.In(Style::kSimple),
      start + Option(kList) + Option(kStartTls) + Option(kAbort),
      start + Option(kInfo, Asked("nobody")) + Option(kGo, Asked("disk", {0, 1, 2, 3})),
      structured + Option(kListMetaContext, context) + Option(kListMetaContext, Queries("", {})),
      structured + Option(kSetMetaContext, context) + Option(kGo, Asked("disk")) +
          Request{.command = kBlockStatus, .length = 512}.In(Style::kStructured),
      extended + Option(kStructuredReply) + Option(kSetMetaContext, context) +
          Option(kGo, Asked("")) + Request{.length = 512}.In(Style::kExtended),
      start + "IHAVEOPT" + U32(kGo) + U32(UINT32_MAX),
  };
}

std::vector<std::string> TransmissionSeeds() {
  const Request requests[] = {
      {.command = kRead, .cookie = 1, .offset = 512, .length = 1024},
      {.flags = kDf, .command = kRead, .length = 128 << 10},
      {.flags = kFua, .command = kWrite, .length = 512, .payload = std::string(512, 'x')},
      {.command = kWrite, .length = 70 << 10, .payload = std::string(100, 'x')},
      {.command = kWrite, .length = 33 << 20, .payload = std::string(100, 'x')},
      {.command = kFlush},
      {.command = kTrim, .length = 1 << 20},
      {.command = kCache, .length = 4096},
      {.flags = kNoHole | kFastZero, .command = kWriteZeroes, .offset = 512, .length = 512},
      {.flags = kReqOne, .command = kBlockStatus, .length = 1 << 20},
      {.flags = kPayloadLen, .command = kBlockStatus, .length = 12, .payload = U64(512) + U32(1)},
      {.command = 99},
      {.command = kDisc},
  };
  std::vector<std::string> seeds;
  for (char choice = 0; choice < 6; ++choice) {
    const Style style = static_cast<Style>(choice / 2);
    std::string all(1, choice);
    for (Request request : requests) {
      if (style == Style::kExtended && request.command == kWrite) request.flags |= kPayloadLen;
      const std::string bytes = request.In(style);
      seeds.push_back(absl::StrCat(std::string(1, choice), bytes));
      if (request.payload.size() != 100) all += bytes;
    }
    seeds.push_back(all);
  }
  return seeds;
}

}  // namespace

const Target kNbdHandshake = {"nbd_handshake", RunHandshake, HandshakeSeeds};
const Target kNbdTransmission = {"nbd_transmission", RunTransmission, TransmissionSeeds};

}  // namespace understudy::fuzz
