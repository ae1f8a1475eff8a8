// Requests and their answers byte by byte, in each style of reply, and what the device is asked.
#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/proto/nbd/peer.h"

namespace understudy::nbd::script::transmission_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kDiskBytes = 256 * kMiB;
constexpr uint64_t kDataBytes = 64 << 10;  // at the front; holes follow
constexpr uint16_t kNobodysFlag = 1 << 9;
constexpr Style kStyles[] = {Style::kSimple, Style::kStructured, Style::kExtended};

std::string Data(uint64_t offset, uint64_t length) {
  std::string data;
  for (uint64_t sector = offset / 512; sector < (offset + length) / 512; ++sector) {
    data.append(512, static_cast<char>('a' + sector % 26));
  }
  return data;
}

struct Row {
  const char* name;
  Request request;
  uint32_t error = 0;
  std::vector<std::string> calls = {};  // of the device
};

std::vector<Row> ReadRows() {
  return {
      {"read", {.command = kRead, .offset = 512, .length = 4096}, 0, {"read 512+4096"}},
      {"read with FUA", {.flags = kFua, .command = kRead, .length = 512}, 0, {"read 0+512"}},
      {"read nothing", {.command = kRead, .length = 0}, kEinval},
      {"read half a sector", {.command = kRead, .length = 256}, kEinval},
      {"read from half a sector", {.command = kRead, .offset = 256, .length = 512}, kEinval},
      {"read the end", {.command = kRead, .offset = kDiskBytes, .length = 512}, kEinval},
      {"read over the end",
       {.command = kRead, .offset = kDiskBytes - 512, .length = 1024},
       kEinval},
      {"read round the end",
       {.command = kRead, .offset = UINT64_MAX - 511, .length = 1024},
       kEinval},
      {"read more than 32 MiB", {.command = kRead, .length = 32 * kMiB + 512}, kEinval},
      {"read with NO_HOLE", {.flags = kNoHole, .command = kRead, .length = 512}, kEinval},
      {"read with REQ_ONE", {.flags = kReqOne, .command = kRead, .length = 512}, kEinval},
  };
}

std::vector<Row> WriteRows() {
  return {
      {"write",
       {.command = kWrite, .offset = 1024, .length = 512, .payload = Data(1024, 512)},
       0,
       {"write 1024+512"}},
      {"write with FUA",
       {.flags = kFua, .command = kWrite, .length = 512, .payload = Data(0, 512)},
       0,
       {"write 0+512 fua"}},
      {"write nothing", {.command = kWrite, .length = 0}, kEinval},
      {"write half a sector",
       {.command = kWrite, .length = 256, .payload = std::string(256, 'x')},
       kEinval},
      {"write to half a sector",
       {.command = kWrite, .offset = 1, .length = 512, .payload = Data(0, 512)},
       kEinval},
      {"write over the end",
       {.command = kWrite, .offset = kDiskBytes - 512, .length = 1024, .payload = Data(0, 1024)},
       kEnospc},
      {"write behind the end",
       {.command = kWrite, .offset = kDiskBytes, .length = 512, .payload = Data(0, 512)},
       kEnospc},
      {"write with an unknown flag",
       {.flags = kNobodysFlag, .command = kWrite, .length = 512, .payload = Data(0, 512)},
       kEinval},
      {"write with DF",
       {.flags = kDf, .command = kWrite, .length = 512, .payload = Data(0, 512)},
       kEinval},
  };
}

std::vector<Row> FlushAndTrimRows() {
  return {
      {"flush", {.command = kFlush}, 0, {"flush"}},
      {"flush with FUA", {.flags = kFua, .command = kFlush}, 0, {"flush"}},
      {"flush with an unknown flag", {.flags = kNobodysFlag, .command = kFlush}, kEinval},
      {"trim",
       {.command = kTrim, .offset = 128 * kMiB, .length = 64 * kMiB},
       0,
       {"discard 134217728+67108864"}},
      {"trim with FUA",
       {.flags = kFua, .command = kTrim, .offset = kMiB, .length = 512},
       0,
       {"discard 1048576+512 fua"}},
      {"trim nothing", {.command = kTrim, .offset = kMiB, .length = 0}, kEinval},
      {"trim half a sector", {.command = kTrim, .offset = kMiB, .length = 1}, kEinval},
      {"trim over the end", {.command = kTrim, .offset = kMiB, .length = kDiskBytes}, kEinval},
      {"trim with NO_HOLE",
       {.flags = kNoHole, .command = kTrim, .offset = kMiB, .length = 512},
       kEinval},
  };
}

