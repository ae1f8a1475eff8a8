// What the overlays of a group may take of the disk: compaction, limits, and what gives way at them.
#include <algorithm>
#include <atomic>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/storage/store_fixture.h"

namespace understudy::storage::room_test {
namespace {

using testing::FileOperation;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kVolumeBytes = 8 * kMiB;

class RoomTest : public ::testing::Test {
 protected:
  void Open() {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    primary_ = f_.initial(0);
  }
  absl::Status Write(uint64_t offset, uint64_t length) {
    const std::string data = f_.Bytes(length);
    const absl::Status written = f_.PrimaryWrite(0, offset, data);
    if (written.ok()) primary_.replace(offset, length, data);
    most_ = std::max(most_, f_.replica().state().overlay_bytes);
    return written;
  }
  void Settle() {
    ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::After(absl::Seconds(30))), absl::OkStatus());
  }

  StoreFixture f_{1, 1, kVolumeBytes};
  std::string primary_;
  uint64_t most_ = 0;  // overlay_bytes seen
};

// ---- compaction -----------------------------------------------------------------------------------------------------------------

// As one would rewrite 64 MiB a hundred times with segments of 64 MiB, at a sixteenth of the size.
TEST_F(RoomTest, RewritingTheSameRangeTakesThreeTimesItsSizeAtMost) {
  f_.options().index_batch_bytes = kMiB;
  Open();
  for (int pass = 0; pass < 100; ++pass) {
    for (uint64_t at = 0; at < 4 * kMiB; at += 64 << 10) {
      ASSERT_EQ(Write(at, 64 << 10), absl::OkStatus());
    }
  }
  EXPECT_LE(most_, 12 * kMiB);
  ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
  EXPECT_TRUE(f_.View(0) == primary_);
}

// At random places and in small writes no segment is ever empty by itself: what is still current must be moved.
TEST_F(RoomTest, RandomRewritesAreBoundedTooAndSurviveACrash) {
  f_.options().index_batch_bytes = kMiB;
  Open();
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 3000; ++i) {
      const uint64_t length = 512 * (1 + f_.random()() % 16);
      const uint64_t offset = f_.random()() % ((4 * kMiB - length) / 512) * 512;
      ASSERT_EQ(Write(offset, length), absl::OkStatus());
    }
    if (round == 1) {
      ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
    }
    if (round == 2) {
      f_.CloseStore();
      ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    }
  }
  EXPECT_LE(most_, 20 * kMiB);
  ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
  EXPECT_TRUE(f_.View(0) == primary_);
  Settle();
  EXPECT_TRUE(f_.RawDisk(0) == primary_);
}

// A segment is given back only once the index has the moved extents, durably: until then a crash needs what it holds.
TEST_F(RoomTest, ACrashInTheMiddleOfCompactionLosesNothing) {
  f_.options().index_batch_delay = absl::Hours(1);
  f_.options().index_batch_bytes = 1ULL << 40;
  Open();
  for (int crash = 0; crash < 8; ++crash) {
    for (int i = 0; i < 1500; ++i) {
      const uint64_t offset = f_.random()() % (kMiB / 4096) * 4096;
      ASSERT_EQ(Write(offset, 8192), absl::OkStatus());
    }
    ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
    ASSERT_EQ(f_.replica().state().received_sequence, f_.next_sequence() - 1);
  }
  ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
  EXPECT_TRUE(f_.View(0) == primary_);
}

