// The point-in-time half of server/group.h, and the exports of clones.
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/export.h"
#include "storage/base/reason.h"
#include "tests/server/harness.h"

namespace understudy::server::group_history_test {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using testing::Harness;
using testing::Soon;
using testing::WriteStartOf;

class GroupHistoryTest : public ::testing::Test {
 protected:
  GroupHistoryTest() { harness_.Start(); }

  Group& group() { return *harness_.group; }
  std::shared_ptr<Export> Volume() { return harness_.service.FindExport("vm1/disk0").value(); }
  // Makes the disk all `fill` at a checkpoint, with 'V' as the VM's own first sector on top.
  Epoch Commit(char fill) {
    testing::TestAgent agent(harness_.service);
    EXPECT_TRUE(agent.Greet(testing::TestAgent::Hello("vm1")));
    agent.Send(
        testing::TestFrame().Data(0, std::string(4096, fill)).Add(OperationKind::kCheckpoint));
    const auto ack = agent.sink.AckThat(
        [&](const Ack& a) { return a.committed_sequence + 1 == agent.next_sequence; });
    EXPECT_TRUE(WriteStartOf(*Volume(), std::string(512, 'V')).ok());
    return Epoch(ack->committed_epoch);
  }
  char ByteAt(Export& from, uint64_t offset) {
    char byte = 0;
    EXPECT_TRUE(from.Read(offset, {&byte, 1}).ok());
    return byte;
  }
  absl::StatusOr<StopOutcome> GoBackTo(Epoch epoch, bool force = false) {
    return group().Stop({.failover = true, .epoch = epoch, .force = force}, Soon());
  }