std::vector<Row> ZeroRows() {
  return {
      {"zero",
       {.command = kWriteZeroes, .offset = 128 * kMiB, .length = 64 * kMiB},
       0,
       {"write_zeroes 134217728+67108864"}},
      {"zero with NO_HOLE",
       {.flags = kNoHole, .command = kWriteZeroes, .offset = kMiB, .length = 512},
       0,
       {"write_zeroes 1048576+512 kept"}},
      {"zero with NO_HOLE and FUA",
       {.flags = kNoHole | kFua, .command = kWriteZeroes, .offset = kMiB, .length = 512},
       0,
       {"write_zeroes 1048576+512 kept fua"}},
      {"zero with FAST_ZERO",
       {.flags = kFastZero, .command = kWriteZeroes, .offset = kMiB, .length = 512},
       kEinval},
      {"zero nothing", {.command = kWriteZeroes, .offset = kMiB}, kEinval},
      {"zero half a sector", {.command = kWriteZeroes, .offset = kMiB, .length = 513}, kEinval},
      {"zero over the end",
       {.command = kWriteZeroes, .offset = kMiB, .length = kDiskBytes},
       kEnospc},
      {"zero with DF",
       {.flags = kDf, .command = kWriteZeroes, .offset = kMiB, .length = 512},
       kEinval},
  };
}

std::vector<Row> OtherRows() {
  return {
      {"cache", {.command = kCache, .length = 4096}, 0, {"read 0+4096"}},
      {"cache 160 KiB",
       {.command = kCache, .length = 160 << 10},
       0,
       {"read 0+65536", "read 65536+65536", "read 131072+32768"}},
      {"cache nothing", {.command = kCache}, kEinval},
      {"cache half a sector", {.command = kCache, .length = 1}, kEinval},
      {"cache over the end", {.command = kCache, .length = kDiskBytes + 512}, kEinval},
      {"cache with NO_HOLE", {.flags = kNoHole, .command = kCache, .length = 512}, kEinval},
      {"command 8", {.command = 8, .length = 512}, kEinval},
      {"command 99", {.command = 99}, kEinval},
      {"command 65535 with all flags but the payload",
       {.flags = 0xffff - kPayloadLen, .command = 65535, .length = 512},
       kEinval},
  };
}

std::vector<Row> Rows() {
  std::vector<Row> all;
  for (const std::vector<Row>& rows :
       std::array{ReadRows(), WriteRows(), FlushAndTrimRows(), ZeroRows(), OtherRows()}) {
    all.insert(all.end(), rows.begin(), rows.end());
  }
  return all;
}

// As the server answers: a READ structured, once that was negotiated, and all else simple until
// headers are extended.
std::string Answer(Style style, const Request& request, uint32_t error) {
  if (style == Style::kSimple || (style == Style::kStructured && request.command != kRead &&
                                  request.command != kBlockStatus)) {
    return U32(kSimpleReplyMagic) + U32(error) + U64(request.cookie) +
           (request.command == kRead && error == 0 ? Data(request.offset, request.length) : "");
  }
  Chunk chunk{.flags = kDone, .cookie = request.cookie, .offset = request.offset};
  if (error != 0) {
    chunk.type = kError;
    chunk.payload = U32(error) + U16(0);
  } else if (request.command == kRead) {
    chunk.type = kOffsetData;
    chunk.payload = U64(request.offset) + Data(request.offset, request.length);
  }
  return chunk.In(style);
}

class TransmissionTest : public ::testing::Test {
 protected:
  // A connection that has taken the disk.
  std::unique_ptr<Peer> Open(Style style, bool context = true) {
    auto peer = std::make_unique<Peer>(rig_.socket_path());
    std::string sent = U32(kFixedNewstyle | kNoZeroes);
    if (style != Style::kSimple) {
      sent += Option(style == Style::kExtended ? kExtendedHeaders : kStructuredReply);
      if (context) sent += Option(kSetMetaContext, Queries("disk", {"base:allocation"}));
    }
    peer->Send(sent + Option(kGo, Asked("disk")));
    EXPECT_EQ(peer->Receive(18), Greeting());
    std::string message;
    while (message != OptionReply(kGo, kAck)) message = peer->ReceiveMessage(20);
    return peer;
  }

  // The request of a row as it is sent.
  static Request Sent(const Row& row, Style style, uint64_t cookie) {
    Request request = row.request;
    request.cookie = cookie;
    if (style == Style::kExtended && request.command == kWrite) request.flags |= kPayloadLen;
    return request;
  }