// The secondary VM's own writes are compacted while it reads them, and what it was told is durable survives.
TEST_F(RoomTest, TheSecondaryVmRewritesInBoundedRoomToo) {
  f_.options().index_batch_bytes = kMiB;
  Open();
  std::string view = f_.initial(0);
  std::atomic<bool> end = false;
  std::thread reader([&] {
    std::string out(64 << 10, '?');
    for (uint64_t at = 0; !end; at = (at + out.size()) % (4 * kMiB)) {
      ASSERT_EQ(f_.replica().Read(VolumeId(0), at, std::span(out.data(), out.size())),
                absl::OkStatus());
    }
  });
  for (int i = 0; i < 12000; ++i) {
    const std::string data = f_.Bytes(512 * (1 + f_.random()() % 16));
    const uint64_t offset = f_.random()() % ((4 * kMiB - data.size()) / 512) * 512;
    ASSERT_EQ(f_.replica().Write(VolumeId(0), offset, data, i % 1000 == 0), absl::OkStatus());
    view.replace(offset, data.size(), data);
    most_ = std::max(most_, f_.replica().state().overlay_bytes);
  }
  end = true;
  reader.join();
  EXPECT_LE(most_, 20 * kMiB);
  EXPECT_TRUE(f_.View(0) == view);
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_TRUE(f_.View(0) == view);
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  Settle();
  EXPECT_TRUE(f_.RawDisk(0) == view);
}

// ---- an idle group ---------------------------------------------------------------------------------------------------------------

// A checkpoint takes the active overlay away from under its compaction: the VM's writes go on.
TEST_F(RoomTest, CheckpointsInTheMiddleOfCompactionHoldNobodyUp) {
  f_.options().index_batch_bytes = kMiB;
  Open();
  std::atomic<bool> stop = false;
  std::thread vm([&] {
    for (uint64_t i = 0; !stop; ++i) {
      const std::string data(kMiB / 2 + i % 3 * 4096, static_cast<char>(i));
      EXPECT_EQ(f_.replica().Write(VolumeId(0), i % 5 * kMiB / 4, data, false), absl::OkStatus());
    }
  });
  for (int i = 0; i < 40; ++i) {
    absl::SleepFor(absl::Milliseconds(5 + i % 7 * 10));
    EXPECT_EQ(f_.Checkpoint().status(), absl::OkStatus());
  }
  EXPECT_EQ(f_.replica().Failover({}), absl::OkStatus());
  absl::SleepFor(absl::Milliseconds(20));
  stop = true;
  vm.join();
  Settle();
  EXPECT_TRUE(f_.RawDisk(0) == f_.View(0));
}

// A failover does the same to the hidden one: the stream's thread comes back, with an error.
TEST_F(RoomTest, AFailoverInTheMiddleOfCompactionHoldsNobodyUp) {
  f_.options().index_batch_bytes = kMiB;
  for (int i = 0; i < 12; ++i) {
    Open();
    std::thread primary([&] {
      for (uint64_t n = 0; Write(n % 7 * kMiB / 4, kMiB / 2 + n % 3 * 4096).ok(); ++n) {
      }
    });
    absl::SleepFor(absl::Milliseconds(50 + i * 13));
    EXPECT_EQ(f_.replica().Failover({}), absl::OkStatus());
    primary.join();
    Settle();
    EXPECT_TRUE(f_.RawDisk(0) == f_.initial(0));
    ASSERT_EQ(f_.store().Remove("vm1"), absl::OkStatus());
    f_.CloseStore();
  }
}

TEST_F(RoomTest, AnIdleGroupTakesNoRoomAndGoesOnFromThere) {
  f_.options().log_idle_delay = absl::Milliseconds(20);
  Open();
  const auto wait_until_idle = [&] {
    for (int i = 0; i < 1000 && f_.replica().state().overlay_bytes > 0; ++i) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    EXPECT_EQ(f_.replica().state().overlay_bytes, 0u);
  };
  for (int round = 0; round < 4; ++round) {
    for (uint64_t at = 0; at < 3 * kMiB; at += kMiB) {
      ASSERT_EQ(Write(round * kMiB + at, kMiB), absl::OkStatus());
    }
    ASSERT_EQ(f_.replica().Write(VolumeId(0), 0, f_.Bytes(4096), /*fua=*/true), absl::OkStatus());
    ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
    wait_until_idle();
    if (round % 2 == 1) {
      ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
    }
    EXPECT_EQ(f_.replica().state().received_sequence, f_.next_sequence() - 1);
  }
  ASSERT_EQ(Write(0, kMiB), absl::OkStatus());
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_GT(f_.replica().state().overlay_bytes, kMiB) << "received, and nowhere else";
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
  EXPECT_TRUE(f_.View(0) == primary_);
  ASSERT_EQ(f_.replica().Stop(), absl::OkStatus());
  wait_until_idle();
  EXPECT_TRUE(f_.RawDisk(0) == primary_);
}

