// The worked examples of docs/on_disk_format.md are what the code writes. A failure prints the block that belongs there.
#include <algorithm>
#include <fstream>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include <gtest/gtest.h>

#include "storage/base/file_system.h"
#include "storage/format.h"
#include "storage/segment_log.h"
#include "storage/segment_pool.h"
#include "tests/testing/temp_dir.h"

namespace understudy::storage::format_example_test {
namespace {

constexpr uint64_t kSeed = 1;  // of the incarnation, which is random elsewhere
constexpr size_t kLineBytes = 16;

std::string Text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string Line(const std::string& bytes, size_t at) {
  std::string line = absl::StrFormat("%08x ", at);
  for (size_t i = at; i < std::min(at + kLineBytes, bytes.size()); ++i) {
    absl::StrAppendFormat(&line, i % 8 == 0 && i > at ? "  %02x" : " %02x",
                          static_cast<unsigned char>(bytes[i]));
  }
  return absl::StrCat(line, "\n");
}

// As `hexdump -C` without the characters; lines of zeroes are left out, lines like the one above become one "*".
std::string Dump(const std::string& bytes) {
  std::string dump;
  std::string above;
  bool repeated = false;
  for (size_t at = 0; at < bytes.size(); at += kLineBytes) {
    const std::string line = bytes.substr(at, kLineBytes);
    if (line.find_first_not_of('\0') == std::string::npos) continue;
    if (line != above) dump += Line(bytes, at);
    if (line == above && !repeated) dump += "*\n";
    repeated = line == above;
    above = line;
  }
  return dump;
}

// The code block that follows the comment `example: NAME` in the document.
std::string Documented(const std::string& name) {
  const std::string document = Text(absl::StrCat(UNDERSTUDY_SOURCE_DIR, "/docs/on_disk_format.md"));
  const size_t marker = document.find(absl::StrCat("<!-- example: ", name, " -->"));
  const size_t begin = document.find("```\n", marker) + 4;
  const size_t end = document.find("```", begin);
  if (marker == std::string::npos || end == std::string::npos) return "no such example\n";
  return document.substr(begin, end - begin);
}

// A segment with one frame of three operations that ends epoch 5.
std::string WriteExampleSegment() {
  const understudy::testing::TempDir directory;
  SegmentPool pool(base::FileSystem::Posix(), directory.path(), 4 << 20, 64 << 20, kSeed);
  SegmentLog log(pool, /*group=*/1, LogRole::kHidden);
  const std::vector<Operation> operations = {
      {.volume = 0, .kind = OperationKind::kData, .offset = 3584, .length = 1024},
      {.volume = 1, .kind = OperationKind::kZero, .offset = 8192, .length = 4096},
      {.kind = OperationKind::kCheckpoint}};
  const std::string payload = std::string(512, 'a') + std::string(512, 'b');
  const std::span<const char> slice(payload);
  const auto appended = log.Append({.overlay = OverlayId(7),
                                    .stream_id = 0x1122334455667788,
                                    .term = Term(3),
                                    .first_sequence = 41,
                                    .operations = operations,
                                    .payload = std::span(&slice, 1),
                                    .epoch = Epoch(5),
                                    .next_hidden = OverlayId(8),
                                    .next_active = OverlayId(9),
                                    .unix_micros = 1700000000000000});
  EXPECT_TRUE(appended.ok()) << appended.status();
  return Text(directory.File("0000000000000001.seg"));
}

TEST(FormatExampleTest, SegmentAndFrameAreAsDocumented) {
  EXPECT_EQ(Documented("segment"), Dump(WriteExampleSegment()));
}

TEST(FormatExampleTest, ExtentsAreAsDocumented) {
  const Extent extent{.start = 3584,
                      .origin_start = 3584,
                      .origin_bytes = 1024,
                      .segment = 1,
                      .position = 0x2000,
                      .checksums = 0x10b8};
  EXPECT_EQ(Documented("extent-key"), Dump(EncodeExtentKey(OverlayId(7), VolumeId(0), 4608)));
  EXPECT_EQ(Documented("extent"), Dump(Encode(extent)));
}

TEST(FormatExampleTest, OverlaysAndPositionsAreAsDocumented) {
  const OverlayRecord overlay{.group = 1,
                              .role = LogRole::kHidden,
                              .epoch = Epoch(5),
                              .state = OverlayState::kCommitted,
                              .start = {},
                              .end = {.ordinal = 1, .offset = 0x3000},
                              .unix_micros = 1700000000000000,
                              .covered = {{.all = 1024, .data = 1024}, {.all = 4096, .data = 0}},
                              .segments = {{.first = 1, .last = 1}},
                              .segment_incarnations = 0x2245bd5fbb686f68};
  EXPECT_EQ(Documented("overlay"), Dump(Encode(overlay)));
  const IndexedPosition position{.position = {.ordinal = 1, .offset = 0x3000},
                                 .stream_id = 0x1122334455667788,
                                 .sequence = 43,
                                 .incomplete = false};
  EXPECT_EQ(Documented("position"), Dump(Encode(position)));
}

TEST(FormatExampleTest, GroupsAreAsDocumented) {
  const GroupRecord group{.number = 1,
                          .name = "vm1",
                          .stage = Stage::kRunning,
                          .incarnation = {.high = 0x0102030405060708, .low = 0x090a0b0c0d0e0f10},
                          .term = Term(3),
                          .agent_id = "agent-a",
                          .epoch = Epoch(6),
                          .committed_epoch = Epoch(5),
                          .committed_sequence = 43,
                          .committed_stream = 0x1122334455667788,
                          .committed_micros = 1700000000000000,
                          .committed_bytes = 5120,
                          .committed_duration_micros = 2100,
                          .valid = true,
                          .hidden = OverlayId(8),
                          .active = OverlayId(9),
                          .roll_forward_through = Epoch(),
                          .applied_epoch = Epoch(4),
                          .applied_micros = 1699999999000000,
                          .applying_through = Epoch(5),
                          .volumes = {{.name = "vda",
                                       .top_id = "vm1/vda",
                                       .disk_path = "/d/vda",
                                       .size_bytes = 1 << 20,
                                       .initial = Initial::kEqual,
                                       .identity = {.file_system = "fs", .inode = 12},
                                       .merged_through = 0}}};
  EXPECT_EQ(Documented("group"), Dump(Encode(group)));
}

}  // namespace
}  // namespace understudy::storage::format_example_test
