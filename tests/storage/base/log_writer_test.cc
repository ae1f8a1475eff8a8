#include "storage/base/log_writer.h"

#include <cstdlib>
#include <fcntl.h>
#include <signal.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include <gtest/gtest.h>

namespace understudy::base::log_writer_test {
namespace {

constexpr size_t kBytesMax = 8192;
constexpr absl::Duration kPatience = absl::Seconds(60);

// The smallest pipe there is. Nobody reads it but the test.
class LogWriterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    signal(SIGPIPE, SIG_IGN);
    ASSERT_EQ(pipe(ends_), 0);
    ASSERT_GE(fcntl(ends_[1], F_SETPIPE_SZ, 4096), 0);
  }
  void TearDown() override {
    CloseReader();
    close(ends_[1]);
  }
  void CloseReader() {
    if (ends_[0] >= 0) close(ends_[0]);
    ends_[0] = -1;
  }
  // The next line without its newline.
  std::string ReadLine() {
    std::string line;
    for (char c = 0; read(ends_[0], &c, 1) == 1 && c != '\n';) line.push_back(c);
    return line;
  }
  static std::string Line(int number) {
    return absl::StrCat("line ", number, " ", std::string(100, '.'), "\n");
  }

  int ends_[2] = {-1, -1};
};

TEST_F(LogWriterTest, AReaderThatStandsStillHoldsUpNobodyAndIsToldWhatIsMissing) {
  LogWriter writer(ends_[1], kBytesMax);
  constexpr int kLines = 1000;
  for (int i = 0; i < kLines; ++i) writer.Append(Line(i));
  EXPECT_FALSE(writer.Flush(absl::Milliseconds(20)));
  const uint64_t dropped = writer.lines_dropped();
  ASSERT_GT(dropped, 0u);
  writer.Append("last word\n", /*last_word=*/true);
  EXPECT_EQ(writer.lines_dropped(), dropped);

  // How many are missing is said where they are: more than once, if the writer was there in
  // between.
  const std::string note_words = " W log_lines_dropped lines=";
  uint64_t told = 0;
  uint64_t next = 0;
  for (bool last_word = false; !last_word || told < dropped;) {
    const std::string line = ReadLine();
    uint64_t missing = 0;
    if (line == "last word") {
      last_word = true;
    } else if (const size_t note = line.find(note_words); note != std::string::npos) {
      ASSERT_TRUE(absl::SimpleAtoi(line.substr(note + note_words.size()), &missing)) << line;
      told += missing;
      next += missing;
    } else {
      ASSERT_TRUE(absl::StartsWith(line, absl::StrCat("line ", next, " "))) << line;
      ++next;
    }
  }
  EXPECT_EQ(told, dropped);
  EXPECT_EQ(next, static_cast<uint64_t>(kLines));
  EXPECT_TRUE(writer.Flush(kPatience));
  writer.Append(Line(kLines));  // there is room again
  EXPECT_TRUE(absl::StartsWith(ReadLine(), absl::StrCat("line ", kLines)));
  EXPECT_EQ(writer.lines_dropped(), dropped);
}

TEST_F(LogWriterTest, LinesThatCannotBeWrittenAreCounted) {
  LogWriter writer(ends_[1], kBytesMax);
  CloseReader();
  for (uint64_t i = 1; i <= 3; ++i) {
    writer.Append("lost\n");
    EXPECT_TRUE(writer.Flush(kPatience));
    EXPECT_EQ(writer.lines_dropped(), i);
  }
}

TEST_F(LogWriterTest, ALineThatFitsNowhereTakesNoOtherAlong) {
  LogWriter writer(ends_[1], 100);
  writer.Append(std::string(200, 'x') + "\n");
  writer.Append("short\n");
  EXPECT_TRUE(writer.Flush(kPatience));
  EXPECT_EQ(writer.lines_dropped(), 1u);
}

TEST_F(LogWriterTest, ADescriptorThatSomebodyMadeNonBlockingLosesNothing) {
  ASSERT_EQ(fcntl(ends_[1], F_SETFL, O_NONBLOCK), 0);
  LogWriter writer(ends_[1], 1 << 20);
  for (int i = 0; i < 200; ++i) writer.Append(Line(i));
  for (int i = 0; i < 200; ++i) EXPECT_EQ(absl::StrCat(ReadLine(), "\n"), Line(i));
  EXPECT_TRUE(writer.Flush(kPatience));
  EXPECT_EQ(writer.lines_dropped(), 0u);
}

TEST_F(LogWriterTest, AForkedChildWritesItself) {
  LogWriter writer(ends_[1], kBytesMax);
  writer.Append("parent\n");
  ASSERT_TRUE(writer.Flush(kPatience));
  const pid_t child = fork();
  if (child == 0) {
    writer.Append("child\n");
    _exit(writer.Flush(kPatience) ? 0 : 1);
  }
  int raw = 0;
  waitpid(child, &raw, 0);
  EXPECT_EQ(raw, 0);
  EXPECT_EQ(ReadLine(), "parent");
  EXPECT_EQ(ReadLine(), "child");
}

}  // namespace
}  // namespace understudy::base::log_writer_test