// ---- limits ---------------------------------------------------------------------------------------------------------------------

TEST_F(RoomTest, AtTheLimitTheStreamIsRefusedUntilACheckpointMakesRoom) {
  f_.options().overlay_bytes_max = 16 * kMiB;
  f_.options().history_epochs = 0;
  StoreFixture big(2, 1, 64 * kMiB);
  big.options().overlay_bytes_max = 16 * kMiB;
  ASSERT_EQ(big.OpenStore(), absl::OkStatus());
  ASSERT_EQ(big.StartAndAttach(), absl::OkStatus());
  std::string primary = big.initial(0);
  absl::Status status;
  uint64_t at = 0;
  bool soft_mark = false;
  while (status.ok() && at < 32 * kMiB) {
    const std::string data = big.Bytes(256 << 10);
    status = big.PrimaryWrite(0, at, data);
    if (!status.ok()) break;
    primary.replace(at, data.size(), data);
    at += data.size();
    soft_mark = big.replica().state().overlay_soft_mark;
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("--overlay-bytes-max is 16777216"));
  EXPECT_TRUE(soft_mark);
  EXPECT_LE(big.replica().state().overlay_bytes, 16 * kMiB);
  EXPECT_GE(at, 14 * kMiB);
  // What was received is complete, and a checkpoint gives the space back.
  ASSERT_EQ(big.Checkpoint().status(), absl::OkStatus());
  ASSERT_EQ(big.replica().WaitForJobs(base::Deadline::After(absl::Seconds(30))), absl::OkStatus());
  EXPECT_TRUE(big.View(0) == primary);
  EXPECT_FALSE(big.replica().state().overlay_soft_mark);
  EXPECT_EQ(big.PrimaryWrite(0, 0, big.Bytes(kMiB)), absl::OkStatus());
}

TEST_F(RoomTest, APrimaryThatMayCheckpointIsCommittedAtTheLimitAndGoesOn) {
  StoreFixture big(3, 1, 64 * kMiB);
  big.options().overlay_bytes_max = 16 * kMiB;
  big.options().history_epochs = 4;  // gives way
  ASSERT_EQ(big.OpenStore(), absl::OkStatus());
  ASSERT_EQ(big.StartAndAttach(), absl::OkStatus());
  ASSERT_EQ(big.replica().AttachStream(big.replica().state().stream_id, /*may_checkpoint=*/true),
            absl::OkStatus());
  std::string primary = big.initial(0);
  for (uint64_t at = 0; at < 60 * kMiB; at += 512 << 10) {
    const std::string data = big.Bytes(512 << 10);
    ASSERT_EQ(big.PrimaryWrite(0, at, data), absl::OkStatus()) << at;
    primary.replace(at, data.size(), data);
    EXPECT_LE(big.replica().state().overlay_bytes, 16 * kMiB);
  }
  EXPECT_GE(big.replica().state().committed_epoch, Epoch(3));
  ASSERT_EQ(big.Checkpoint().status(), absl::OkStatus());
  EXPECT_TRUE(big.View(0) == primary);
}

