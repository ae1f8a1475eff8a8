// Many writes at once, and flushes with nothing to do: of the forwarder, and of a volume.
#include <algorithm>
#include <atomic>
#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/agent_state.h"
#include "client/forwarder.h"
#include "client/intent_log.h"
#include "client/primary.h"
#include "tests/client/fake_transport.h"
#include "tests/testing/fault_file_system.h"
#include "tests/testing/scripted_clock.h"
#include "tests/testing/temp_dir.h"

namespace understudy::client::write_all_test {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr uint64_t kDiskBytes = 4 << 20;

base::Deadline Soon() { return base::Deadline::After(absl::Seconds(10)); }

// Writes, and what they write.
class Batch {
 public:
  void Add(uint64_t offset, size_t bytes, char byte, bool fua = false) {
    data_.push_back(std::make_unique<std::string>(bytes, byte));
    writes_.push_back({.offset = offset, .data = *data_.back(), .fua = fua});
  }
  static Batch Blocks(size_t count, uint64_t offset = 0, char byte = 'a') {
    Batch batch;
    for (size_t i = 0; i < count; ++i) {
      batch.Add(offset + i * 4096, 4096, static_cast<char>(byte + i % 16));
    }
    return batch;
  }
  std::span<const BlockWrite> writes() const { return writes_; }
  void ApplyTo(std::string& disk, size_t count) const {
    for (const BlockWrite& write : writes_) {
      if (count-- == 0) return;
      disk.replace(write.offset, write.data.size(), write.data.data(), write.data.size());
    }
  }
  void ApplyTo(std::string& disk) const { ApplyTo(disk, writes_.size()); }
  // With results that are OK before.
  template <typename Target>
  std::vector<absl::Status> WriteAll(Target&& target) const {
    std::vector<absl::Status> results(writes_.size());
    target(writes_, std::span(results));
    return results;
  }

 private:
  std::vector<std::unique_ptr<std::string>> data_;
  std::vector<BlockWrite> writes_;
};

class ForwarderWriteAllTest : public ::testing::Test {
 protected:
  ForwarderWriteAllTest() : transport_({kDiskBytes, kDiskBytes}) {}
  void TearDown() override {
    forwarder_ = nullptr;
    EXPECT_THAT(transport_.seen().violations, IsEmpty());
  }

  Forwarder& Started() {
    forwarder_ = std::make_unique<Forwarder>(options_, &transport_);
    EXPECT_TRUE(forwarder_->Start().ok());
    EXPECT_TRUE(forwarder_->WaitForAnswer(Soon()).connected);
    return *forwarder_;
  }
  void StartWithScriptedClock() {
    forwarder_ = std::make_unique<Forwarder>(options_, &transport_, clock_);
    ASSERT_TRUE(forwarder_->Start().ok());
    ASSERT_TRUE(forwarder_->WaitForAnswer(Soon()).connected);
  }
  std::vector<absl::Status> WriteAll(const Batch& batch) {
    return batch.WriteAll(
        [&](auto writes, auto results) { forwarder_->WriteAll(0, writes, results); });
  }
  bool AllReceived() {
    return Eventually([&] {
      const ForwarderState state = forwarder_->state();
      return state.received_sequence + 1 == state.next_sequence;
    });
  }
  long Flushes() const {
    const auto kinds = transport_.seen().kinds;
    return std::count(kinds.begin(), kinds.end(), OperationKind::kFlush);
  }

