// A tee-mode agent whose standby goes away, loses things, or has never had anything: whatever happened, the standby's bytes become the
// primary's, no checkpoint commits before that, and no more is sent than what differs.
#include "client/resync.h"

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/differences.h"
#include "storage/base/reason.h"
#include "tests/client/resync_fixture.h"
#include "tests/testing/seed.h"

namespace understudy::client::resync_test {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;

using ResyncTest = ResyncFixture;

TEST_F(ResyncTest, ALongOutageIsMadeGoodWithWhatWasMissedAndNoMore) {
  Primary& primary = Make();
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  Write(0, 'a');
  ASSERT_TRUE(primary.Checkpoint(Soon()).ok());
  const uint64_t sent_before = transport_.seen().data_bytes;

  Outage(true);
  for (uint64_t i = 0; i < 4 * kWindowBytes; i += 64 << 10) Write(kMiB + i, 'b', 64 << 10);
  ASSERT_TRUE(Eventually([&] { return primary.forwarder().state().incomplete; }));
  EXPECT_EQ(primary.sync_state(), SyncState::kBehind);
  EXPECT_GT(primary.differences().missing_bytes(0), kWindowBytes);
  EXPECT_EQ(transport_.seen().committed, Epoch(1));

  Outage(false);
  ExpectEqualAfterCheckpoint();
  EXPECT_LE(transport_.seen().data_bytes - sent_before, 4 * kWindowBytes + kWindowBytes);
  EXPECT_THAT(primary.errors(), IsEmpty()) << primary.errors()[0].message;
  EXPECT_TRUE(Becomes(SyncState::kAssumed));  // nobody has compared the rest
  EXPECT_THAT(transport_.seen().kinds, Contains(OperationKind::kComplete));
}

TEST_F(ResyncTest, AShortOutageNeedsNone) {
  Primary& primary = Make();
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  Write(0, 'a');
  Outage(true);
  Write(4096, 'b', kWindowBytes / 2);
  Outage(false);
  ExpectEqualAfterCheckpoint();
  EXPECT_THAT(transport_.seen().kinds, ::testing::Not(Contains(OperationKind::kIncomplete)));
}

// What was received is remembered until it is durable, so the guest is not held, and a power cut costs what it took and no more.
TEST_F(ResyncTest, AHungSyncAtTheStandbyDoesNotHoldTheGuest) {
  stall_timeout_ = absl::Seconds(20);
  transport_.Track();
  transport_.Set([](auto& b) { b.durable = false; });
  Primary& primary = Make();
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  ASSERT_TRUE(Eventually([&] { return Complete(); }));
  for (const bool cut : {false, true}) {
    const uint64_t compared = transport_.seen().compared_bytes;
    const uint64_t sent = transport_.seen().data_bytes;
    transport_.Set([](auto& b) { b.hung_sync = true; });
    for (uint64_t i = 0; i < 4 * kWindowBytes; i += 64 << 10) Write(i, cut ? 'c' : 'h', 64 << 10);
    EXPECT_EQ(primary.sync_state(), SyncState::kAssumed) << "nothing is missing";
    if (cut) PowerCut();
    transport_.Set([](auto& b) { b.hung_sync = false; });
    ExpectEqualAfterCheckpoint();
    EXPECT_THAT(primary.errors(), IsEmpty());
    EXPECT_EQ(transport_.seen().compared_bytes, compared) << "it is known what was lost";
    EXPECT_LE(transport_.seen().data_bytes - sent, 2 * 4 * kWindowBytes + kWindowBytes);
  }
}

// No more is remembered than there is room for: then it is as with a standby that hangs.
TEST_F(ResyncTest, AHungSyncAtTheStandbyHoldsTheGuestForTheStallTimeoutAtMost) {
  transport_.Track();
  transport_.Set([](auto& b) { b.durable = false; });
  remembered_ranges_max_ = 16;
  Primary& primary = Make();
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  for (const bool cut : {false, true}) {
    ASSERT_TRUE(Eventually([&] { return Complete(); }));
    transport_.Set([](auto& b) { b.hung_sync = true; });
    const absl::Time began = absl::Now();
    for (uint64_t i = 0; i < 4 * kWindowBytes; i += 64 << 10) Write(i, cut ? 'c' : 'h', 64 << 10);
    EXPECT_LT(absl::Now() - began, absl::Seconds(5));
    EXPECT_EQ(primary.sync_state(), SyncState::kBehind);
    if (cut) PowerCut();
    transport_.Set([](auto& b) { b.hung_sync = false; });
    ExpectEqualAfterCheckpoint();
    EXPECT_THAT(primary.errors(), IsEmpty());
  }
}

TEST_F(ResyncTest, AFirstSyncSendsOnlyWhatDiffersAndProvesTheRest) {
  Primary& primary = Make();
  Write(8 * kMiB, 'x', 64 << 10);
  transport_.Set([](auto& b) { b.incomplete = true; });  // initial=sync
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  ExpectEqualAfterCheckpoint();
  EXPECT_EQ(transport_.seen().data_bytes, 64u << 10);
  EXPECT_GE(transport_.seen().compared_bytes, kDiskBytes);
  EXPECT_TRUE(Becomes(SyncState::kInSync));
}

TEST_F(ResyncTest, AfterAKillOnlyWhatWasHotIsCompared) {
  Primary& primary = Make();
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  Write(0, 'a');
  ASSERT_TRUE(primary.Checkpoint(Soon()).ok());
  Outage(true);
  Write(9 * kMiB, 'b');
  Write(9 * kMiB + 8192, 'c');
  Kill();

  const uint64_t compared_before = transport_.seen().compared_bytes;
  const uint64_t sent_before = transport_.seen().data_bytes;
  Make();
  ExpectEqualAfterCheckpoint();
  EXPECT_LE(transport_.seen().compared_bytes - compared_before, 8 * kMiB);  // two regions
  EXPECT_EQ(transport_.seen().data_bytes - sent_before, 8192u);
}

TEST_F(ResyncTest, AnOrderlyRestartKeepsWhatIsMissing) {
  Primary& primary = Make();
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  Outage(true);
  for (uint64_t i = 0; i < 2 * kWindowBytes; i += 64 << 10) Write(i, 'b', 64 << 10);
  primary.Shutdown(absl::Milliseconds(50));
  primary_.reset();
  Outage(false);
  const uint64_t compared_before = transport_.seen().compared_bytes;
  Make();
  ExpectEqualAfterCheckpoint();
  EXPECT_EQ(transport_.seen().compared_bytes, compared_before);
}

// Whatever becomes of its files: an agent that knows nothing compares everything.
TEST_F(ResyncTest, AStateDirectoryThatLostAFileKnowsNothing) {
  const auto lose = [](const std::string& path) { ASSERT_TRUE(std::filesystem::remove(path)); };
  const auto damage = [](const std::string& path) {
    std::string bytes = *base::FileSystem::Posix().ReadWholeFile(path);
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    ASSERT_TRUE(base::FileSystem::Posix().WriteFileAtomically(path, bytes).ok());
  };
  ASSERT_TRUE(Make().Start(false, Soon()).ok());
  Write(0, 'a');
  ExpectEqualAfterCheckpoint();
  const std::vector<std::pair<std::string, std::function<void(const std::string&)>>> accidents = {
      {"differences", lose}, {"differences", damage}, {"intent", lose}};
  for (const auto& [file, accident] : accidents) {
    primary_->Shutdown(absl::Seconds(1));
    primary_.reset();
    accident(directory_.File("state/" + file));
    transport_.Corrupt(20 * kMiB, 'z');
    const uint64_t compared_before = transport_.seen().compared_bytes;
    Make();
    ExpectEqualAfterCheckpoint();
    EXPECT_GE(transport_.seen().compared_bytes - compared_before, kDiskBytes) << file;
  }
}

TEST_F(ResyncTest, AStandbyThatLostWhatItHadIsComparedWhole) {
  Primary& primary = Make();
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  Write(0, 'a');
  Write(4096, 'b');
  ASSERT_TRUE(primary.Checkpoint(Soon()).ok());
  ASSERT_TRUE(Eventually([&] { return primary.forwarder().state().window_bytes == 0; }));
  transport_.ForgetAfter(1);
  transport_.Corrupt(4096, 'z');
  transport_.Disconnect();
  ASSERT_TRUE(Eventually([&] { return transport_.seen().compared_bytes >= kDiskBytes; }));
  ExpectEqualAfterCheckpoint();
}

TEST_F(ResyncTest, AVerifyFindsADifferenceAndAFullSyncMendsIt) {
  Primary& primary = Make();
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  Write(0, 'a', 64 << 10);
  ASSERT_TRUE(primary.Checkpoint(Soon()).ok());
  const auto verified = [&](uint64_t number) {
    const VerifyState verify = primary.resync().verify();
    return verify.number == number && verify.outcome != VerifyOutcome::kRunning;
  };
  ASSERT_EQ(primary.Verify(0).value(), 1u);
  ASSERT_TRUE(Eventually([&] { return verified(1); }));
  EXPECT_EQ(primary.resync().verify().outcome, VerifyOutcome::kEqual);
  EXPECT_EQ(primary.sync_state(), SyncState::kInSync);

  transport_.Corrupt(20 * kMiB + 5, 'z');
  ASSERT_EQ(primary.Verify(0).value(), 2u);
  ASSERT_TRUE(Eventually([&] { return verified(2); }));
  EXPECT_EQ(primary.resync().verify().outcome, VerifyOutcome::kDifferent);
  EXPECT_EQ(primary.resync().verify().different_bytes, 4096u);
  EXPECT_EQ(primary.sync_state(), SyncState::kDiverged);
  ASSERT_THAT(primary.errors(), ::testing::SizeIs(1));
  EXPECT_EQ(primary.errors()[0].range, ByteRange::OfLength(20 * kMiB, 4096));

  ASSERT_TRUE(primary.Sync(SyncMode::kFull, Soon()).ok());
  ExpectEqualAfterCheckpoint();
  EXPECT_TRUE(Becomes(SyncState::kInSync));
  EXPECT_TRUE(Eventually([&] { return primary.errors().empty(); }));
}

TEST_F(ResyncTest, ASequenceIsNeverUsedTwice) {
  Primary& primary = Make();
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  Write(0, 'a');
  ASSERT_TRUE(primary.Checkpoint(Soon()).ok());
  primary.Shutdown(absl::Seconds(1));
  Make();
  ASSERT_TRUE(Eventually([&] { return Complete(); }));
  ASSERT_TRUE(primary_->Checkpoint(Soon()).ok());  // nobody has written
  Kill();
  Outage(true);
  Make();
  Write(kMiB, 'L');
  Write(2 * kMiB, 'M');
  Outage(false);
  ExpectEqualAfterCheckpoint();
}

TEST_F(ResyncTest, AKillInAResyncOfAnIdleVmLosesNothing) {
  Primary& primary = Make();
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  Write(0, 'a');
  ASSERT_TRUE(primary.Checkpoint(Soon()).ok());
  Outage(true);
  for (uint64_t i = 0; i < 2 * kWindowBytes; i += 64 << 10) Write(kMiB + i, 'b', 64 << 10);
  ASSERT_TRUE(Eventually([&] { return primary.forwarder().state().incomplete; }));
  primary.Shutdown(absl::Milliseconds(50));
  primary_.reset();
  transport_.Set([](auto& b) { b.hold_sent = true; });
  Outage(false);
  Make();
  ASSERT_TRUE(Eventually([&] { return primary_->forwarder().state().window_bytes > kMiB; }));
  Kill();
  transport_.Set([](auto& b) { b.hold_sent = false; });
  Make();
  ExpectEqualAfterCheckpoint();
}

class HeldSource : public ChecksumSource {
 public:
  explicit HeldSource(ChecksumSource* inner) : inner_(inner) {}
  absl::Status Fetch(const std::string& group, const Grant& grant, const std::string& volume,
                     ByteRange range,
                     absl::FunctionRef<absl::Status(ChecksumSlice)> take) override {
    const absl::Status status = inner_->Fetch(group, grant, volume, range, take);
    if (hold) reached = true;
    while (hold) absl::SleepFor(absl::Milliseconds(1));
    return status;
  }
  void Cancel() override {
    hold = false;
    inner_->Cancel();
  }
  std::atomic<bool> hold{false};
  std::atomic<bool> reached{false};