  void RunRows(Style style, Pace pace) {
    const std::unique_ptr<Peer> peer = Open(style);
    uint64_t cookie = 0xfedcba9876543210;
    for (const Row& row : Rows()) {
      SCOPED_TRACE(row.name);
      Exchange(*peer, style, Sent(row, style, ++cookie), row.error, pace);
      EXPECT_EQ(disk_.TakeCalls(), row.calls);
    }
    Disconnect(*peer, style);
  }

  static void Exchange(Peer& peer, Style style, const Request& request, uint32_t error,
                       Pace pace = Pace::kAtOnce) {
    peer.Send(request.In(style), pace);
    const std::string expected = Answer(style, request, error);
    EXPECT_EQ(peer.ReceiveMessages(expected.size()), expected);
  }

  static void Disconnect(Peer& peer, Style style) {
    peer.Send(Request{.command = kDisc}.In(style));
    EXPECT_EQ(peer.ReceiveAll(), "");
  }

  MemoryDisk disk_{{.name = "disk", .size_bytes = kDiskBytes, .keep_calls = true}};
  MemoryDisk failing_{{.name = "failing", .before = [](Kind, ByteRange range) {
                         const auto code = static_cast<absl::StatusCode>(range.start / 512);
                         return absl::Status(code, "as the offset says");
                       }}};
  Rig rig_{{&disk_, &failing_}};

  void SetUp() override { disk_.Fill(0, Data(0, kDataBytes)); }
};

TEST_F(TransmissionTest, EachRowInEachStyle) {
  for (const Style style : kStyles) {
    SCOPED_TRACE(static_cast<int>(style));
    RunRows(style, Pace::kAtOnce);
  }
}

TEST_F(TransmissionTest, EachRowByteByByte) {
  for (const Style style : kStyles) {
    SCOPED_TRACE(static_cast<int>(style));
    RunRows(style, Pace::kByteByByte);
  }
}

// All rows that do not meet each other, in one segment; their answers come in any order.
TEST_F(TransmissionTest, ManyRequestsInOneSegment) {
  for (const Style style : kStyles) {
    SCOPED_TRACE(static_cast<int>(style));
    const std::unique_ptr<Peer> peer = Open(style);
    std::string sent;
    std::map<uint64_t, std::string> expected;
    size_t bytes = 0;
    for (const Row& row : Rows()) {
      const Request request = Sent(row, style, expected.size() + 1);
      sent += request.In(style);
      bytes += (expected[request.cookie] = Answer(style, request, row.error)).size();
    }
    peer->Send(sent + Request{.command = kDisc}.In(style));
    std::map<uint64_t, std::string> answers;
    for (size_t i = 0; i < expected.size(); ++i) {
      std::string message = peer->ReceiveMessage(16);
      const auto cookie = BigAt<uint64_t>(message, 8);
      if (message.size() < expected[cookie].size()) {  // the data of a simple READ
        message += peer->Receive(expected[cookie].size() - message.size());
      }
      answers[cookie] = message;
    }
    EXPECT_EQ(answers, expected);
    EXPECT_EQ(peer->ReceiveAll(), "");
  }
}

TEST_F(TransmissionTest, RequestsSplitAtEveryByte) {
  for (const Style style : kStyles) {
    SCOPED_TRACE(static_cast<int>(style));
    const std::unique_ptr<Peer> peer = Open(style);
    const Request write =
        Sent({"", {.command = kWrite, .length = 512, .payload = Data(0, 512)}}, style, 1);
    const Request read{.command = kRead, .cookie = 2, .length = 512};
    const std::string sent = write.In(style) + read.In(style);
    const std::string first = Answer(style, write, 0);
    const std::string second = Answer(style, read, 0);
    for (size_t at = 1; at < sent.size(); ++at) {
      peer->Send(sent.substr(0, at));
      peer->WaitUntilTaken();
      peer->Send(sent.substr(at));
      const std::string both = peer->ReceiveMessages(first.size() + second.size());
      EXPECT_TRUE(both == first + second || both == second + first) << "split at " << at;
    }
    Disconnect(*peer, style);
  }
}

