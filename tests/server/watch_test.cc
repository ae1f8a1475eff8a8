// Watch over a real connection, on the fake store: what a stream begins with, resumes with, and how it ends.
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "proto/status_codec.h"
#include "server/rpc/replication_service.h"
#include "storage/base/reason.h"
#include "tests/server/harness.h"

namespace understudy::server::watch_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::OneVolume;
using testing::Soon;

// One stream of Watch as a client has it.
class Watcher {
 public:
  Watcher(v1::Replication::Stub& stub, const std::string& group, const std::string& token = "",
          absl::Duration refresh = absl::ZeroDuration()) {
    v1::WatchRequest request;
    request.set_group(group);
    request.set_resume_token(token);
    request.set_refresh_micros(static_cast<uint64_t>(absl::ToInt64Microseconds(refresh)));
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    reader_ = stub.Watch(&context_, request);
  }
  ~Watcher() {
    if (reader_ != nullptr) Cancel().IgnoreError();
  }

  // kind UNSPECIFIED: the stream has ended.
  v1::WatchEvent Next() {
    v1::WatchEvent event;
    if (!reader_->Read(&event)) event.Clear();
    if (!event.resume_token().empty()) token = event.resume_token();
    return event;
  }
  // The messages up to `kind`, as "KIND group".
  std::vector<std::string> Until(v1::WatchKind kind) {
    std::vector<std::string> seen;
    while (true) {
      const v1::WatchEvent event = Next();
      seen.push_back(absl::StrCat(v1::WatchKind_Name(event.kind()).substr(11),
                                  event.group().empty() ? "" : " ", event.group()));
      if (event.kind() == kind || event.kind() == v1::WATCH_KIND_UNSPECIFIED) return seen;
    }
  }
  absl::Status Finish() {
    v1::WatchEvent event;
    while (reader_->Read(&event)) {
    }
    const absl::Status status = proto::FromGrpcStatus(reader_->Finish());
    reader_ = nullptr;
    return status;
  }
  absl::Status Cancel() {
    context_.TryCancel();
    return Finish();
  }

  std::string token;

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::WatchEvent>> reader_;
};

class WatchTest : public ::testing::Test {
 protected:
  WatchTest() : replication_(harness_.service) {
    grpc::ServerBuilder builder;
    builder.RegisterService(&replication_);
    server_ = builder.BuildAndStart();
    stub_ = v1::Replication::NewStub(server_->InProcessChannel({}));
    harness_.Start();
  }
  ~WatchTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  void Checkpoint() { ASSERT_TRUE(harness_.group->Checkpoint({}, Soon()).ok()); }
  std::shared_ptr<Group> Open(const std::string& name) {
    return harness_.service.Open(Mode::kSecondary, OneVolume(name), Soon()).value().group;
  }

  testing::Harness harness_;
  ReplicationService replication_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Replication::Stub> stub_;
};

TEST_F(WatchTest, AStreamBeginsWithEveryGroupAndGoesOnWithEvents) {
  Open("vm2");
  Watcher watcher(*stub_, "");
  const v1::WatchEvent first = watcher.Next();
  EXPECT_EQ(first.kind(), v1::WATCH_KIND_SNAPSHOT);
  EXPECT_EQ(first.number(), 0u);
  EXPECT_EQ(first.resume_token(), "") << "who is cut off here has not been told of vm2";
  EXPECT_EQ(first.status().group(), "vm1");
  EXPECT_EQ(first.status().stage(), v1::STAGE_RUNNING);
  EXPECT_THAT(watcher.Until(v1::WATCH_KIND_CURRENT), ElementsAre("SNAPSHOT vm2", "CURRENT"));
  Checkpoint();
  const v1::WatchEvent event = watcher.Next();
  EXPECT_EQ(event.kind(), v1::WATCH_KIND_CHECKPOINT);
  EXPECT_EQ(event.group(), "vm1");
  EXPECT_EQ(event.epoch(), 1u);
  EXPECT_EQ(event.bytes(), 4096u);
  EXPECT_EQ(event.duration_micros(), 2000u);
  EXPECT_EQ(event.status().committed_epoch(), 1u);
  EXPECT_EQ(event.resume_token().size(), 16u);
  EXPECT_LT(absl::Now() - absl::FromUnixMicros(event.unix_micros()), absl::Minutes(1));
  harness_.group->Latch(VolumeId(0), "read", {0, 512}, absl::DataLossError("damaged"));
  const v1::WatchEvent error = watcher.Next();
  EXPECT_EQ(error.error().code(), "DATA_LOSS");
  EXPECT_EQ(error.number(), event.number() + 1);
  ASSERT_EQ(error.status().errors_size(), 1);
  ASSERT_TRUE(harness_.service.Remove("vm2", false, {}, Soon()).ok());
  const v1::WatchEvent removed = watcher.Next();
  EXPECT_EQ(removed.kind(), v1::WATCH_KIND_REMOVED);
  EXPECT_EQ(removed.group(), "vm2");
  EXPECT_FALSE(removed.has_status());
  ASSERT_TRUE(harness_.group->Stop({.failover = true}, Soon()).ok());
  const v1::WatchEvent stage = watcher.Next();
  EXPECT_EQ(stage.stage(), v1::STAGE_FAILOVER);
  EXPECT_EQ(stage.term(), 2u);
}