 private:
  ChecksumSource* const inner_;
};

// What one standby held proves nothing of another one, which was only declared to be equal.
TEST_F(ResyncTest, AVerifyDoesNotOutliveItsPairing) {
  HeldSource source(&transport_);
  source_ = &source;
  Primary& primary = Make();
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  Write(0, 'a');
  ASSERT_TRUE(primary.Checkpoint(Soon()).ok());
  source.hold = true;
  ASSERT_TRUE(primary.Verify(0).ok());
  ASSERT_TRUE(Eventually([&] { return source.reached.load(); }));
  Outage(true);
  ASSERT_TRUE(primary.Stop(true, Soon()).ok());
  ASSERT_TRUE(primary.Remove(Soon()).ok());
  transport_.StartAfresh();
  transport_.NewIncarnation();
  transport_.Corrupt(20 * kMiB, 'z');
  Outage(false);
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  ASSERT_TRUE(Eventually([&] { return Complete(); }));
  source.hold = false;
  ASSERT_TRUE(
      Eventually([&] { return primary.resync().verify().outcome != VerifyOutcome::kRunning; }));
  EXPECT_EQ(primary.resync().verify().outcome, VerifyOutcome::kStopped);
  EXPECT_EQ(primary.sync_state(), SyncState::kAssumed);
  primary_.reset();
}

TEST_F(ResyncTest, AResyncDoesNotOutliveItsPairing) {
  HeldSource source(&transport_);
  source_ = &source;
  Primary& primary = Make();
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  Write(0, 'a');
  ASSERT_TRUE(primary.Checkpoint(Soon()).ok());
  source.hold = true;
  ASSERT_TRUE(primary.Sync(SyncMode::kFull, Soon()).ok());
  ASSERT_TRUE(Eventually([&] { return source.reached.load(); }));
  Outage(true);
  ASSERT_TRUE(primary.Stop(true, Soon()).ok());
  ASSERT_TRUE(primary.Remove(Soon()).ok());
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  // Another standby, initial=sync: it has nothing.
  transport_.StartAfresh();
  transport_.Set([](auto& b) { b.incomplete = true; });
  for (uint64_t i = 0; i < 4096; ++i) transport_.Corrupt(i, 0);
  source.hold = false;
  absl::SleepFor(absl::Milliseconds(300));
  Outage(false);
  ExpectEqualAfterCheckpoint();
  primary_.reset();
}

TEST_F(ResyncTest, ATimeInForwardModeIsNotForgotten) {
  Make();
  ASSERT_TRUE(primary_->Start(false, Soon()).ok());
  Write(0, 'a');
  ASSERT_TRUE(primary_->Checkpoint(Soon()).ok());
  primary_->Shutdown(absl::Seconds(1));
  forward_ = true;  // the child of a quorum: QEMU writes the disk itself
  Make();
  ASSERT_TRUE(Eventually([&] { return Complete(); }));
  Outage(true);
  auto file = base::FileSystem::Posix().Open(directory_.File("disk.raw"), {});
  for (uint64_t i = 0; i < 2 * kWindowBytes; i += 64 << 10) {
    const std::string data(64 << 10, 'b');
    ASSERT_TRUE((*file)->Write(kMiB + i, data).ok());
    Write(kMiB + i, 'b', 64 << 10);
  }
  ASSERT_TRUE(Eventually([&] { return primary_->forwarder().state().incomplete; }));
  primary_->Shutdown(absl::Milliseconds(50));
  primary_.reset();
  forward_ = false;
  Outage(false);
  Make();
  ExpectEqualAfterCheckpoint();
}

// QEMU's quorum goes on with its own disk when the agent stays away.
TEST_F(ResyncTest, WhoWasAwayInForwardModeDoesNotKnowWhatWasWritten) {
  forward_ = true;
  struct Absence {
    const char* what;
    std::function<void()> happens;
    bool complete = false;
  };
  const auto away = [&](absl::Duration by, absl::Duration set = {}) {
    clock_.Advance(by);
    clock_.Jump(set);
  };
  const auto older_file = [&] {
    const std::string path = directory_.File("state/agent");
    std::string text = *base::FileSystem::Posix().ReadWholeFile(path);
    const size_t begin = text.find("boot_id=");
    text.erase(begin, text.find('\n', text.find("since_boot=")) + 1 - begin);
    text.replace(text.find("version=2"), 9, "version=1");
    ASSERT_TRUE(base::FileSystem::Posix().WriteFileAtomically(path, text).ok());
  };
  const Absence absences[] = {
      {"a second", [&] { away(absl::Seconds(1)); }, true},
      {"a second, the clock set forward", [&] { away(absl::Seconds(1), absl::Hours(1)); }, true},
      {"a second, the clock set back", [&] { away(absl::Seconds(1), -absl::Hours(1)); }, true},
      {"a minute", [&] { away(absl::Minutes(1)); }},
      {"a minute, the clock set back", [&] { away(absl::Minutes(1), -absl::Seconds(55)); }},
      {"until a boot of the host", [&] { clock_.Reboot(); }},
      {"unknown, the file is of an older release", older_file},
  };
  for (const Absence& absence : absences) {
    SCOPED_TRACE(absence.what);
    primary_.reset();
    std::filesystem::remove_all(directory_.File("state"));
    transport_.StartAfresh();
    transport_.Set([](auto& b) { b.incomplete = false; });
    Make();
    ASSERT_TRUE(primary_->Start(false, Soon()).ok());
    Write(0, 'a');
    ASSERT_TRUE(primary_->Checkpoint(Soon()).ok());
    primary_->Shutdown(absl::Seconds(1));
    primary_.reset();
    absence.happens();
    Make();
    const auto checkpoint = primary_->Checkpoint(Soon());
    EXPECT_EQ(checkpoint.ok(), absence.complete) << checkpoint.status();
    EXPECT_EQ(HasReason(checkpoint.status(), kReasonIncomplete), !absence.complete);
  }
}

TEST_F(ResyncTest, AForwardAgentThatEndsBeforeItsFirstHandshakeHasLostWrites) {
  forward_ = true;
  for (const bool killed : {true, false}) {
    SCOPED_TRACE(killed ? "killed" : "ended in order");
    std::filesystem::remove_all(directory_.File("state"));
    transport_.StartAfresh();  // started with initial=equal, and nobody has attached
    Outage(true);
    Make();
    ASSERT_TRUE(primary_->Start(false, base::Deadline::After(absl::ZeroDuration())).ok());
    Write(0, 'a');  // answered; the VM's own disk has it
    if (killed) {
      Kill();
    } else {
      primary_->Shutdown(absl::Milliseconds(50));
      primary_.reset();
    }
    Outage(false);
    Make();
    ASSERT_TRUE(Eventually([&] { return primary_->forwarder().state().connected; }));
    const auto checkpoint = primary_->Checkpoint(Soon());
    EXPECT_TRUE(HasReason(checkpoint.status(), kReasonIncomplete))
        << "committed as complete without the write: " << checkpoint.status();
    primary_.reset();
  }
}

TEST_F(ResyncTest, AStandbyThatRefusesEveryFrameHoldsNoWriter) {
  ack_ = AckMode::kReceived;
  lost_peer_ = absl::Milliseconds(300);
  Make();
  ASSERT_TRUE(primary_->Start(false, Soon()).ok());
  ASSERT_TRUE(Eventually([&] { return Complete(); }));
  transport_.Set([](auto& b) { b.crc_failures = 1 << 30; });
  std::atomic<bool> done{false};
  std::thread writer([&] {
    Disk().Write(0, std::string(4096, 'a'), false).IgnoreError();
    done = true;
  });
  EXPECT_TRUE(Eventually([&] { return done.load(); }));
  transport_.Set([](auto& b) { b.crc_failures = 0; });
  writer.join();
}

// Everything that may happen to a pair, at random: outages, power cuts of the standby that take what was not durable, kills and orderly
// ends of the agent, new starts, full syncs. UNDERSTUDY_FUZZ_ROUNDS for longer.
class ResyncFuzzTest : public ResyncTest {
 protected:
  ResyncFuzzTest() : random_(testing::TestSeed()) { lost_peer_ = absl::Milliseconds(300); }