  Harness harness_;
};

TEST_F(GroupHistoryTest, HistoryIsThereWhileRunning) {
  const Epoch first = Commit('a');
  const Epoch second = Commit('b');
  const HistoryReport report = group().History();
  EXPECT_EQ(report.stage, Stage::kRunning);
  ASSERT_EQ(report.epochs.size(), 2u);
  EXPECT_EQ(report.epochs[0].epoch, second);
  EXPECT_EQ(report.epochs[1].epoch, first);
  ASSERT_TRUE(group().Stop({.failover = true}, Soon()).ok());
  EXPECT_TRUE(group().History().epochs.empty());
}

TEST_F(GroupHistoryTest, AnOlderEpochIsRefusedWhileAVmIsConnectedUnlessForced) {
  const Epoch first = Commit('a');
  const Epoch second = Commit('b');
  Volume()->Connect();
  EXPECT_EQ(group().Status().nbd_connections, 1u);
  const absl::Status refused = GoBackTo(first).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(HasReason(refused, kReasonInUse));
  EXPECT_EQ(group().Status().replica.stage, Stage::kRunning);
  const StopOutcome forced = GoBackTo(first, /*force=*/true).value();
  EXPECT_EQ(forced.epoch, first);
  EXPECT_EQ(ByteAt(*Volume(), 0), 'a');
  EXPECT_LT(first, second);
}

TEST_F(GroupHistoryTest, TheNewestEpochMayBeNamedWhileAVmIsConnected) {
  Commit('a');
  const Epoch second = Commit('b');
  Volume()->Connect();
  EXPECT_EQ(GoBackTo(second)->epoch, second);
  EXPECT_EQ(ByteAt(*Volume(), 0), 'V') << "what the VM wrote belongs to it";
}

TEST_F(GroupHistoryTest, WhoHasDisconnectedIsInNobodysWay) {
  const Epoch first = Commit('a');
  Commit('b');
  Volume()->Connect();
  Volume()->Disconnect();
  EXPECT_TRUE(GoBackTo(first).ok());
}

TEST_F(GroupHistoryTest, AClientOfACloneDoesNotCount) {
  const Epoch first = Commit('a');
  Commit('b');
  ASSERT_TRUE(group().CreateClone({.name = "drill", .epoch = first}, {}).ok());
  harness_.service.FindExport("vm1@drill/disk0").value()->Connect();
  EXPECT_EQ(group().Status().nbd_connections, 0u);
  EXPECT_TRUE(GoBackTo(first).ok());
}

// Or it could read half of the newer epoch and half of the older one.
TEST_F(GroupHistoryTest, WhoConnectsDuringAFailoverToAnOlderEpochSeesOnlyThat) {
  using Place = testing::FakeReplica::Place;
  const Epoch first = Commit('a');
  Commit('b');
  harness_.replica().Stick(true, Place::kFailover);
  std::thread caller([&] { EXPECT_TRUE(GoBackTo(first).ok()); });
  harness_.replica().AwaitStuck(Place::kFailover);
  char seen = 0;
  std::thread client([&] {
    Volume()->Connect();
    seen = ByteAt(*Volume(), 1024);
  });
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(group().Status().nbd_connections, 0u);
  harness_.replica().Stick(false, Place::kFailover);
  caller.join();
  client.join();
  EXPECT_EQ(seen, 'a');
}

TEST_F(GroupHistoryTest, ReceivedAndAnEpochExcludeEachOther) {
  const Epoch first = Commit('a');
  const StopCommand both{.failover = true, .received = true, .epoch = first};
  EXPECT_TRUE(absl::IsInvalidArgument(group().Stop(both, Soon()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(group().Stop({.epoch = first}, Soon()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(group().Stop({.force = true}, Soon()).status()));
  EXPECT_TRUE(absl::IsNotFound(GoBackTo(Epoch(77)).status()));
  EXPECT_EQ(group().Status().replica.stage, Stage::kRunning);
}

TEST_F(GroupHistoryTest, ACloneWithoutAnEpochIsOfTheNewest) {
  Commit('a');
  const Epoch second = Commit('b');
  const storage::CloneInfo clone = group().CreateClone({.name = "drill"}, {}).value();
  EXPECT_EQ(clone.spec.epoch, second);
  EXPECT_EQ(group().Status().clones.size(), 1u);
  EXPECT_TRUE(absl::IsAlreadyExists(group().CreateClone({.name = "drill"}, {}).status()));
}

TEST_F(GroupHistoryTest, AGroupWithoutACheckpointHasNothingToClone) {
  const absl::Status status = group().CreateClone({.name = "drill"}, {}).status();
  EXPECT_TRUE(HasReason(status, kReasonNoCheckpoint)) << status;
  ASSERT_TRUE(group().Stop({.failover = true}, Soon()).ok());
  EXPECT_TRUE(HasReason(group().CreateClone({.name = "drill"}, {}).status(), kReasonNotRunning));
}

TEST_F(GroupHistoryTest, AClonesNameIsCheckedLikeAVolumes) {
  Commit('a');
  for (const char* const name : {"", "a/b", "A", "-x", "a@b"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(group().CreateClone({.name = name}, {}).status())) << name;
  }
}

TEST_F(GroupHistoryTest, ACallForAnotherPairingTouchesNoClone) {
  Commit('a');
  const Expected other{.incarnation = {.high = 1, .low = 2}, .term = {}};
  EXPECT_TRUE(HasReason(group().CreateClone({.name = "drill"}, other).status(), kReasonFenced));
  ASSERT_TRUE(group().CreateClone({.name = "drill"}, {}).ok());
  EXPECT_TRUE(HasReason(group().RemoveClone("drill", other), kReasonFenced));
  EXPECT_TRUE(group().RemoveClone("drill", {}).ok());
  EXPECT_TRUE(absl::IsNotFound(group().RemoveClone("drill", {})));
}

TEST_F(GroupHistoryTest, AClonesExportComesAndGoesWithIt) {
  const Epoch first = Commit('a');
  Service& service = harness_.service;
  ASSERT_TRUE(group().CreateClone({.name = "drill", .epoch = first}, {}).ok());
  Commit('b');
  EXPECT_THAT(service.ExportNames(), ElementsAre("vm1/disk0", "vm1@drill/disk0"));
  EXPECT_EQ(service.DefaultExportName(), "vm1/disk0");
  const std::shared_ptr<Export> clone = service.FindExport("vm1@drill/disk0").value();
  EXPECT_EQ(clone->name(), "vm1@drill/disk0");
  EXPECT_EQ(ByteAt(*clone, 0), 'a');
  ASSERT_TRUE(WriteStartOf(*clone, std::string(512, 'C')).ok());
  EXPECT_EQ(ByteAt(*clone, 0), 'C');
  EXPECT_EQ(ByteAt(*Volume(), 0), 'V');
  for (const char* const wrong :
       {"vm1@drill/other", "vm1@other/disk0", "vm2@drill/disk0", "vm1@drill", "vm1@/disk0", "@"}) {
    EXPECT_TRUE(absl::IsNotFound(service.FindExport(wrong).status())) << wrong;
  }
  // The name may come again: who had the old one open does not get the new one.
  ASSERT_TRUE(group().RemoveClone("drill", {}).ok());
  ASSERT_TRUE(group().CreateClone({.name = "drill", .epoch = first}, {}).ok());
  char byte;
  EXPECT_TRUE(absl::IsFailedPrecondition(clone->Read(0, {&byte, 1})));
  EXPECT_FALSE(clone->Map({0, 4096}, 1).ok());
  EXPECT_EQ(ByteAt(*service.FindExport("vm1@drill/disk0").value(), 0), 'a');
  ASSERT_TRUE(group().RemoveClone("drill", {}).ok());
  EXPECT_THAT(service.ExportNames(), ElementsAre("vm1/disk0"));
}

TEST_F(GroupHistoryTest, AFullCloneIsItsOwnAffair) {
  Commit('a');
  ASSERT_TRUE(group().CreateClone({.name = "drill", .bytes_max = 1024}, {}).ok());
  const std::shared_ptr<Export> clone = harness_.service.FindExport("vm1@drill/disk0").value();
  ASSERT_TRUE(WriteStartOf(*clone, std::string(1024, 'C')).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(WriteStartOf(*clone, std::string(512, 'D'))));
  EXPECT_TRUE(group().GetError()->errors.empty());
  const IoStats::PerKind& writes =
      group().stats().clone_io.kinds[static_cast<size_t>(IoKind::kWrite)];
  EXPECT_EQ(writes.bytes.value(), 1024u);
  EXPECT_EQ(writes.errors.value(), 1u);
  const IoStats& own = group().io_stats(VolumeId(0));
  EXPECT_EQ(own.kinds[static_cast<size_t>(IoKind::kWrite)].errors.value(), 0u);
}

TEST_F(GroupHistoryTest, ABatchIsCountedAndLatchedAsSingleWrites) {
  Commit('a');
  ASSERT_TRUE(group().CreateClone({.name = "drill", .bytes_max = 1024}, {}).ok());
  const std::shared_ptr<Export> clone = harness_.service.FindExport("vm1@drill/disk0").value();
  const std::string data(1024, 'C');
  const std::string more(512, 'D');
  const std::vector<BlockWrite> writes = {{.offset = 0, .data = data},
                                          {.offset = 4096, .data = more}};
  std::vector<absl::Status> results(2);
  clone->WriteAll(writes, results);
  EXPECT_TRUE(results[0].ok());
  EXPECT_TRUE(absl::IsResourceExhausted(results[1])) << results[1];
  const auto expect = [](IoStats& stats, uint64_t requests, uint64_t bytes, uint64_t errors) {
    const IoStats::PerKind& counted = stats.kinds[static_cast<size_t>(IoKind::kWrite)];
    EXPECT_EQ(counted.requests.value(), requests);
    EXPECT_EQ(counted.bytes.value(), bytes);
    EXPECT_EQ(counted.errors.value(), errors);
  };
  expect(group().stats().clone_io, 2, 1024, 1);
  EXPECT_TRUE(group().GetError()->errors.empty());

  const std::shared_ptr<Export> volume = Volume();
  harness_.replica().FailIo(absl::InternalError("dead disk"));
  results.assign(2, absl::OkStatus());
  volume->WriteAll(writes, results);
  EXPECT_THAT(results, Each(absl::InternalError("dead disk")));
  expect(group().io_stats(VolumeId(0)), 3, 512, 2);  // Commit() has written, too
  const std::vector<base::LatchedError> latched = group().GetError()->errors;
  ASSERT_EQ(latched.size(), 1u);
  EXPECT_EQ(latched[0].operation, "disk_write");
  EXPECT_EQ(latched[0].count, 2u);
  EXPECT_EQ(latched[0].range, (ByteRange{4096, 4608}));

  ASSERT_TRUE(group().RemoveClone("drill", {}).ok());
  results.assign(2, absl::OkStatus());
  clone->WriteAll(writes, results);
  for (const absl::Status& result : results) EXPECT_TRUE(absl::IsFailedPrecondition(result));
}

TEST_F(GroupHistoryTest, AfterShutdownAClonesExportTouchesNothing) {
  Commit('a');
  ASSERT_TRUE(group().CreateClone({.name = "drill"}, {}).ok());
  const std::shared_ptr<Export> clone = harness_.service.FindExport("vm1@drill/disk0").value();
  harness_.service.Shutdown();
  EXPECT_TRUE(absl::IsCancelled(WriteStartOf(*clone, std::string(512, 'x'))));
}

}  // namespace
}  // namespace understudy::server::group_history_test
