// What of a state directory may be lost, and what must come of it: a table of its files, each
// removed, emptied, cut short, made longer, and replaced by that of an older copy. A start that is
// refused touches nothing, however often it is tried, and with the file back everything goes on;
// one that succeeds compares all that its files do not tell.
#include <filesystem>
#include <fstream>
#include <map>
#include <ostream>
#include <string>

#include "absl/strings/str_cat.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/agent_state.h"
#include "client/primary.h"
#include "storage/base/log.h"
#include "tests/client/resync_fixture.h"

namespace understudy::client::state_directory_test {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

enum class How { kRemoved, kEmptied, kCut, kLonger, kOlder };
constexpr const char* kHowNames[] = {"removed", "emptied", "cut to half", "longer",
                                     "from an older copy"};
enum class Outcome {
  kRefused,   // DATA_LOSS, nothing is touched
  kCompared,  // nothing is known: everything is compared
  kWhole      // nothing depends on it
};
struct Loss {
  const char* file;
  How how;
  Outcome outcome;
  const char* named;  // part of the message
};
void PrintTo(const Loss& loss, std::ostream* out) {
  *out << loss.file << " " << kHowNames[static_cast<int>(loss.how)];
}

// The state file of an older copy is right, but names other files than those beside it.
constexpr Loss kTable[] = {
    {"agent", How::kRemoved, Outcome::kRefused, "state/agent is missing, but there is"},
    {"agent", How::kEmptied, Outcome::kRefused, "state/agent"},
    {"agent", How::kCut, Outcome::kRefused, "state/agent"},
    {"agent", How::kLonger, Outcome::kRefused, "state/agent"},
    {"agent", How::kOlder, Outcome::kCompared, ""},
    {"intent", How::kRemoved, Outcome::kCompared, ""},
    {"intent", How::kEmptied, Outcome::kCompared, ""},  // so it is where it cannot be removed
    {"intent", How::kCut, Outcome::kRefused, "state/intent"},
    {"intent", How::kLonger, Outcome::kRefused, "state/intent"},
    {"intent", How::kOlder, Outcome::kCompared, ""},
    {"differences", How::kRemoved, Outcome::kCompared, ""},
    {"differences", How::kEmptied, Outcome::kCompared, ""},
    {"differences", How::kCut, Outcome::kCompared, ""},
    {"differences", How::kLonger, Outcome::kCompared, ""},
    {"differences", How::kOlder, Outcome::kCompared, ""},
    {"requests", How::kRemoved, Outcome::kWhole, ""},
    {"requests", How::kEmptied, Outcome::kWhole, ""},
    {"errors", How::kRemoved, Outcome::kWhole, ""},
    {"errors", How::kEmptied, Outcome::kWhole, ""},
    {"LOCK", How::kRemoved, Outcome::kWhole, ""}};

using Files = std::map<std::string, std::string>;

class StateDirectoryTest : public ResyncFixture {
 protected:
  StateDirectoryTest() {
    base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
  }
  ~StateDirectoryTest() override { base::SetLogSinkForTest(nullptr); }

  Files FilesOf(const std::string& directory) {
    Files files;
    for (const auto& entry : fs::directory_iterator(directory)) {
      files[entry.path().filename()] = *base::FileSystem::Posix().ReadWholeFile(entry.path());
    }
    return files;
  }
  // Ends in order while the standby is away and misses `count` regions.
  void MissWrites(int count) {
    Outage(true);
    for (int i = 0; i < count; ++i) Write(i * 4 * kMiB, 'm', kWindowBytes);
    primary_->Shutdown(absl::Milliseconds(50));
    primary_.reset();
    Outage(false);
  }
  // An older copy, and a state directory with more to tell than that.
  void Build() {
    ASSERT_TRUE(Make().Start(false, Soon()).ok());
    Write(0, 'a');
    ExpectEqualAfterCheckpoint();
    MissWrites(2);
    fs::copy(state_, older_);
    Make();
    ExpectEqualAfterCheckpoint();
    MissWrites(4);
    for (const char* const name : {"errors", "requests"}) {
      if (!fs::exists(absl::StrCat(state_, "/", name)))
        std::ofstream(absl::StrCat(state_, "/", name));
    }
  }
  void Damage(const Loss& loss) {
    const std::string path = absl::StrCat(state_, "/", loss.file);
    switch (loss.how) {
      case How::kRemoved:
        ASSERT_TRUE(fs::remove(path));
        return;
      case How::kEmptied:
        return fs::resize_file(path, 0);
      case How::kCut:
        return fs::resize_file(path, fs::file_size(path) / 2);
      case How::kLonger:
        return fs::resize_file(path, fs::file_size(path) + 512);
      case How::kOlder:
        fs::copy_file(absl::StrCat(older_, "/", loss.file), path,
                      fs::copy_options::overwrite_existing);
    }
  }
  absl::Status TryToStart() {
    PrimaryOptions options{
        .forwarder = {.group = "vm1"},
        .volumes = {{.name = "disk0", .disk_path = directory_.File("disk.raw")}}};
    auto state = AgentState::Open(base::FileSystem::Posix(), state_);
    if (!state.ok()) return state.status();
    return Primary::Create(options, file_system_, *std::move(state), &transport_, &transport_)
        .status();
  }
  uint64_t ComparedByAStart() {
    const uint64_t before = transport_.seen().compared_bytes;
    Make();
    ExpectEqualAfterCheckpoint();
    return transport_.seen().compared_bytes - before;
  }