  bool Once(uint64_t in) { return random_() % in == 0; }
  void SleepUpTo(uint64_t micros) { absl::SleepFor(absl::Microseconds(random_() % micros)); }

  void BeGuest(uint64_t seed, const std::atomic<bool>& stop) {
    std::mt19937_64 own(seed);
    const uint64_t span = own() % 2 == 0 ? kDiskBytes : 6 * kMiB;
    while (!stop) {
      const uint64_t length = 512 * (1 + own() % 64);
      const uint64_t offset = own() % ((span - length) / 512) * 512;
      const std::string data(length, static_cast<char>('A' + own() % 26));
      ASSERT_TRUE((own() % 8 == 0
                       ? Disk().WriteZeroes(offset, length, ZeroedSpace::kGivenBack, false)
                       : Disk().Write(offset, data, false))
                      .ok());
      if (own() % 16 == 0) absl::SleepFor(absl::Microseconds(own() % 3000));
    }
  }

  void For(const std::function<void(FakeTransport::Behaviour&, bool on)>& trouble) {
    transport_.Set([&](auto& b) { trouble(b, true); });
    SleepUpTo(60000);
    transport_.Set([&](auto& b) { trouble(b, false); });
  }
  void StopAndStart(bool write_between) {
    EXPECT_TRUE(primary_->Stop(true, Soon()).ok());
    EXPECT_TRUE(primary_->Remove(Soon()).ok());
    if (write_between) Write(random_() % 1000 * 4096, 'y');
    EXPECT_TRUE(primary_->Start(false, base::Deadline::After(absl::ZeroDuration())).ok());
  }
  void EndInOrder() {
    primary_->Shutdown(absl::Milliseconds(20 + random_() % 200));
    primary_.reset();
  }