TEST_F(TransmissionTest, ReadsOfHoles) {
  // From the last data to 32 KiB of holes: the first is in pieces, the second must not be.
  const uint64_t start = kDataBytes - (32 << 10);
  const std::string data = Data(start, 32 << 10);
  for (const Style style : {Style::kStructured, Style::kExtended}) {
    SCOPED_TRACE(static_cast<int>(style));
    const std::unique_ptr<Peer> peer = Open(style);
    Request request{.command = kRead, .cookie = 1, .offset = start, .length = 64 << 10};
    Chunk first{.type = kOffsetData, .cookie = 1, .offset = start, .payload = U64(start) + data};
    const Chunk second{.flags = kDone,
                       .type = kOffsetHole,
                       .cookie = 1,
                       .offset = start,
                       .payload = U64(kDataBytes) + U32(32 << 10)};
    peer->Send(request.In(style));
    std::string expected = first.In(style) + second.In(style);
    EXPECT_EQ(peer->ReceiveMessages(expected.size()), expected);

    request.flags = kDf;
    first.flags = kDone;
    first.payload += std::string(32 << 10, '\0');
    peer->Send(request.In(style));
    expected = first.In(style);
    EXPECT_EQ(peer->ReceiveMessages(expected.size()), expected);
    Disconnect(*peer, style);
  }
  const std::unique_ptr<Peer> peer = Open(Style::kSimple);
  Exchange(*peer, Style::kSimple, {.flags = kDf, .cookie = 1, .length = 512}, kEinval);
  Disconnect(*peer, Style::kSimple);
}

// What a BLOCK_STATUS is answered with: lengths and flags of runs.
std::string Status(Style style, const Request& request,
                   const std::vector<std::pair<uint64_t, uint64_t>>& runs) {
  const bool extended = style == Style::kExtended;
  std::string payload = U32(1) + (extended ? U32(runs.size()) : "");
  for (const auto& [length, flags] : runs) {
    payload += extended ? U64(length) + U64(flags) : U32(length) + U32(flags);
  }
  return Chunk{.flags = kDone,
               .type = extended ? kStatusExt : kStatus,
               .cookie = request.cookie,
               .offset = request.offset,
               .payload = payload}
      .In(style);
}

TEST_F(TransmissionTest, BlockStatus) {
  for (const Style style : {Style::kStructured, Style::kExtended}) {
    SCOPED_TRACE(static_cast<int>(style));
    const std::unique_ptr<Peer> peer = Open(style);
    const Request all{.command = kBlockStatus, .cookie = 1, .length = kDiskBytes};
    const Request first{
        .flags = kReqOne, .command = kBlockStatus, .cookie = 2, .offset = 512, .length = kMiB};
    const Request kept{.flags = kNoHole, .command = kWriteZeroes, .offset = kMiB, .length = 512};
    Exchange(*peer, style, kept, 0);
    peer->Send(all.In(style));
    std::string expected =
        Status(style, all,
               {{kDataBytes, 0}, {kMiB - kDataBytes, 3}, {512, 2}, {kDiskBytes - kMiB - 512, 3}});
    EXPECT_EQ(peer->ReceiveMessages(expected.size()), expected);
    peer->Send(first.In(style));
    expected = Status(style, first, {{kDataBytes - 512, 0}});
    EXPECT_EQ(peer->ReceiveMessages(expected.size()), expected);
    for (Request wrong :
         {Request{.length = 0}, Request{.length = 511},
          Request{.offset = 512, .length = kDiskBytes}, Request{.flags = kDf, .length = 512}}) {
      wrong.command = kBlockStatus;
      Exchange(*peer, style, wrong, kEinval);
    }
    Disconnect(*peer, style);
  }
}

TEST_F(TransmissionTest, BlockStatusThatWasNotNegotiated) {
  for (const Style style : kStyles) {
    const std::unique_ptr<Peer> peer = Open(style, /*context=*/false);
    Exchange(*peer, style, {.command = kBlockStatus, .length = 512}, kEinval);
    Disconnect(*peer, style);
  }
}

// At most some hundred runs an answer, however many there are.
TEST_F(TransmissionTest, BlockStatusOfManyRuns) {
  for (uint64_t i = 0; i < 2000; ++i) disk_.Fill(kMiB + i * 1024, std::string(512, 'x'));
  Client client(rig_.socket_path(), Style::kStructured);
  const Reply reply = client.Do({.command = kBlockStatus, .offset = kMiB, .length = 2000 * 1024});
  EXPECT_EQ(reply.error, 0u);
  EXPECT_GE(reply.status.size(), 100u);
  EXPECT_LE(reply.status.size(), 1000u);
  client.Disconnect();
}

