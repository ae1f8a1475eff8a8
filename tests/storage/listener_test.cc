// What a replica tells its listener of stages, checkpoints, missing operations and jobs: each once, in order, with state() at or
// past it.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/storage/store_fixture.h"

namespace understudy::storage::listener_test {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using testing::FileOperation;

class Recorder : public ReplicaListener {
 public:
  void OnBackgroundError(const BackgroundError& /*error*/) override {}
  void OnChange() override {}
  void OnStage(Stage stage, Term term) override {
    const ReplicaState state = replica->state();
    EXPECT_TRUE(state.stage == stage && state.term >= term);
    Note(absl::StrCat(std::string(StageName(stage)), " term ", term.value()));
  }
  void OnCommitted(const CheckpointResult& result) override {
    EXPECT_GE(replica->state().committed_epoch, result.epoch);
    Note(absl::StrCat("epoch ", result.epoch.value()));
  }
  void OnIncomplete(bool incomplete) override {
    EXPECT_EQ(replica->state().incomplete, incomplete);
    Note(incomplete ? "incomplete" : "complete");
  }
  void OnHandover(bool handed_over) override {
    EXPECT_EQ(replica->state().handed_over, handed_over);
    Note(handed_over ? "handed over" : "taken back");
  }
  void OnJob(absl::string_view kind, const std::optional<absl::Status>& ended) override {
    const std::string name(kind);
    if (jobs) Note(ended ? absl::StrCat(name, " ended ", ended->ok()) : name + " begun");
  }
  std::vector<std::string> Take() {
    base::MutexLock lock(mutex_);
    return std::exchange(notes_, {});
  }

  Replica* replica = nullptr;
  bool jobs = true;

 private:
  void Note(std::string note) {
    base::MutexLock lock(mutex_);
    notes_.push_back(std::move(note));
  }
  base::Mutex mutex_;
  std::vector<std::string> notes_ ABSL_GUARDED_BY(mutex_);
};

class ListenerTest : public ::testing::Test {
 protected:
  void Begin(bool jobs = true) {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    recorder_.replica = &f_.replica();
    recorder_.jobs = jobs;
    f_.replica().SetListener(&recorder_);
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  }
  void TearDown() override {
    f_.files().SetHook(nullptr);
    f_.CloseStore();
  }
  void AwaitJobs() {
    ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  }

  Recorder recorder_;
  StoreFixture f_{1};
};

TEST_F(ListenerTest, AGroupIsToldFromStartToDone) {
  Begin();
  EXPECT_THAT(recorder_.Take(), ElementsAre("RUNNING term 1"));
  ASSERT_EQ(f_.PrimaryWrite(0, 0, f_.Bytes(512)), absl::OkStatus());
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  AwaitJobs();
  EXPECT_THAT(recorder_.Take(), ElementsAre("epoch 1", "apply begun", "apply ended 1"));
  // A marker that comes again is answered again, and told once.
  f_.set_next_sequence(2);
  ASSERT_EQ(f_.MarkedCheckpoint()->epoch, Epoch(1));
  EXPECT_THAT(recorder_.Take(), ElementsAre());
  ASSERT_EQ(f_.replica().Write(VolumeId(0), 0, f_.Bytes(512), false), absl::OkStatus());
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  AwaitJobs();
  EXPECT_THAT(recorder_.Take(),
              ElementsAre("FAILOVER term 2", "commit begun", "DONE term 2", "commit ended 1"));
}

// Many checkpoints in flight, which one batch of the index commits together.
TEST_F(ListenerTest, CheckpointsThatCommitTogetherAreToldOneByOne) {
  Begin(/*jobs=*/false);
  recorder_.Take();
  std::vector<std::string> expected;
  for (int epoch = 1; epoch <= 40; ++epoch) {
    ASSERT_EQ(f_.Append({{.kind = OperationKind::kCheckpoint}}, "",
                        [](const absl::StatusOr<CheckpointResult>&) {}),
              absl::OkStatus());
    expected.push_back(absl::StrCat("epoch ", epoch));
  }
  // The last checkpoint of a planned stop has no marker of its own.
  expected.push_back("epoch 41");
  expected.push_back("DONE term 1");
  ASSERT_EQ(f_.replica().Stop(), absl::OkStatus());
  EXPECT_THAT(recorder_.Take(), ElementsAreArray(expected));
}

TEST_F(ListenerTest, MissingOperationsAreToldWhenTheyBeginAndEnd) {
  Begin(/*jobs=*/false);
  recorder_.Take();
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kIncomplete}}, ""), absl::OkStatus());
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kIncomplete}}, ""), absl::OkStatus());
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kComplete}}, ""), absl::OkStatus());
  EXPECT_THAT(recorder_.Take(), ElementsAre("incomplete", "complete"));
  // Another stream than the one that has written: what it brings cannot follow on.
  ASSERT_EQ(f_.replica().AttachStream(999, /*may_checkpoint=*/false), absl::OkStatus());
  EXPECT_THAT(recorder_.Take(), ElementsAre("incomplete"));
}