  // While the guest writes. What it did, for the log.
  std::string Disturb() {
    switch (random_() % 9) {
      case 0:
        Outage(true);
        SleepUpTo(100000);
        Outage(false);
        return " outage";
      case 1:
        transport_.PowerCut();
        return " cut";
      case 2:
        transport_.Disconnect();
        return " disconnect";
      case 3:
        For([](auto& b, bool on) { b.hold_sent = on; });
        return " hold";
      case 4:
        primary_->Checkpoint(base::Deadline::After(absl::Milliseconds(random_() % 50)))
            .IgnoreError();
        return " checkpoint";
      case 5:
        For([](auto& b, bool on) { b.acknowledge = !on; });
        return " noack";
      case 6:
        For([](auto& b, bool on) { b.hung_sync = on; });
        return " hang";
      case 7:
        if (Once(3)) StopAndStart(/*write_between=*/false);
        return " start";
      default:
        if (Once(6)) primary_->Sync(SyncMode::kFull, Soon()).IgnoreError();
        return " full";
    }
  }

  // When the guest has stopped.
  std::string EndRun(bool away) {
    switch (random_() % 5) {
      case 0:
        Kill();
        Outage(away && Once(2));
        Make();
        return " KILL";
      case 1:
        EndInOrder();
        Make();
        return " ORDERLY";
      case 2:
        EndInOrder();
        transport_.Set([&](auto& b) { b.hold_sent = Once(2); });
        Outage(Once(2));
        Make();
        SleepUpTo(60000);
        if (Once(2))
          primary_->Checkpoint(base::Deadline::After(absl::Milliseconds(5))).IgnoreError();
        Kill();
        transport_.Set([](auto& b) { b.hold_sent = false; });
        if (Once(2)) Outage(true);
        Make();
        for (int i = Once(2) ? 3 : 0; i > 0; --i) Write(random_() % 1000 * 4096, 'z');
        return " ORDERLY-KILL";
      case 3:
        StopAndStart(/*write_between=*/true);
        return " START";
      default:
        return "";
    }
  }