TEST_F(WatchTest, AnEmptyServiceIsCurrentAtOnce) {
  ASSERT_TRUE(harness_.group->Stop({}, Soon()).ok());
  ASSERT_TRUE(harness_.service.Remove("vm1", false, {}, Soon()).ok());
  Watcher watcher(*stub_, "");
  EXPECT_THAT(watcher.Until(v1::WATCH_KIND_CURRENT), ElementsAre("CURRENT"));
  Open("vm9");
  EXPECT_THAT(watcher.Until(v1::WATCH_KIND_OPENED), ElementsAre("OPENED vm9"));
}

// Cut off after every single event; each new stream goes on with the next one.
TEST_F(WatchTest, NothingIsLostOrDoubledOverReconnects) {
  std::string token;
  {
    Watcher watcher(*stub_, "vm1");
    watcher.Until(v1::WATCH_KIND_CURRENT);
    token = watcher.token;
  }
  const int checkpoints = 30;
  for (int i = 0; i < checkpoints; ++i) Checkpoint();
  for (uint64_t epoch = 1; epoch <= checkpoints; ++epoch) {
    Watcher watcher(*stub_, "vm1", token);
    const v1::WatchEvent event = watcher.Next();
    ASSERT_EQ(event.kind(), v1::WATCH_KIND_CHECKPOINT);
    ASSERT_EQ(event.epoch(), epoch);
    token = watcher.token;
    EXPECT_EQ(watcher.Cancel().code(), absl::StatusCode::kCancelled);
  }
  Watcher watcher(*stub_, "vm1", token);
  EXPECT_THAT(watcher.Until(v1::WATCH_KIND_CURRENT), ElementsAre("CURRENT"));
  Checkpoint();
  EXPECT_EQ(watcher.Next().epoch(), checkpoints + 1u);
}

TEST_F(WatchTest, ATokenOfAnotherRunIsAGapWithTheWholeState) {
  Open("vm2");
  Watcher watcher(*stub_, "", base::EncodePosition({.run = 17, .number = 1}));
  const v1::WatchEvent gap = watcher.Next();
  EXPECT_EQ(gap.kind(), v1::WATCH_KIND_GAP);
  EXPECT_EQ(gap.resume_token(), "") << "with it the snapshots would be lost";
  EXPECT_THAT(gap.detail(), HasSubstr("another run"));
  EXPECT_THAT(watcher.Until(v1::WATCH_KIND_CURRENT),
              ElementsAre("SNAPSHOT vm1", "SNAPSHOT vm2", "CURRENT"));
  Checkpoint();
  EXPECT_EQ(watcher.Next().epoch(), 1u);
}

TEST_F(WatchTest, ATokenFromBeforeTheJournalsReachIsAGap) {
  Watcher early(*stub_, "vm1");
  early.Until(v1::WATCH_KIND_CURRENT);
  const std::string token = early.token;
  early.Cancel().IgnoreError();
  base::Event large{.kind = base::EventKind::kJobEnded, .group = "vm1"};
  large.detail = std::string(1 << 20, 'x');
  for (size_t i = 0; i < base::EventJournal::kBytesMax / large.detail.size() + 1; ++i) {
    harness_.service.journal().Append(large);
  }
  Watcher late(*stub_, "vm1", token);
  EXPECT_THAT(late.Next().detail(), HasSubstr("does not reach back"));
  EXPECT_THAT(late.Until(v1::WATCH_KIND_CURRENT), ElementsAre("SNAPSHOT vm1", "CURRENT"));
}

// It reads nothing while far more happens than a connection buffers: its place in the journal is lost, and it is told so. The
// events before the gap and after it are in order.
TEST_F(WatchTest, AWatcherThatIsTooSlowGetsAGapInItsStream) {
  Watcher slow(*stub_, "vm1");
  slow.Until(v1::WATCH_KIND_CURRENT);
  base::Event large{.kind = base::EventKind::kJobEnded, .group = "vm1"};
  large.detail = std::string(1 << 20, 'x');
  for (int i = 0; i < 100; ++i) harness_.service.journal().Append(large);
  Checkpoint();
  std::vector<std::string> seen = slow.Until(v1::WATCH_KIND_GAP);
  EXPECT_LT(seen.size(), 90u);
  EXPECT_THAT(slow.Until(v1::WATCH_KIND_CURRENT).front(), "SNAPSHOT vm1");
  Checkpoint();
  EXPECT_EQ(slow.Next().epoch(), 2u) << "epoch 1 is in the snapshot";
}