TEST_F(TransmissionTest, LargeWrites) {
  for (const Style style : {Style::kSimple, Style::kExtended}) {
    SCOPED_TRACE(static_cast<int>(style));
    const std::unique_ptr<Peer> peer = Open(style);
    const std::string payload(64 * kMiB, 'z');
    const auto write = [&](uint64_t offset, uint64_t length, uint32_t error) {
      const Request request =
          Sent({"", {.command = kWrite, .offset = offset, .length = length}}, style, /*cookie=*/9);
      peer->Send(request.In(style));
      peer->Send(absl::string_view(payload).substr(0, length));
      const std::string expected = Answer(style, request, error);
      EXPECT_EQ(peer->ReceiveMessages(expected.size()), expected);
    };
    write(128 * kMiB, 32 * kMiB, 0);
    EXPECT_THAT(disk_.TakeCalls(), ElementsAre("write 134217728+33554432"));
    EXPECT_EQ(disk_.Bytes({159 * kMiB, 160 * kMiB}), payload.substr(0, kMiB));
    write(0, 32 * kMiB + 512, kEinval);
    write(0, 64 * kMiB, kEinval);
    write(kDiskBytes - kMiB, 2 * kMiB, kEnospc);
    EXPECT_THAT(disk_.TakeCalls(), IsEmpty());
    const Request end = Sent({"", {.command = kWrite, .length = 64 * kMiB + 512}}, style, 9);
    peer->Send(end.In(style));
    EXPECT_EQ(peer->ReceiveAll(), "");
  }
}

// With extended headers: PAYLOAD_LEN, and not the command, says whether a payload follows.
TEST_F(TransmissionTest, PayloadLength) {
  const Style style = Style::kExtended;
  const std::unique_ptr<Peer> peer = Open(style);
  Exchange(*peer, style, {.command = kWrite, .cookie = 1, .length = 512}, kEinval);
  for (uint16_t command = kRead; command < 10; ++command) {
    if (command == kWrite || command == kDisc) continue;
    for (const uint64_t length : {uint64_t{0}, uint64_t{12}, uint64_t{512}, 3 * kMiB}) {
      SCOPED_TRACE(absl::StrCat(command, " with ", length));
      Exchange(*peer, style,
               {.flags = kPayloadLen,
                .command = command,
                .cookie = 2,
                .length = length,
                .payload = std::string(length, 'x')},
               kEinval);
    }
  }
  EXPECT_THAT(disk_.TakeCalls(), IsEmpty());
  const Request beyond_32_bits{.command = kTrim, .cookie = 3, .length = uint64_t{1} << 32};
  Exchange(*peer, style, beyond_32_bits, kEinval);
  peer->Send(Request{.flags = kPayloadLen, .command = kTrim, .length = 1ull << 40}.In(style));
  EXPECT_EQ(peer->ReceiveAll(), "");
}

TEST_F(TransmissionTest, WrongMagicEndsTheConnection) {
  for (const Style style : kStyles) {
    const Style other = style == Style::kExtended ? Style::kSimple : Style::kExtended;
    const std::unique_ptr<Peer> peer = Open(style);
    peer->Send(Request{.command = kFlush}.In(other) + std::string(64, '\0'));
    EXPECT_EQ(peer->ReceiveAll(), "");
  }
  EXPECT_THAT(disk_.TakeCalls(), IsEmpty());
}

TEST_F(TransmissionTest, ErrorsOfTheDevice) {
  const std::pair<absl::StatusCode, uint32_t> errors[] = {
      {absl::StatusCode::kInvalidArgument, kEinval},
      {absl::StatusCode::kOutOfRange, kEinval},
      {absl::StatusCode::kResourceExhausted, kEnospc},
      {absl::StatusCode::kPermissionDenied, kEperm},
      {absl::StatusCode::kUnimplemented, kEnotsup},
      {absl::StatusCode::kDataLoss, kEio},
      {absl::StatusCode::kUnavailable, kEio},
      {absl::StatusCode::kInternal, kEio},
      {absl::StatusCode::kOk, 0}};
  for (const Style style : kStyles) {
    Client client(rig_.socket_path(), style, "failing");
    for (const auto& [code, error] : errors) {
      for (const uint16_t command : {kRead, kWrite, kTrim, kCache, kWriteZeroes, kBlockStatus}) {
        if (command == kBlockStatus && style == Style::kSimple) continue;
        SCOPED_TRACE(absl::StrCat(absl::StatusCodeToString(code), " at command ", command));
        const Reply reply = client.Do({.command = command,
                                       .offset = static_cast<uint64_t>(code) * 512,
                                       .length = 512,
                                       .payload = std::string(command == kWrite ? 512 : 0, 'x')});
        EXPECT_EQ(reply.error, error);
      }
    }
    // Never answered. What comes later is, and so does the end.
    client.Send({.command = kTrim, .offset = 512, .length = 512});
    client.Send({.command = kRead, .offset = 512, .length = 512});
    const uint64_t answered = client.Send({.command = kTrim, .length = 512});
    EXPECT_EQ(client.Receive().first, answered);
    EXPECT_EQ(client.in_flight(), 2u);
  }
}

}  // namespace
}  // namespace understudy::nbd::script::transmission_test