  std::string Round() {
    std::string story;
    std::atomic<bool> stop{Once(4)};
    std::thread guest([&, seed = random_()] { BeGuest(seed, stop); });
    for (uint64_t steps = 1 + random_() % 5; steps > 0; --steps) {
      SleepUpTo(30000);
      story += Disturb();
    }
    const bool away = Once(3);
    if (away) Outage(true);
    stop = true;
    guest.join();
    story += EndRun(away);
    Outage(false);
    if (Once(4)) {
      PowerCut();
      story += " CUT";
    }
    return story;
  }

  std::mt19937_64 random_;
};

TEST_F(ResyncFuzzTest, NothingIsEverForgotten) {
  const char* const given = std::getenv("UNDERSTUDY_FUZZ_ROUNDS");
  const int rounds = given != nullptr ? std::atoi(given) : 30;
  transport_.Track();
  transport_.Set([](auto& b) { b.durable = false; });
  remembered_ranges_max_ = Once(2) ? 100 : 1 << 18;
  Make();
  ASSERT_TRUE(primary_->Start(false, Soon()).ok());
  for (int round = 0; round < rounds; ++round) {
    const std::string story = Round();
    ExpectEqualAfterCheckpoint();
    ASSERT_FALSE(HasFailure()) << "round " << round << ":" << story;
  }
}

}  // namespace
}  // namespace understudy::client::resync_test