TEST_F(ListenerTest, AHandoverIsToldBehindItsCheckpointAndWhenItIsTakenBack) {
  Begin(/*jobs=*/false);
  const auto hand_over = [&] {
    std::promise<absl::Status> committed;
    ASSERT_EQ(f_.Append({{.kind = OperationKind::kHandover}}, "",
                        [&](const auto& result) { committed.set_value(result.status()); }),
              absl::OkStatus());
    ASSERT_EQ(committed.get_future().get(), absl::OkStatus());
  };
  recorder_.Take();
  hand_over();
  EXPECT_THAT(recorder_.Take(), ElementsAre("epoch 1", "handed over"));
  ASSERT_TRUE(f_.Checkpoint().ok());
  EXPECT_THAT(recorder_.Take(), ElementsAre("epoch 2"));
  ASSERT_EQ(f_.replica().TakeBackHandover(), absl::OkStatus());
  ASSERT_EQ(f_.replica().TakeBackHandover(), absl::OkStatus());
  EXPECT_THAT(recorder_.Take(), ElementsAre("taken back"));
  ASSERT_EQ(f_.replica().AttachStream(f_.replica().state().stream_id, false), absl::OkStatus());
  hand_over();
  EXPECT_THAT(recorder_.Take(), ElementsAre("epoch 3", "handed over"));
  ASSERT_EQ(f_.replica().BindAgent("agent", /*takeover=*/true), absl::OkStatus());
  EXPECT_THAT(recorder_.Take(), ElementsAre("taken back"));
}

TEST_F(ListenerTest, ACommitJobThatFailsEndsBeforeTheStageSaysSo) {
  Begin();
  const std::string path = f_.spec().volumes[0].disk_path;
  f_.files().SetHook([path](FileOperation operation, const std::string& asked) {
    if (operation == FileOperation::kWrite && asked == path) return base::ErrnoStatus(EIO, path);
    return absl::OkStatus();
  });
  ASSERT_EQ(f_.replica().Write(VolumeId(0), 0, f_.Bytes(512), false), absl::OkStatus());
  recorder_.Take();
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_FALSE(f_.replica().WaitForJobs(base::Deadline::Never()).ok());
  EXPECT_THAT(recorder_.Take(), ElementsAre("FAILOVER term 2", "commit begun", "commit ended 0",
                                            "FAILOVER_FAILED term 2"));
}

TEST_F(ListenerTest, AScrubIsAJob) {
  Begin();
  recorder_.Take();
  ASSERT_EQ(f_.replica().Scrub({}).status(), absl::OkStatus());
  std::vector<std::string> notes;
  while (notes.size() < 2) {
    absl::SleepFor(absl::Milliseconds(1));
    for (std::string& note : recorder_.Take()) notes.push_back(std::move(note));
  }
  EXPECT_THAT(notes, ElementsAre("scrub begun", "scrub ended 1"));
}

}  // namespace
}  // namespace understudy::storage::listener_test