TEST_F(WatchTest, AGroupThatWentWhileNobodyWatchedIsToldToTheToken) {
  Watcher early(*stub_, "vm1");
  early.Until(v1::WATCH_KIND_CURRENT);
  early.Cancel().IgnoreError();
  ASSERT_TRUE(harness_.group->Stop({}, Soon()).ok());
  ASSERT_TRUE(harness_.service.Remove("vm1", false, {}, Soon()).ok());
  Watcher late(*stub_, "vm1", early.token);
  EXPECT_THAT(late.Until(v1::WATCH_KIND_CURRENT),
              ElementsAre("CHECKPOINT vm1", "STAGE vm1", "REMOVED vm1", "CURRENT"));
  Watcher gone(*stub_, "vm1", base::EncodePosition({.run = 17, .number = 1}));
  EXPECT_THAT(gone.Until(v1::WATCH_KIND_CURRENT), ElementsAre("GAP", "CURRENT"));
  Watcher unknown(*stub_, "vm1");
  const absl::Status status = unknown.Finish();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(HasReason(status, kReasonUnknownGroup));
  Watcher malformed(*stub_, "", "short");
  EXPECT_EQ(malformed.Finish().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(WatchTest, OtherGroupsAreNotToldAndTheTokenKeepsUpWithThem) {
  Watcher watcher(*stub_, "vm1");
  EXPECT_THAT(watcher.Until(v1::WATCH_KIND_CURRENT), ElementsAre("SNAPSHOT vm1", "CURRENT"));
  const std::string before = watcher.token;
  for (int i = 0; i < 1100; ++i) {
    harness_.service.journal().Append({.kind = base::EventKind::kJobBegun, .group = "vm2"});
  }
  EXPECT_THAT(watcher.Until(v1::WATCH_KIND_CURRENT), ElementsAre("CURRENT"));
  EXPECT_GT(watcher.token, before);
  Checkpoint();
  EXPECT_EQ(watcher.Next().group(), "vm1");
}

TEST_F(WatchTest, FiguresAreRefreshedWhenTheyChangeAndNotFasterThanAsked) {
  harness_.replica().Mutate([](storage::ReplicaState& state) { state.stage = Stage::kDone; });
  Watcher watcher(*stub_, "vm1", "", absl::Milliseconds(1));  // taken as 100 ms
  watcher.Until(v1::WATCH_KIND_CURRENT);
  const absl::Time begun = absl::Now();
  for (uint64_t bytes = 1; bytes <= 3; ++bytes) {
    harness_.replica().Mutate(
        [bytes](storage::ReplicaState& state) { state.overlay_bytes = bytes; });
    const v1::WatchEvent refresh = watcher.Next();
    EXPECT_EQ(refresh.kind(), v1::WATCH_KIND_REFRESH);
    EXPECT_EQ(refresh.number(), 0u);
    EXPECT_EQ(refresh.status().overlay_bytes(), bytes);
  }
  EXPECT_GE(absl::Now() - begun, absl::Milliseconds(200));
  // Nothing moves, nothing is said: the next message is the event.
  absl::SleepFor(absl::Milliseconds(300));
  harness_.group->OnIncomplete(true);
  EXPECT_EQ(watcher.Next().kind(), v1::WATCH_KIND_INCOMPLETE);
}

TEST_F(WatchTest, AfterResumingEveryGroupIsRefreshedOnce) {
  Watcher early(*stub_, "");
  early.Until(v1::WATCH_KIND_CURRENT);
  Watcher late(*stub_, "", early.token, absl::Milliseconds(100));
  EXPECT_THAT(late.Until(v1::WATCH_KIND_REFRESH), ElementsAre("CURRENT", "REFRESH vm1"));
}

TEST_F(WatchTest, ShutdownEndsStreamsWithUnavailable) {
  Watcher watcher(*stub_, "");
  watcher.Until(v1::WATCH_KIND_CURRENT);
  replication_.EndStreams();
  EXPECT_EQ(watcher.Finish().code(), absl::StatusCode::kUnavailable);
  Watcher late(*stub_, "");
  EXPECT_EQ(late.Finish().code(), absl::StatusCode::kUnavailable);
}

TEST_F(WatchTest, ManyWatchersAreToldTheSame) {
  std::vector<std::unique_ptr<Watcher>> watchers;
  for (int i = 0; i < 50; ++i) {
    watchers.push_back(std::make_unique<Watcher>(*stub_, i % 2 == 0 ? "" : "vm1"));
    watchers.back()->Until(v1::WATCH_KIND_CURRENT);
  }
  for (int i = 0; i < 20; ++i) Checkpoint();
  for (const auto& watcher : watchers) {
    for (uint64_t epoch = 1; epoch <= 20; ++epoch) EXPECT_EQ(watcher->Next().epoch(), epoch);
  }
}

}  // namespace
}  // namespace understudy::server::watch_test