// While operations are missing nothing may be committed, at no limit.
TEST_F(RoomTest, AnIncompleteGroupIsNotCommittedAtTheLimit) {
  StoreFixture big(4, 1, 64 * kMiB);
  big.options().overlay_bytes_max = 16 * kMiB;
  ASSERT_EQ(big.OpenStore(), absl::OkStatus());
  ASSERT_EQ(big.StartAndAttach(), absl::OkStatus());
  ASSERT_EQ(big.replica().AttachStream(big.replica().state().stream_id, /*may_checkpoint=*/true),
            absl::OkStatus());
  ASSERT_EQ(big.Append({{.kind = OperationKind::kIncomplete}}, ""), absl::OkStatus());
  absl::Status status;
  for (uint64_t at = 0; status.ok() && at < 32 * kMiB; at += 512 << 10) {
    status = big.PrimaryWrite(0, at, big.Bytes(512 << 10));
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(big.replica().state().committed_epoch, Epoch());
  EXPECT_TRUE(big.View(0) == big.initial(0));
}

TEST_F(RoomTest, ClonesGiveWayToThePrimary) {
  StoreFixture big(5, 1, 64 * kMiB);
  big.options().overlay_bytes_max = 20 * kMiB;
  ASSERT_EQ(big.OpenStore(), absl::OkStatus());
  ASSERT_EQ(big.StartAndAttach(), absl::OkStatus());
  ASSERT_EQ(big.PrimaryWrite(0, 0, big.Bytes(4096)), absl::OkStatus());
  ASSERT_EQ(big.Checkpoint().status(), absl::OkStatus());
  ASSERT_EQ(big.replica().CreateClone({.name = "drill", .epoch = Epoch(1)}), absl::OkStatus());
  const auto clone = big.replica().FindClone("drill");
  // The second epoch cannot be applied while the clone needs the disk as it is, and fills the room together with it.
  for (int epoch = 0; epoch < 4; ++epoch) {
    for (uint64_t at = 0; at < 8 * kMiB; at += kMiB) {
      ASSERT_EQ(big.PrimaryWrite(0, at, big.Bytes(kMiB)), absl::OkStatus()) << epoch;
    }
    ASSERT_EQ(big.Checkpoint().status(), absl::OkStatus());
  }
  EXPECT_TRUE(big.replica().clones().empty());
  const absl::Status ended = (*clone)->Flush(VolumeId(0));
  EXPECT_THAT(ended.message(), HasSubstr("needs the room"));
}

TEST_F(RoomTest, TheTotalIsOfAllGroups) {
  f_.options().overlay_bytes_total = 16 * kMiB;
  Open();
  GroupSpec other = f_.spec();
  other.name = "vm2";
  other.volumes[0].top_id = "vm2/v0";
  other.volumes[0].disk_path = absl::StrCat(f_.directory(), "/other.img");
  other.volumes[0].create = true;
  other.volumes[0].size_bytes = 64 * kMiB;
  const auto second = f_.store().Open(other);
  ASSERT_EQ(second.status(), absl::OkStatus());
  ASSERT_EQ((*second)->Start(), absl::OkStatus());
  ASSERT_EQ((*second)->BindAgent("agent", false), absl::OkStatus());
  ASSERT_EQ((*second)->AttachStream(7, false), absl::OkStatus());
  const ReplicaState state = (*second)->state();
  const std::string data = f_.Bytes(kMiB);
  const std::span<const char> slice(data);
  for (uint64_t i = 0; i < 12; ++i) {
    const Operation operation = {.kind = OperationKind::kData, .offset = i * kMiB, .length = kMiB};
    ASSERT_EQ((*second)->Append({.incarnation = state.incarnation,
                                 .term = state.term,
                                 .stream_id = 7,
                                 .first_sequence = i + 1,
                                 .operations = std::span(&operation, 1),
                                 .payload = std::span(&slice, 1)},
                                nullptr),
              absl::OkStatus());
  }
  absl::Status status;
  for (uint64_t at = 0; status.ok() && at < 8 * kMiB; at += kMiB) status = Write(at, kMiB);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("--overlay-bytes-total"));
}

