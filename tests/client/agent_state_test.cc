#include "client/agent_state.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/log.h"
#include "tests/testing/fault_file_system.h"
#include "tests/testing/scripted_clock.h"

namespace understudy::client::agent_state_test {
namespace {

using ::testing::HasSubstr;

class AgentStateTest : public ::testing::Test {
 protected:
  AgentStateTest() {
    char name[] = "/tmp/understudy-state-XXXXXX";
    directory_ = mkdtemp(name);
  }
  ~AgentStateTest() override { std::filesystem::remove_all(directory_); }
  absl::StatusOr<std::unique_ptr<AgentState>> Open() {
    return AgentState::Open(base::FileSystem::Posix(), directory_ + "/state");
  }
  std::string directory_;
};

TEST_F(AgentStateTest, TheAgentIdStaysTheSameOverRestarts) {
  const std::string id = (*Open())->record().agent_id;
  EXPECT_TRUE(CheckName("agent id", id).ok()) << id;
  EXPECT_EQ((*Open())->record().agent_id, id);
}

TEST_F(AgentStateTest, WhatIsStoredIsReadBack) {
  AgentRecord written;
  {
    const auto state = Open();
    ASSERT_TRUE((*state)
                    ->Update([](AgentRecord& record) {
                      record.stage = Stage::kRunning;
                      record.grant = {.incarnation = {.high = 1, .low = 2}, .term = Term(9)};
                      record.fenced = true;
                      record.handed_over = true;
                      record.proof = Proof::kRefuted;
                      record.forward = "vda,vdb";
                      record.resume = {.stream_id = 77, .next_sequence = 12};
                    })
                    .ok());
    written = (*state)->record();
  }
  EXPECT_TRUE((*Open())->record() == written);
}

TEST_F(AgentStateTest, AnUncleanMarkForgetsTheResumePointDurably) {
  const auto resume = [](AgentRecord& record) {
    record.resume = {.stream_id = 7, .next_sequence = 2};
  };
  {
    const auto state = Open();
    ASSERT_TRUE((*state)->Update(resume).ok());
    ASSERT_TRUE((*state)->MarkUnclean().ok());
  }
  EXPECT_EQ((*Open())->record().resume.stream_id, 0u);
}

// Where there is no room for a new file the old one is cut.
TEST_F(AgentStateTest, AFullFileSystemDoesNotKeepAnUncleanMarkFromBeingDurable) {
  base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
  testing::FaultFileSystem files;
  AgentRecord written;
  {
    const auto state = *AgentState::Open(files, directory_ + "/state");
    ASSERT_TRUE(state
                    ->Update([](AgentRecord& record) {
                      record.stage = Stage::kRunning;
                      record.clean = true;
                      record.pair = {.high = 1, .low = 2};
                      record.disks = "vda:1:2";
                      record.resume = {.stream_id = 7, .next_sequence = 2};
                    })
                    .ok());
    files.SetHook([](testing::FileOperation operation, const std::string& path) {
      return operation == testing::FileOperation::kWrite ? base::ErrnoStatus(ENOSPC, path)
                                                         : absl::OkStatus();
    });
    EXPECT_FALSE(state->Update([](AgentRecord& record) { record.fenced = true; }).ok());
    ASSERT_EQ(state->MarkUnclean(), absl::OkStatus());
    written = state->record();
  }
  EXPECT_FALSE(written.clean);
  EXPECT_EQ(written.resume.stream_id, 0u);
  EXPECT_EQ(written.disks, "vda:1:2");
  EXPECT_EQ(written.stored_micros, 0) << "it would be of before what is written now";
  EXPECT_TRUE((*Open())->record() == written);
  base::SetLogSinkForTest(nullptr);
}

// An older release has the end of a run between the other lines.
TEST_F(AgentStateTest, AnOlderFileIsWrittenOverWhereThereIsNoRoom) {
  base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
  const std::string path = directory_ + "/state/agent";
  { ASSERT_TRUE(Open().ok()); }
  constexpr char kOlder[] =
      "version=1\nagent_id=agent-1\nstage=RUNNING\nincarnation="
      "00000000000000010000000000000002\nterm=7\nfenced=0\nhanded_over=0\nclean=1\n"
      "stored=1700000000000000\nforward=vda\nstream_id=123456789\nnext_sequence=42\n";
  ASSERT_TRUE(base::FileSystem::Posix().WriteFileAtomically(path, kOlder).ok());
  testing::FaultFileSystem files;
  AgentRecord written;
  {
    const auto state = *AgentState::Open(files, directory_ + "/state");
    ASSERT_EQ(state->record().resume.stream_id, 123456789U);
    files.SetHook([](testing::FileOperation operation, const std::string& file) {
      const bool grows =
          operation == testing::FileOperation::kWrite && absl::EndsWith(file, ".tmp");
      return grows ? base::ErrnoStatus(ENOSPC, file) : absl::OkStatus();
    });
    ASSERT_EQ(state->MarkUnclean(), absl::OkStatus());
    written = state->record();
  }
  EXPECT_FALSE(written.clean);
  EXPECT_EQ(written.resume.stream_id, 0U);
  EXPECT_EQ(written.stored_micros, 0) << "it would be of before what is written now";
  EXPECT_EQ(written.forward, "vda");
  EXPECT_EQ(written.grant.term, Term(7));
  EXPECT_TRUE((*Open())->record() == written);
  base::SetLogSinkForTest(nullptr);
}

// The file is there, but a power cut may bring back the one before it, which says that all is
// clean.
TEST_F(AgentStateTest, AnUncleanMarkWhoseNameIsNotDurableIsNone) {
  testing::FaultFileSystem files;
  const auto state = *AgentState::Open(files, directory_ + "/state");
  ASSERT_TRUE(state->Update([](AgentRecord& record) { record.clean = true; }).ok());
  files.SetHook([](testing::FileOperation operation, const std::string& path) {
    return operation == testing::FileOperation::kSyncDirectory ? base::ErrnoStatus(EIO, path)
                                                               : absl::OkStatus();
  });
  EXPECT_FALSE(state->MarkUnclean().ok());
  EXPECT_FALSE(state->MarkUnclean().ok()) << "forgotten after the first try";
  files.SetHook(nullptr);
  EXPECT_TRUE(state->MarkUnclean().ok());
}

TEST_F(AgentStateTest, ACleanEndKeepsItsTimeForAsLongAsItStands) {
  testing::ScriptedClock clock;
  const auto state = *AgentState::Open(base::FileSystem::Posix(), directory_ + "/state", clock);
  const auto update = [&](bool clean) {
    ASSERT_TRUE(state->Update([&](AgentRecord& record) { record.clean = clean; }).ok());
  };
  update(true);
  clock.Advance(absl::Minutes(10));
  update(true);
  EXPECT_EQ(state->SinceStored(state->record()), absl::Minutes(10));
  update(false);
  EXPECT_EQ(state->SinceStored(state->record()), absl::ZeroDuration());
}

// Goal: no part of a file is read as a whole one. What comes last may be missing, which only means
// more comparing.
TEST(AgentRecordTest, AFileThatWasCutSaysNothingElse) {
  const AgentRecord whole{.agent_id = "agent-1",
                          .stage = Stage::kRunning,
                          .clean = true,
                          .disks = "vda:1:2",
                          .resume = {.stream_id = 77, .next_sequence = 1234},
                          .stored_micros = 1700000000000000,
                          .stored_at = {.boot_id = "b", .since_boot = absl::Seconds(9)},
                          .differences = "1a2b3c4d,5e6f",
                          .intent = 0xabcdef};
  const std::string text = EncodeAgentRecord(whole);
  ASSERT_TRUE(*DecodeAgentRecord(text) == whole);
  std::set<std::string> rest;
  for (size_t length = 0; length < text.size(); ++length) {
    const auto cut = DecodeAgentRecord(text.substr(0, length));
    if (!cut.ok()) {
      EXPECT_TRUE(absl::IsDataLoss(cut.status())) << cut.status();
      continue;
    }
    AgentRecord expected = whole;
    if (cut->resume.stream_id == 0) expected.resume = {};
    expected.clean = cut->clean;
    if (cut->stored_at.since_boot == absl::ZeroDuration()) expected.stored_at.since_boot = {};
    if (cut->stored_at.boot_id.empty()) expected.stored_at = {};
    if (cut->stored_micros == 0) expected.stored_micros = 0;
    EXPECT_TRUE(*cut == expected) << text.substr(0, length);
    rest.insert(text.substr(length, text.find('=', length) - length));
  }
  EXPECT_THAT(rest, ::testing::ElementsAre("boot_id", "clean", "next_sequence", "since_boot",
                                           "stored", "stream_id"));
}

TEST_F(AgentStateTest, ANewDirectoryThatTakesNothingIsRefusedWithTheRemedy) {
  testing::FaultFileSystem files;
  files.SetHook([](testing::FileOperation operation, const std::string& path) {
    return operation == testing::FileOperation::kWrite ? base::ErrnoStatus(ENOSPC, path)
                                                       : absl::OkStatus();
  });
  const auto state = AgentState::Open(files, directory_ + "/state");
  EXPECT_EQ(state.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(state.status().message()),
              AllOf(HasSubstr(directory_ + "/state"), HasSubstr("--state-dir")));
}

TEST_F(AgentStateTest, HowLongAgoItWasStoredIsKnownWithinOneBoot) {
  testing::ScriptedClock clock;
  const auto since_stored = [&] {
    const auto state = AgentState::Open(base::FileSystem::Posix(), directory_ + "/state", clock);
    return (*state)->SinceStored((*state)->record());
  };
  EXPECT_EQ(since_stored(), absl::ZeroDuration());
  clock.Advance(absl::Seconds(3));
  clock.Jump(-absl::Hours(1));
  EXPECT_EQ(since_stored(), absl::Seconds(3));
  clock.Reboot();
  EXPECT_EQ(since_stored(), absl::InfiniteDuration());
  ASSERT_TRUE(base::FileSystem::Posix()
                  .WriteFileAtomically(directory_ + "/state/agent",
                                       "version=1\nagent_id=a\nstored=1700000000000000\n")
                  .ok());
  EXPECT_EQ(since_stored(), absl::InfiniteDuration()) << "of an older release";
}

TEST_F(AgentStateTest, ADirectoryInUseIsRefusedByName) {
  const auto first = Open();
  const auto second = Open();
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(directory_));
}

TEST_F(AgentStateTest, ADamagedOrNewerFileIsRefusedAndLeftAsItIs) {
  ASSERT_TRUE(Open().ok());
  for (const char* text : {"version=3\nagent_id=a\n", "version=1\n", "version=1\nagent_id=a\nx\n",
                           "version=1\nagent_id=UPPER\n"}) {
    ASSERT_TRUE(
        base::FileSystem::Posix().WriteFileAtomically(directory_ + "/state/agent", text).ok());
    const auto state = Open();
    EXPECT_FALSE(state.ok()) << text;
    EXPECT_THAT(std::string(state.status().message()), HasSubstr(directory_ + "/state/agent"));
    EXPECT_EQ(*base::FileSystem::Posix().ReadWholeFile(directory_ + "/state/agent"), text);
  }
}

TEST_F(AgentStateTest, WithoutADirectoryNothingIsKept) {
  const auto state = AgentState::Open(base::FileSystem::Posix(), "");
  ASSERT_TRUE(state.ok());
  EXPECT_FALSE((*state)->kept());
  EXPECT_TRUE((*state)->MarkUnclean().ok());
}

}  // namespace
}  // namespace understudy::client::agent_state_test