  ForwarderOptions options_{.group = "vm1",
                            .volumes = {{.name = "disk0", .size_bytes = kDiskBytes},
                                        {.name = "disk1", .size_bytes = kDiskBytes}},
                            .agent_id = "host-a",
                            .window_bytes = kWindowBytesMin,
                            .stall_timeout = absl::Milliseconds(100),
                            .heartbeat = absl::Milliseconds(20),
                            .lost_peer = absl::Milliseconds(300),
                            .backoff_min = absl::Milliseconds(5),
                            .backoff_max = absl::Milliseconds(20)};
  FakeTransport transport_;
  testing::ScriptedClock clock_;
  std::unique_ptr<Forwarder> forwarder_;
};

TEST_F(ForwarderWriteAllTest, ManySmallWritesGoTogether) {
  Forwarder& forwarder = Started();
  const Batch batch = Batch::Blocks(64);
  EXPECT_EQ(forwarder.TryWrite(0, batch.writes()), 64u);
  ASSERT_TRUE(AllReceived());
  EXPECT_THAT(WriteAll(Batch::Blocks(4, 1 << 20)), Each(absl::OkStatus()));
  ASSERT_TRUE(AllReceived());
  // Had each been sent on its own, the first of them would be alone in its frame.
  EXPECT_THAT(transport_.seen().frames, ElementsAre(Pair(1u, 64u), Pair(65u, 4u)));
  std::string expected(kDiskBytes, '\0');
  batch.ApplyTo(expected);
  Batch::Blocks(4, 1 << 20).ApplyTo(expected);
  EXPECT_TRUE(transport_.disk(0) == expected);
}

// The clock stands still until the test moves it, so nothing is sent because of the time, and no
// heartbeat goes.
TEST_F(ForwarderWriteAllTest, FewWritesThatCameTogetherWaitForCompany) {
  StartWithScriptedClock();
  const auto write = [&](size_t count) {
    const Batch batch = Batch::Blocks(count);
    EXPECT_EQ(forwarder_->TryWrite(0, batch.writes()), count);
  };
  write(2);
  ASSERT_TRUE(AllReceived()) << "the first go at once";
  write(2);
  write(3);
  absl::SleepFor(absl::Milliseconds(5));
  EXPECT_THAT(transport_.seen().frames, ElementsAre(Pair(1u, 2u)));
  clock_.Advance(absl::Milliseconds(1));
  ASSERT_TRUE(AllReceived()) << "when it is time they go, whether others come or not";
  absl::SleepFor(absl::Milliseconds(20));  // the sender sleeps
  write(2);
  clock_.Advance(absl::Milliseconds(1));
  ASSERT_TRUE(AllReceived()) << "it is woken";
  write(8);
  ASSERT_TRUE(AllReceived()) << "company enough";
  write(2);
  EXPECT_TRUE(forwarder_->Flush(0).ok());
  ASSERT_TRUE(AllReceived()) << "a flush takes them along";
  write(1);
  ASSERT_TRUE(AllReceived()) << "one alone waits for none";
  EXPECT_THAT(transport_.seen().frames, ElementsAre(Pair(1u, 2u), Pair(3u, 5u), Pair(8u, 2u),
                                                    Pair(10u, 8u), Pair(18u, 3u), Pair(21u, 1u)));
}

TEST_F(ForwarderWriteAllTest, WhatIsUrgentDoesNotWaitForTheCompanyOfOthers) {
  StartWithScriptedClock();
  transport_.Set([](auto& b) { b.hold_sent = true; });
  const Batch two = Batch::Blocks(2);
  EXPECT_EQ(forwarder_->TryWrite(0, two.writes()), 2u);
  ASSERT_TRUE(AllReceived());
  EXPECT_TRUE(forwarder_->Flush(0).ok());  // queued, as a frame is being sent
  EXPECT_EQ(forwarder_->TryWrite(0, two.writes()), 2u);
  EXPECT_THAT(transport_.seen().frames, ElementsAre(Pair(1u, 2u)));
  transport_.Set([](auto& b) { b.hold_sent = false; });
  EXPECT_TRUE(AllReceived());
}

TEST_F(ForwarderWriteAllTest, TryWriteTakesWhatFitsAndNeverWaits) {
  transport_.Set([](auto& b) { b.acknowledge = false; });
  Forwarder& forwarder = Started();
  const Batch batch = Batch::Blocks(kDiskBytes / 4096);
  size_t taken = forwarder.TryWrite(0, batch.writes());
  const uint64_t each = 4096 + kOperationBytes;
  EXPECT_LE(taken, kWindowBytesMin / each);
  EXPECT_GE(taken, kWindowBytesMin / each - 1);
  EXPECT_EQ(forwarder.TryWrite(0, batch.writes().subspan(taken)), 0u);
  EXPECT_LE(forwarder.state().window_bytes, kWindowBytesMin);
  transport_.Set([](auto& b) { b.acknowledge = true; });
  ASSERT_TRUE(Eventually([&] {
    taken += forwarder.TryWrite(0, batch.writes().subspan(taken));
    return taken == batch.writes().size();
  }));
  ASSERT_TRUE(AllReceived());
  std::string expected(kDiskBytes, '\0');
  batch.ApplyTo(expected);
  EXPECT_TRUE(transport_.disk(0) == expected);
  EXPECT_FALSE(forwarder.state().incomplete);
}

// Else a connection that writes small blocks all the time would keep out whoever needs more room.
TEST_F(ForwarderWriteAllTest, TryWriteTakesNothingWhileAnotherWriteWaitsForRoom) {
  options_.stall_timeout = options_.lost_peer = absl::Seconds(20);
  transport_.Set([](auto& b) { b.acknowledge = false; });
  Forwarder& forwarder = Started();
  const Batch blocks = Batch::Blocks((kWindowBytesMin - (200 << 10)) / 4096);
  ASSERT_EQ(forwarder.TryWrite(0, blocks.writes()), blocks.writes().size());
  std::thread large([&] { EXPECT_TRUE(forwarder.Write(0, 0, std::string(256 << 10, 'x')).ok()); });
  const Batch one = Batch::Blocks(1);
  EXPECT_TRUE(Eventually([&] { return forwarder.TryWrite(0, one.writes()) == 0; }));
  EXPECT_LT(forwarder.state().window_bytes, kWindowBytesMin - (8 << 10)) << "there is room";
  transport_.Set([](auto& b) { b.acknowledge = true; });
  large.join();
  EXPECT_TRUE(Eventually([&] { return forwarder.TryWrite(0, one.writes()) == 1; }));
  EXPECT_TRUE(AllReceived());
}

TEST_F(ForwarderWriteAllTest, TryWriteLeavesWhatCannotBeDoneAtOnce) {
  Batch batch;
  batch.Add(0, 4096, 'a');
  batch.Add(kDiskBytes, 4096, 'b');
  forwarder_ = std::make_unique<Forwarder>(options_, &transport_);
  EXPECT_EQ(forwarder_->TryWrite(0, batch.writes()), 0u) << "not started";
  EXPECT_EQ(Started().TryWrite(0, batch.writes()), 1u) << "the second ends past the disk";
  Batch large;
  large.Add(0, (256 << 10) + 512, 'c');
  EXPECT_EQ(forwarder_->TryWrite(0, large.writes()), 0u);
  ASSERT_TRUE(AllReceived());
  // Skipping: WriteAll() tells what is missing.
  transport_.Set([](auto& b) { b.acknowledge = false; });
  const Batch much = Batch::Blocks(kDiskBytes / 4096);
  const auto results = WriteAll(much);
  EXPECT_TRUE(results.front().ok());
  EXPECT_TRUE(HasReason(results.back(), kReasonIncomplete)) << results.back();
  const auto refused =
      std::count_if(results.begin(), results.end(), [](const auto& r) { return !r.ok(); });
  EXPECT_EQ(forwarder_->state().volumes[0].missed_bytes, static_cast<uint64_t>(refused) * 4096);
  transport_.Set([](auto& b) { b.acknowledge = true; });
  ASSERT_TRUE(AllReceived());
  EXPECT_EQ(forwarder_->TryWrite(0, batch.writes()), 0u) << "there is room, but it skips";
  // With an acknowledgement to wait for it takes none.
  options_.ack = AckMode::kReceived;
  EXPECT_EQ(Started().TryWrite(0, batch.writes()), 0u);
}

TEST_F(ForwarderWriteAllTest, EachHasItsOwnResultAndRefusedOnesArePassedOver) {
  Started();
  Batch batch;
  batch.Add(0, 4096, 'a');
  batch.Add(kDiskBytes, 4096, 'x');
  batch.Add(4096, 4096, 'b');
  batch.Add(100, 4096, 'x');
  batch.Add(8192, 1 << 20, 'c');  // in pieces
  batch.Add(1 << 21, 4096, 'd');
  std::vector<absl::Status> results(batch.writes().size());
  results[2] = absl::InternalError("the local disk");
  forwarder_->WriteAll(0, batch.writes(), results);
  EXPECT_TRUE(results[0].ok());
  EXPECT_EQ(results[1].code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(results[2], absl::InternalError("the local disk"));
  EXPECT_EQ(results[3].code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(results[4].ok());
  EXPECT_TRUE(results[5].ok());
  ASSERT_TRUE(AllReceived());
  std::string expected(kDiskBytes, '\0');
  expected.replace(0, 4096, 4096, 'a');
  expected.replace(8192, 1 << 20, 1 << 20, 'c');
  expected.replace(1 << 21, 4096, 4096, 'd');
  EXPECT_TRUE(transport_.disk(0) == expected);
}

TEST_F(ForwarderWriteAllTest, DurableIsAskedForOnceForAll) {
  options_.ack = AckMode::kDurable;
  options_.lost_peer = absl::Seconds(20);
  transport_.Set([](auto& b) { b.durable = false; });
  Forwarder& forwarder = Started();
  EXPECT_THAT(WriteAll(Batch::Blocks(64)), Each(absl::OkStatus()));
  EXPECT_EQ(forwarder.state().durable_sequence, 64u);
  EXPECT_EQ(transport_.seen().durable_requests, 1u);
}

// 1 MiB takes four turns at the window.
TEST_F(ForwarderWriteAllTest, OneWaitForAnAcknowledgementIsForAll) {
  options_.ack = AckMode::kDurable;
  options_.window_bytes = 16 << 20;
  options_.lost_peer = absl::Seconds(1);
  transport_.Set([](auto& b) { b.hung_sync = true; });
  Started();
  const absl::Time begun = absl::Now();
  for (const absl::Status& result : WriteAll(Batch::Blocks(256))) {
    EXPECT_TRUE(absl::IsUnavailable(result)) << result;
  }
  const absl::Duration took = absl::Now() - begun;
  EXPECT_GE(took, options_.lost_peer);
  EXPECT_LT(took, 2 * options_.lost_peer);
}

TEST_F(ForwarderWriteAllTest, WhatWasAcknowledgedOfThemIsOk) {
  options_.ack = AckMode::kReceived;
  options_.window_bytes = 16 << 20;
  options_.lost_peer = absl::Seconds(1);
  transport_.Set([](auto& b) { b.hold_sent = true; });  // one frame, that is the first turn
  Started();
  const absl::Time begun = absl::Now();
  const auto results = WriteAll(Batch::Blocks(256));
  EXPECT_LT(absl::Now() - begun, 2 * options_.lost_peer);
  for (size_t i = 0; i < results.size(); ++i) EXPECT_EQ(results[i].ok(), i < 64) << i;
  transport_.Set([](auto& b) { b.hold_sent = false; });
  EXPECT_TRUE(AllReceived());
}

TEST_F(ForwarderWriteAllTest, ManyThreadsLeaveTheBytesThatTheyWrote) {
  options_.stall_timeout = options_.lost_peer = absl::Seconds(20);
  Forwarder& forwarder = Started();
  std::vector<std::thread> threads;
  std::vector<std::string> parts(4, std::string(kDiskBytes / 4, '\0'));
  for (size_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937 random(static_cast<unsigned>(thread));
      for (int round = 0; round < 30; ++round) {
        Batch batch;
        Batch at_its_place;
        for (int i = 0; i < 16; ++i) {
          const size_t bytes = 512 << (random() % (i == 0 ? 10 : 6));
          const uint64_t offset = random() % ((parts[thread].size() - bytes) / 512 + 1) * 512;
          const char byte = static_cast<char>('a' + random() % 26);
          at_its_place.Add(offset, bytes, byte);
          batch.Add(offset + thread * parts[thread].size(), bytes, byte);
        }
        at_its_place.ApplyTo(parts[thread]);
        const size_t taken = round % 2 == 0 ? 0 : forwarder.TryWrite(0, batch.writes());
        std::vector<absl::Status> results(batch.writes().size() - taken);
        forwarder.WriteAll(0, batch.writes().subspan(taken), results);
        for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(AllReceived());
  EXPECT_TRUE(transport_.disk(0) == parts[0] + parts[1] + parts[2] + parts[3]);
}

TEST_F(ForwarderWriteAllTest, AFlushWithNothingNewJoinsNoStream) {
  Forwarder& forwarder = Started();
  const std::string block(4096, 'a');
  const auto flush = [&](uint32_t volume, long flushes) {
    EXPECT_TRUE(forwarder.Flush(volume).ok());
    ASSERT_TRUE(AllReceived());
    EXPECT_EQ(Flushes(), flushes);
  };
  flush(0, 1);  // the first one is real
  flush(0, 1);
  ASSERT_TRUE(forwarder.Write(0, 0, block).ok());
  flush(1, 1);  // that concerns the other volume
  flush(0, 2);
  ASSERT_TRUE(forwarder.WriteZeroes(1, 0, 4096).ok());
  flush(0, 2);
  ASSERT_TRUE(forwarder.Write(0, 0, block).ok());
  flush(1, 3);
  flush(0, 3);  // the other volume's has covered it
  ASSERT_TRUE(forwarder.Stop(true, Soon()).ok());
  EXPECT_TRUE(HasReason(forwarder.Flush(0), kReasonNotRunning));
  ASSERT_TRUE(forwarder.Start({.resume = forwarder.resume_point()}).ok());
  flush(0, 4);
}

TEST_F(ForwarderWriteAllTest, AFlushWithNothingNewStillWaitsForWhatAckPromises) {
  options_.ack = AckMode::kDurable;
  options_.lost_peer = absl::Milliseconds(200);
  transport_.Set([](auto& b) { b.hung_sync = true; });
  Forwarder& forwarder = Started();
  EXPECT_TRUE(absl::IsUnavailable(forwarder.Write(0, 0, std::string(4096, 'a'))));
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(absl::IsUnavailable(forwarder.Flush(0))) << "it is not durable";
  }
  EXPECT_TRUE(forwarder.Flush(1).ok()) << "has nothing that is not";
  transport_.Set([](auto& b) { b.hung_sync = false; });
  EXPECT_TRUE(Eventually([&] { return forwarder.Flush(0).ok(); }));
  EXPECT_GE(forwarder.state().durable_sequence, 1u);
  EXPECT_EQ(Flushes(), 1);
}

// It may take a write to the state directory, and a sync of it.
TEST_F(ForwarderWriteAllTest, AVolumeTakesNothingAtOnceBeforeWhatMustBeStoredIsStored) {
  bool stored = false;
  const auto store = [&] {
    stored = true;
    return absl::OkStatus();
  };
  base::IoGate gate;
  Volume volume({.name = "disk0", .size_bytes = kDiskBytes}, &Started(), &gate, nullptr,
                {.store = store, .stored = [&] { return stored; }});
  const Batch batch = Batch::Blocks(8);
  EXPECT_EQ(volume.TryWrite(batch.writes()), 0u);
  EXPECT_FALSE(stored);
  EXPECT_THAT(batch.WriteAll([&](auto writes, auto results) { volume.WriteAll(writes, results); }),
              Each(absl::OkStatus()));
  EXPECT_TRUE(stored);
  EXPECT_EQ(volume.TryWrite(batch.writes()), 8u);
}

class VolumeWriteAllTest : public ::testing::Test {
 protected:
  explicit VolumeWriteAllTest(uint64_t disk_bytes = kDiskBytes)
      : disk_bytes_(disk_bytes), transport_({disk_bytes}) {
    disk_ = directory_.path() + "/disk.raw";
    EXPECT_TRUE(
        base::FileSystem::Posix().WriteFileAtomically(disk_, std::string(disk_bytes, '\0')).ok());
  }

  Volume& Started(bool tee) {
    PrimaryOptions options{
        .forwarder = {.group = "vm1",
                      .heartbeat = absl::Milliseconds(20),
                      .lost_peer = absl::Seconds(20),
                      .backoff_min = absl::Milliseconds(5),
                      .backoff_max = absl::Milliseconds(20)},
        .volumes = {{.name = "disk0", .disk_path = tee ? disk_ : "", .size_bytes = disk_bytes_}}};
    primary_ = nullptr;
    auto state = AgentState::Open(base::FileSystem::Posix(), directory_.path() + "/state");
    EXPECT_TRUE(state.ok()) << state.status();
    auto primary = Primary::Create(options, file_system_, *std::move(state), &transport_);
    EXPECT_TRUE(primary.ok()) << primary.status();
    primary_ = *std::move(primary);
    EXPECT_TRUE(primary_->Resume().ok());
    if (primary_->stage() == Stage::kNone) {
      EXPECT_TRUE(primary_->Start(false, Soon()).ok());
    }
    EXPECT_TRUE(primary_->forwarder().WaitForAnswer(Soon()).connected);
    return *primary_->volumes()[0];
  }
  static std::vector<absl::Status> WriteAll(Volume& volume, const Batch& batch) {
    return batch.WriteAll([&](auto writes, auto results) { volume.WriteAll(writes, results); });
  }
  std::string Local() { return *base::FileSystem::Posix().ReadWholeFile(disk_); }
  // Of the disk, from now on; each ends with `answer`.
  void CountSyncs(const absl::Status& answer = absl::OkStatus()) { CountSyncs(disk_, answer); }
  void CountSyncs(const std::string& of, const absl::Status& answer) {
    syncs_ = 0;
    file_system_.SetHook([=, this](testing::FileOperation operation, const std::string& path) {
      if (operation != testing::FileOperation::kSync || path != of) return absl::OkStatus();
      ++syncs_;
      return answer;
    });
  }
  uint64_t Requests(IoKind kind) {
    return primary_->volumes()[0]->figures().requests[static_cast<size_t>(kind)].load();
  }

  const uint64_t disk_bytes_;
  testing::TempDir directory_;
  testing::FaultFileSystem file_system_;
  FakeTransport transport_;
  std::string disk_;
  std::atomic<int> syncs_ = 0;
  std::unique_ptr<Primary> primary_;
};

TEST_F(VolumeWriteAllTest, ForwardTakesThemAtOnceUntilTheEnd) {
  Volume& volume = Started(/*tee=*/false);
  const Batch batch = Batch::Blocks(32);
  EXPECT_EQ(volume.TryWrite(batch.writes()), 32u);
  EXPECT_THAT(WriteAll(volume, batch), Each(absl::OkStatus()));
  EXPECT_EQ(Requests(IoKind::kWrite), 64u);
  EXPECT_EQ(volume.figures().bytes[static_cast<size_t>(IoKind::kWrite)].load(), 64u * 4096);
  std::string expected(kDiskBytes, '\0');
  batch.ApplyTo(expected);
  EXPECT_TRUE(Eventually([&] { return transport_.disk(0) == expected; }));
  primary_->Shutdown(absl::Seconds(10));
  EXPECT_EQ(volume.TryWrite(batch.writes()), 0u);
  for (const absl::Status& result : WriteAll(volume, batch)) {
    EXPECT_EQ(result.code(), absl::StatusCode::kCancelled);
  }
}

TEST_F(VolumeWriteAllTest, TeeWritesThemToBothDisksWithOneSync) {
  Volume& volume = Started(/*tee=*/true);
  Batch batch = Batch::Blocks(16);
  batch.Add(1 << 20, 1 << 20, 'x', /*fua=*/true);
  batch.Add(3 << 20, 512, 'y', /*fua=*/true);
  batch.Add(kDiskBytes, 512, 'z', /*fua=*/true);
  EXPECT_EQ(volume.TryWrite(batch.writes()), 0u) << "a local disk may block";
  CountSyncs();
  const auto results = WriteAll(volume, batch);
  EXPECT_EQ(results.back().code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::vector(results.begin(), results.end() - 1), Each(absl::OkStatus()));
  EXPECT_EQ(syncs_, 1);
  std::string expected(kDiskBytes, '\0');
  batch.ApplyTo(expected, batch.writes().size() - 1);
  EXPECT_TRUE(Local() == expected);
  EXPECT_TRUE(Eventually([&] { return transport_.disk(0) == expected; }));
}

class ManyRegionsWriteAllTest : public VolumeWriteAllTest {
 protected:
  ManyRegionsWriteAllTest() : VolumeWriteAllTest(16 * IntentLog::kRegionBytes) {}
};

TEST_F(ManyRegionsWriteAllTest, WritesToNewRegionsShareASyncOfTheWriteIntentLog) {
  Volume& volume = Started(/*tee=*/true);
  Batch batch;
  for (uint64_t i = 0; i < 16; ++i) batch.Add(i * IntentLog::kRegionBytes, 4096, 'a');
  CountSyncs(directory_.path() + "/state/intent", absl::OkStatus());
  EXPECT_THAT(WriteAll(volume, batch), Each(absl::OkStatus()));
  EXPECT_EQ(syncs_, 1);
}

TEST_F(VolumeWriteAllTest, ALocalErrorIsThatWritesAloneAndNotForwarded) {
  Volume& volume = Started(/*tee=*/true);
  const Batch batch = Batch::Blocks(8);
  file_system_.SetRangeHook(
      [&](testing::FileOperation operation, const std::string& path, ByteRange range) {
        const bool bad =
            operation == testing::FileOperation::kWrite && path == disk_ && range.start == 3 * 4096;
        return bad ? absl::InternalError("bad sector") : absl::OkStatus();
      });
  const auto results = WriteAll(volume, batch);
  for (size_t i = 0; i < results.size(); ++i) EXPECT_EQ(results[i].ok(), i != 3) << i;
  std::string expected(kDiskBytes, '\0');
  batch.ApplyTo(expected);
  expected.replace(3 * 4096, 4096, 4096, '\0');
  EXPECT_TRUE(Eventually([&] { return transport_.disk(0) == expected; }));
  EXPECT_EQ(transport_.seen().incomplete.range(), (ByteRange{3 * 4096, 4 * 4096}));
}

TEST_F(VolumeWriteAllTest, AFlushWithNothingNewIsNoSync) {
  Volume& volume = Started(/*tee=*/true);
  CountSyncs();
  const std::string block(4096, 'a');
  ASSERT_TRUE(volume.Flush().ok());
  ASSERT_TRUE(volume.Flush().ok());
  EXPECT_EQ(syncs_, 1) << "an earlier process may have left something";
  ASSERT_TRUE(volume.Write(0, block, false).ok());
  ASSERT_TRUE(volume.Flush().ok());
  ASSERT_TRUE(volume.WriteZeroes(0, 4096, ZeroedSpace::kKept, /*fua=*/true).ok());
  EXPECT_EQ(syncs_, 3);
  ASSERT_TRUE(volume.Flush().ok());
  EXPECT_EQ(syncs_, 3) << "the FUA has covered it";
  EXPECT_EQ(Requests(IoKind::kFlush), 4u);
  ASSERT_TRUE(volume.Discard(0, 4096, false).ok());
  CountSyncs(absl::InternalError("injected"));
  EXPECT_FALSE(volume.Flush().ok());
  CountSyncs();
  EXPECT_FALSE(volume.Flush().ok()) << "what a failed sync has lost is lost";
  ASSERT_TRUE(volume.Write(0, block, false).ok());
  EXPECT_FALSE(volume.Flush().ok());
}

}  // namespace
}  // namespace understudy::client::write_all_test
