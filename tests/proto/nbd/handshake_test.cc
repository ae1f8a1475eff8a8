// The handshake byte by byte: what is sent, and what must come back, to the end of the connection.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/proto/nbd/peer.h"

namespace understudy::nbd::script::handshake_test {
namespace {

constexpr uint64_t kDiskBytes = 1 << 20;
constexpr uint64_t kBareBytes = 1536;
// HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, CAN_MULTI_CONN, CACHE
constexpr uint16_t kFlags = 1 | 4 | 8 | 32 | 64 | 256 | 1024;
constexpr uint16_t kDfFlag = 128;
constexpr uint32_t kContext = 1;

struct Step {
  std::string sent;
  std::string expected;
};

// How the connection ends: the row appends what its phase asks for, and sees that nothing else
// comes.
enum class Then {
  kAbort,         // still in the handshake
  kDisc,          // in transmission
  kDiscExtended,  // with extended headers
  kEnded,         // the server has ended it
};

struct Row {
  const char* name;
  std::vector<Step> steps;
  Then then = Then::kAbort;
};

std::string Start(uint32_t flags = kFixedNewstyle | kNoZeroes) { return U32(flags); }

std::string Ack(uint32_t option) { return OptionReply(option, kAck); }

std::string Info(uint32_t option, uint16_t info, const std::string& data) {
  return OptionReply(option, kRepInfo, U16(info) + data);
}

// What INFO and GO say of an export.
std::string ExportInfo(uint32_t option, uint16_t more_flags = 0) {
  return Info(option, kInfoExport, U64(kDiskBytes) + U16(kFlags | more_flags));
}
std::string BlockSizeInfo(uint32_t option) {
  return Info(option, kInfoBlockSize, U32(512) + U32(4096) + U32(32 << 20));
}
// All there is, asked for or not.
std::string Told(uint32_t option, uint16_t more_flags = 0) {
  return ExportInfo(option, more_flags) + Info(option, kInfoName, "disk") +
         Info(option, kInfoDescription, "a disk in memory") + BlockSizeInfo(option) + Ack(option);
}
std::string ToldOfBare(uint32_t option, uint16_t more_flags = 0) {
  return Info(option, kInfoExport, U64(kBareBytes) + U16(kFlags | more_flags)) +
         Info(option, kInfoName, "bare") + Info(option, kInfoDescription, "a disk in memory") +
         BlockSizeInfo(option) + Ack(option);
}

Step Does(uint32_t option, const std::string& data, const std::string& expected) {
  return {Option(option, data), expected};
}
Step Fails(uint32_t option, const std::string& data, uint32_t error) {
  return {Option(option, data), OptionReply(option, error)};
}
Step Begins(uint32_t flags = kFixedNewstyle | kNoZeroes) { return {Start(flags), ""}; }
Step Structured() { return Does(kStructuredReply, "", Ack(kStructuredReply)); }
Step Extended() { return Does(kExtendedHeaders, "", Ack(kExtendedHeaders)); }
Step Goes(uint16_t more_flags = 0) { return Does(kGo, Asked("disk"), Told(kGo, more_flags)); }

std::string ContextReply(uint32_t option, uint32_t id, const std::string& name) {
  return OptionReply(option, kRepMetaContext, U32(id) + name);
}
Step SetsContext(const std::string& name) {
  return Does(kSetMetaContext, Queries(name, {"base:allocation"}),
              ContextReply(kSetMetaContext, kContext, "base:allocation") + Ack(kSetMetaContext));
}
// A BLOCK_STATUS of the first sector, in a connection with structured replies.
Step AsksStatus(const std::string& expected) {
  return {Request{.command = kBlockStatus, .cookie = 7, .length = 512}.In(Style::kStructured),
          expected};
}

std::vector<Row> FlagRows() {
  const std::string told = U64(kDiskBytes) + U16(kFlags);
  return {
      {"flags: none", {{Start(0), ""}, {Option(kAbort), ""}}, Then::kEnded},
      {"flags: none, EXPORT_NAME",
       {{Start(0), ""}, {Option(kExportName, "disk"), told + std::string(124, '\0')}},
       Then::kDisc},
      {"flags: fixed newstyle", {Begins(kFixedNewstyle)}},
      {"flags: both", {Begins()}},
      {"flags: one that nobody knows", {{Start(4), ""}}, Then::kEnded},
      {"flags: all", {{Start(UINT32_MAX), ""}}, Then::kEnded},
      {"EXPORT_NAME, no zeroes", {Begins(), {Option(kExportName, "disk"), told}}, Then::kDisc},
      {"EXPORT_NAME, 124 zeroes",
       {Begins(kFixedNewstyle), {Option(kExportName, "disk"), told + std::string(124, '\0')}},
       Then::kDisc},
      {"EXPORT_NAME of the default export", {Begins(), {Option(kExportName), told}}, Then::kDisc},
      {"EXPORT_NAME of no export", {Begins(), {Option(kExportName, "nobody"), ""}}, Then::kEnded},
      {"EXPORT_NAME with structured replies",
       {Begins(),
        Structured(),
        {Option(kExportName, "disk"), U64(kDiskBytes) + U16(kFlags | kDfFlag)}},
       Then::kDisc},
      {"EXPORT_NAME with extended headers",
       {Begins(), Extended(), {Option(kExportName, "disk"), ""}},
       Then::kEnded},
      {"wrong magic", {Begins(), {"IHAVEOPX" + U32(kList) + U32(0), ""}}, Then::kEnded},
      {"no option, but a request", {Begins(), {Request{}.In(Style::kSimple), ""}}, Then::kEnded},
      {"ABORT", {Begins(), {Option(kAbort), Ack(kAbort)}}, Then::kEnded},
      {"ABORT with data", {Begins(), {Option(kAbort, "why"), Ack(kAbort)}}, Then::kEnded},
      {"LIST",
       {Begins(), Does(kList, "",
                       OptionReply(kList, kRepServer, Text("disk")) +
                           OptionReply(kList, kRepServer, Text("bare")) + Ack(kList))}},
      {"LIST with data", {Begins(), Fails(kList, "x", kErrInvalid), Goes()}, Then::kDisc},
      {"STARTTLS", {Begins(), Fails(kStartTls, "", kErrUnsup), Goes()}, Then::kDisc},
      {"PEEK_EXPORT, which was withdrawn", {Begins(), Fails(4, "", kErrUnsup)}},
      {"option 0", {Begins(), Fails(0, "", kErrUnsup)}},
      {"option 12", {Begins(), Fails(12, "with data", kErrUnsup), Goes()}, Then::kDisc},
      {"option 4294967295", {Begins(), Fails(UINT32_MAX, "", kErrUnsup)}},
  };
}

std::vector<Row> InfoRows() {
  return {
      {"GO", {Begins(), Goes()}, Then::kDisc},
      {"GO of the default export", {Begins(), Does(kGo, Asked(""), Told(kGo))}, Then::kDisc},
      {"GO, everything asked for",
       {Begins(),
        Does(kGo, Asked("disk", {kInfoExport, kInfoName, kInfoDescription, kInfoBlockSize}),
             Told(kGo))},
       Then::kDisc},
      {"GO, asked for what nobody knows",
       {Begins(), Does(kGo, Asked("disk", {77}), Told(kGo))},
       Then::kDisc},
      {"GO with a name that is longer than the data",
       {Begins(), Fails(kGo, U32(5) + "disk" + U16(0), kErrInvalid), Goes()},
       Then::kDisc},
      {"GO with a name of 4 GiB", {Begins(), Fails(kGo, U32(UINT32_MAX) + U16(0), kErrInvalid)}},
      {"GO with fewer infos than it says",
       {Begins(), Fails(kGo, Text("disk") + U16(2) + U16(0), kErrInvalid)}},
      {"GO with more infos than it says",
       {Begins(), Fails(kGo, Text("disk") + U16(0) + U16(0), kErrInvalid)}},
      {"GO with half an info", {Begins(), Fails(kGo, Text("disk") + U16(1) + "x", kErrInvalid)}},
      {"GO without anything", {Begins(), Fails(kGo, "", kErrInvalid)}},
      {"GO with three bytes", {Begins(), Fails(kGo, "abc", kErrInvalid)}},
      {"GO of no export, then of one",
       {Begins(), Fails(kGo, Asked("nobody"), kErrUnknown), Goes()},
       Then::kDisc},
      {"INFO of no export", {Begins(), Fails(kInfo, Asked("nobody"), kErrUnknown)}},
      {"INFO, then GO", {Begins(), Does(kInfo, Asked("disk"), Told(kInfo)), Goes()}, Then::kDisc},
      {"INFO of an export without a map",
       {Begins(), Does(kInfo, Asked("bare"), ToldOfBare(kInfo))}},
      {"all in one segment",
       {{Start() + Option(kList, "x") + Option(99) + Option(kGo, Asked("nobody")) +
             Option(kGo, Asked("disk")),
         OptionReply(kList, kErrInvalid) + OptionReply(99, kErrUnsup) +
             OptionReply(kGo, kErrUnknown) + Told(kGo)}},
       Then::kDisc},
  };
}

std::vector<Row> StyleRows() {
  return {
      {"STRUCTURED_REPLY", {Begins(), Structured(), Goes(kDfFlag)}, Then::kDisc},
      {"STRUCTURED_REPLY with data",
       {Begins(), Fails(kStructuredReply, "x", kErrInvalid), Goes()},
       Then::kDisc},
      {"STRUCTURED_REPLY twice", {Begins(), Structured(), Structured()}},
      {"EXTENDED_HEADERS", {Begins(), Extended(), Goes(kDfFlag)}, Then::kDiscExtended},
      {"EXTENDED_HEADERS with data",
       {Begins(), Fails(kExtendedHeaders, "x", kErrInvalid), Goes()},
       Then::kDisc},
      {"EXTENDED_HEADERS twice", {Begins(), Extended(), Extended()}},
      {"EXTENDED_HEADERS after STRUCTURED_REPLY",
       {Begins(), Structured(), Extended(), Goes(kDfFlag)},
       Then::kDiscExtended},
      {"STRUCTURED_REPLY after EXTENDED_HEADERS",
       {Begins(), Extended(), Fails(kStructuredReply, "", kErrExtHeaderReqd), Goes(kDfFlag)},
       Then::kDiscExtended},
  };
}

std::vector<Row> ListContextRows() {
  const std::string listed =
      ContextReply(kListMetaContext, 0, "base:allocation") + Ack(kListMetaContext);
  const auto lists = [](std::initializer_list<const char*> queries, const std::string& expected) {
    return Does(kListMetaContext, Queries("disk", queries), expected);
  };
  return {
      {"LIST_META_CONTEXT before structured replies",
       {Begins(), Fails(kListMetaContext, Queries("disk", {}), kErrInvalid)}},
      {"LIST_META_CONTEXT, all", {Begins(), Structured(), lists({}, listed)}},
      {"LIST_META_CONTEXT, extended", {Begins(), Extended(), lists({}, listed)}},
      {"LIST_META_CONTEXT, base:", {Begins(), Structured(), lists({"base:"}, listed)}},
      {"LIST_META_CONTEXT, one", {Begins(), Structured(), lists({"base:allocation"}, listed)}},
      {"LIST_META_CONTEXT, the same twice",
       {Begins(), Structured(), lists({"base:allocation", "base:"}, listed)}},
      {"LIST_META_CONTEXT, what nobody knows",
       {Begins(), Structured(), lists({"qemu:", "base:allocations", "x"}, Ack(kListMetaContext))}},
      {"LIST_META_CONTEXT of no export",
       {Begins(), Structured(), Fails(kListMetaContext, Queries("nobody", {}), kErrUnknown)}},
      {"LIST_META_CONTEXT of an export without a map",
       {Begins(), Structured(),
        Does(kListMetaContext, Queries("bare", {}), Ack(kListMetaContext))}},
  };
}

std::vector<Row> SetContextRows() {
  const std::string inactive =
      Chunk{.flags = kDone, .type = kError, .cookie = 7, .payload = U32(kEinval) + U16(0)}.In(
          Style::kStructured);
  const std::string active = Chunk{.flags = kDone,
                                   .type = kStatus,
                                   .cookie = 7,
                                   .payload = U32(kContext) + U32(512) + U32(3)}
                                 .In(Style::kStructured);
  const auto sets = [](std::initializer_list<const char*> queries) {
    return Does(kSetMetaContext, Queries("disk", queries), Ack(kSetMetaContext));
  };
  const auto bad = [](const std::string& data) {
    return Row{"SET_META_CONTEXT of a wrong length",
               {Begins(), Structured(), Fails(kSetMetaContext, data, kErrInvalid)}};
  };
  return {
      {"SET_META_CONTEXT before structured replies",
       {Begins(), Fails(kSetMetaContext, Queries("disk", {"base:allocation"}), kErrInvalid)}},
      {"SET_META_CONTEXT",
       {Begins(), Structured(), SetsContext("disk"), Goes(kDfFlag), AsksStatus(active)},
       Then::kDisc},
      {"SET_META_CONTEXT, extended",
       {Begins(), Extended(), SetsContext("disk"), Goes(kDfFlag)},
       Then::kDiscExtended},
      {"SET_META_CONTEXT with others",
       {Begins(), Structured(),
        Does(kSetMetaContext, Queries("disk", {"qemu:dirty", "base:allocation", "x:y"}),
             ContextReply(kSetMetaContext, kContext, "base:allocation") + Ack(kSetMetaContext)),
        Goes(kDfFlag), AsksStatus(active)},
       Then::kDisc},
      {"SET_META_CONTEXT knows no wildcard",
       {Begins(), Structured(), sets({"base:"}), Goes(kDfFlag), AsksStatus(inactive)},
       Then::kDisc},
      {"SET_META_CONTEXT of nothing takes back what was set",
       {Begins(), Structured(), SetsContext("disk"), sets({}), Goes(kDfFlag), AsksStatus(inactive)},
       Then::kDisc},
      {"SET_META_CONTEXT that fails takes back what was set",
       {Begins(), Structured(), SetsContext("disk"), Fails(kSetMetaContext, "x", kErrInvalid),
        Goes(kDfFlag), AsksStatus(inactive)},
       Then::kDisc},
      {"SET_META_CONTEXT of no export",
       {Begins(), Structured(),
        Fails(kSetMetaContext, Queries("nobody", {"base:allocation"}), kErrUnknown)}},
      {"SET_META_CONTEXT of an export without a map",
       {Begins(), Structured(),
        Does(kSetMetaContext, Queries("bare", {"base:allocation"}), Ack(kSetMetaContext))}},
      {"a context that was set for another export",
       {Begins(), Structured(), SetsContext("disk"),
        Does(kGo, Asked("bare"), ToldOfBare(kGo, kDfFlag)), AsksStatus(inactive)},
       Then::kDisc},
      {"no context", {Begins(), Structured(), Goes(kDfFlag), AsksStatus(inactive)}, Then::kDisc},
      bad(""),
      bad(U32(5) + "disk" + U32(0)),
      bad(Text("disk")),
      bad(Text("disk") + U32(1)),
      bad(Text("disk") + U32(1) + U32(16) + "base:allocation"),
      bad(Text("disk") + U32(0) + Text("base:allocation")),
      bad(Text("disk") + U32(UINT32_MAX) + Text("base:allocation")),
      bad(Text("disk") + U32(2) + Text("base:allocation")),
  };
}

// What the server does with more than any option needs.
std::vector<Row> LengthRows() {
  return {
      {"an option of 64 KiB", {Begins(), Fails(kGo, std::string(64 << 10, 'x'), kErrInvalid)}},
      {"an option of more than 64 KiB",
       {Begins(), {"IHAVEOPT" + U32(99) + U32((64 << 10) + 1), ""}},
       Then::kEnded},
      {"a name of 4096 bytes", {Begins(), Fails(kGo, Asked(std::string(4096, 'n')), kErrUnknown)}},
      {"a name of more than 4096 bytes",
       {Begins(), Fails(kGo, Asked(std::string(4097, 'n')), kErrInvalid)}},
      {"EXPORT_NAME of more than 4096 bytes",
       {Begins(), {Option(kExportName, std::string(4097, 'n')), ""}},
       Then::kEnded},
      {"an option of 4 GiB",
       {Begins(), {"IHAVEOPT" + U32(kGo) + U32(UINT32_MAX), ""}},
       Then::kEnded},
  };
}

class HandshakeTest : public ::testing::Test {
 protected:
  void Run(const std::vector<Row>& rows) {
    for (const Pace pace : {Pace::kAtOnce, Pace::kByteByByte}) {
      for (const Row& row : rows) Run(row, pace);
    }
  }