  const std::string state_ = directory_.File("state");
  const std::string older_ = directory_.File("older");
};

class LossTest : public StateDirectoryTest, public ::testing::WithParamInterface<Loss> {};

TEST_P(LossTest, NoLossOfAFileMakesAPrimaryForgetWhatDiffers) {
  const Loss& loss = GetParam();
  Build();
  ASSERT_FALSE(HasFatalFailure());
  const Files whole = FilesOf(state_);
  Damage(loss);
  if (loss.outcome == Outcome::kRefused) {
    const Files before = FilesOf(state_);
    for (int start = 1; start <= 3; ++start) {
      const absl::Status refused = TryToStart();
      EXPECT_TRUE(absl::IsDataLoss(refused)) << "start " << start << ": " << refused;
      EXPECT_THAT(std::string(refused.message()), HasSubstr(loss.named));
      EXPECT_THAT(std::string(refused.message()), HasSubstr("remedy"));
      EXPECT_TRUE(FilesOf(state_) == before) << "start " << start;
    }
    std::ofstream(absl::StrCat(state_, "/", loss.file), std::ios::binary) << whole.at(loss.file);
  }
  // What the agent cannot know of, and only a comparison of everything finds.
  if (loss.outcome == Outcome::kCompared) transport_.Corrupt(kDiskBytes - 4096, 'z');
  const uint64_t compared = ComparedByAStart();
  EXPECT_EQ(compared >= kDiskBytes, loss.outcome == Outcome::kCompared) << compared;
}
INSTANTIATE_TEST_SUITE_P(EachFile, LossTest, ::testing::ValuesIn(kTable));

// It has no grant yet, and is not new for all that.
TEST_F(StateDirectoryTest, APrimaryThatLostBothOfItsFilesBeforeItsFirstStartIsNotANewOne) {
  Make();
  Write(8 * kMiB, 'n');
  primary_->Shutdown(absl::Seconds(1));
  primary_.reset();
  for (const char* const name : {"differences", "intent"}) {
    ASSERT_TRUE(fs::remove(absl::StrCat(state_, "/", name)));
  }
  ASSERT_TRUE(Make().Start(false, Soon()).ok());
  ExpectEqualAfterCheckpoint();
}

// A crash on the way to comparing everything must not make the next start trust what it has left.
TEST_F(StateDirectoryTest, ALostFileIsStillLostAfterAStartThatDidNotGetFar) {
  Build();
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_TRUE(fs::remove(absl::StrCat(state_, "/intent")));
  ASSERT_EQ(TryToStart(), absl::OkStatus());  // makes `intent` anew, and ends
  transport_.Corrupt(kDiskBytes - 4096, 'z');
  EXPECT_GE(ComparedByAStart(), kDiskBytes);
}

TEST_F(StateDirectoryTest, AStateFileIsMissedBesideEachOfTheOthers) {
  for (const char* const name : {"intent", "differences", "errors", "requests"}) {
    fs::remove_all(state_);
    fs::create_directory(state_);
    std::ofstream(absl::StrCat(state_, "/", name)) << "x";
    const absl::Status refused = AgentState::Open(base::FileSystem::Posix(), state_).status();
    EXPECT_TRUE(absl::IsDataLoss(refused)) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(absl::StrCat("there is ", state_)));
    EXPECT_EQ(FilesOf(state_).size(), 1u);
  }
}

}  // namespace
}  // namespace understudy::client::state_directory_test