// A file system without space is treated as the limit is.
TEST_F(RoomTest, AFullFileSystemIsWaitedOutByApplying) {
  StoreFixture big(6, 1, 64 * kMiB);
  ASSERT_EQ(big.OpenStore(), absl::OkStatus());
  ASSERT_EQ(big.StartAndAttach(), absl::OkStatus());
  std::string primary = big.initial(0);
  std::atomic<bool> full = false;
  big.files().SetHook([&](FileOperation operation, const std::string& path) {
    const bool segment = path.find(".seg") != std::string::npos;
    return full && segment && operation == FileOperation::kWrite ? base::ErrnoStatus(ENOSPC, path)
                                                                 : absl::OkStatus();
  });
  ASSERT_EQ(big.PrimaryWrite(0, 0, primary.substr(4096, kMiB)), absl::OkStatus());
  full = true;
  const absl::Status refused = big.PrimaryWrite(0, kMiB, primary.substr(0, kMiB));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  full = false;
  EXPECT_EQ(big.PrimaryWrite(0, kMiB, primary.substr(0, kMiB)), absl::OkStatus());
  EXPECT_FALSE(big.replica().state().incomplete);
}

// The secondary VM is told that the disk is full; after a failover it is not.
TEST_F(RoomTest, TheLimitIsForTheSecondaryVmToo) {
  StoreFixture big(7, 1, 64 * kMiB);
  big.options().overlay_bytes_max = 16 * kMiB;
  ASSERT_EQ(big.OpenStore(), absl::OkStatus());
  ASSERT_EQ(big.StartAndAttach(), absl::OkStatus());
  std::string view = big.initial(0);
  absl::Status status;
  for (uint64_t at = 0; status.ok() && at < 32 * kMiB; at += kMiB) {
    const std::string data = big.Bytes(kMiB);
    status = big.replica().Write(VolumeId(0), at, data, false);
    if (status.ok()) view.replace(at, kMiB, data);
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(big.View(0) == view);
  ASSERT_EQ(big.replica().Failover({}), absl::OkStatus());
  const std::string data = big.Bytes(kMiB);
  EXPECT_EQ(big.replica().Write(VolumeId(0), 40 * kMiB, data, false), absl::OkStatus());
  view.replace(40 * kMiB, kMiB, data);
  ASSERT_EQ(big.replica().WaitForJobs(base::Deadline::After(absl::Seconds(30))), absl::OkStatus());
  EXPECT_TRUE(big.RawDisk(0) == view);
}

// What a sparse secondary disk may still need is not for overlays.
class SparseDiskTest : public RoomTest {
 protected:
  void UseOne() {
    const auto space = base::FileSystem::Posix().Space(f_.directory());
    ASSERT_EQ(space.status(), absl::OkStatus());
    f_.spec().volumes[0].disk_path = absl::StrCat(f_.directory(), "/sparse.img");
    f_.spec().volumes[0].create = true;
    f_.spec().volumes[0].size_bytes = RoundUp(space->capacity_bytes, kMiB);
  }
};

TEST_F(SparseDiskTest, SpaceIsReserved) {
  UseOne();
  Open();
  const absl::Status refused = f_.PrimaryWrite(0, 0, f_.Bytes(4096));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("--reserve-disk-space=false"));
  EXPECT_THAT(f_.store().CheckRoom().message(), HasSubstr("--reserve-disk-space=false"));
  f_.CloseStore();
  f_.options().reserve_disk_space = false;
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  EXPECT_EQ(f_.store().CheckRoom(), absl::OkStatus());
  EXPECT_EQ(f_.PrimaryWrite(0, 0, f_.Bytes(4096)), absl::OkStatus());
}

// The data directory and the disks may be mounts of their own of one file system.
TEST_F(SparseDiskTest, SpaceIsReservedUnderTwoNamesOfAFileSystem) {
  UseOne();
  const std::string path = f_.spec().volumes[0].disk_path;
  ASSERT_EQ(base::FileSystem::Posix().WriteFileAtomically(path, ""), absl::OkStatus());
  base::FileIdentity identity =
      *(*base::FileSystem::Posix().Open(path, {.read_only = true}))->Identity();
  ASSERT_EQ(base::FileSystem::Posix().Remove(path), absl::OkStatus());
  identity.file_system = "mount fuse store /disks";
  f_.files().PretendIdentity(path, identity);
  Open();
  EXPECT_THAT(f_.store().CheckRoom().message(), HasSubstr("--reserve-disk-space=false"));
}

}  // namespace
}  // namespace understudy::storage::room_test