 private:
  void Run(const Row& row, Pace pace) {
    SCOPED_TRACE(row.name);
    SCOPED_TRACE(pace == Pace::kAtOnce ? "at once" : "byte by byte");
    Peer peer(rig_.socket_path());
    EXPECT_EQ(peer.Receive(18), Greeting());
    for (const Step& step : row.steps) {
      peer.Send(step.sent, pace);
      EXPECT_EQ(peer.ReceiveMessages(step.expected.size()), step.expected);
    }
    const Request disconnect{.command = kDisc};
    if (row.then == Then::kAbort) {
      peer.Send(Option(kAbort), pace);
      EXPECT_EQ(peer.ReceiveMessage(20), Ack(kAbort));
    } else if (row.then == Then::kDisc) {
      peer.Send(disconnect.In(Style::kSimple), pace);
    } else if (row.then == Then::kDiscExtended) {
      peer.Send(disconnect.In(Style::kExtended), pace);
    }
    EXPECT_EQ(peer.ReceiveAll(), "");
  }

  MemoryDisk disk_{{.name = "disk", .size_bytes = kDiskBytes}};
  MemoryDisk bare_{{.name = "bare", .size_bytes = kBareBytes, .has_map = false}};
  Rig rig_{{&disk_, &bare_}};
};

TEST_F(HandshakeTest, FlagsAndPlainOptions) { Run(FlagRows()); }
TEST_F(HandshakeTest, InfoAndGo) { Run(InfoRows()); }
TEST_F(HandshakeTest, StylesOfReply) { Run(StyleRows()); }
TEST_F(HandshakeTest, ListOfContexts) { Run(ListContextRows()); }
TEST_F(HandshakeTest, SetOfContexts) { Run(SetContextRows()); }
TEST_F(HandshakeTest, Lengths) { Run(LengthRows()); }

}  // namespace
}  // namespace understudy::nbd::script::handshake_test
