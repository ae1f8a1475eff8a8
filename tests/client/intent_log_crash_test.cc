// The rule of the write-intent log, against power cuts: whatever was lost, a region in which the
// local disk and the standby differ is among those that the log names when it is opened again. And
// its owner, who keeps its id, knows it again.
//
// Method   a primary in miniature (writes with Begin and End, a log that is lost and made anew, some without a place in the stream, a resync that carries those, a comparison
//          of the suspects after a crash, cleaning in its three steps, new streams, everything interleaved) runs on a simulated disk;
//          the power goes at its first I/O, at its second, and so on; then once more while it is recovering. The standby keeps what
//          is durable there, and perhaps what it has only received.
#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include <gtest/gtest.h>

#include "client/intent_log.h"
#include "storage/base/log.h"
#include "tests/testing/seed.h"
#include "tests/testing/sim_disk.h"

namespace understudy::client::intent_log_crash_test {
namespace {

using testing::SimDisk;
using testing::SimFault;
using testing::SimIo;
using testing::SimIoKind;

constexpr uint64_t kRegion = IntentLog::kRegionBytes;
constexpr uint32_t kVolumes = 2;
constexpr uint64_t kSize = 5 * kRegion + 7 * kSectorBytes;
constexpr char kIntent[] = "/state/intent";
constexpr char kKept[] = "/state/id";  // where the owner keeps the log's

std::string DiskPath(uint32_t volume) { return absl::StrCat("/disks/", volume); }

struct Sector {
  uint32_t volume = 0;
  uint64_t number = 0;
  friend auto operator<=>(const Sector&, const Sector&) = default;
};

// Contents are one number per sector; what was never written is 0.
using Contents = std::map<Sector, uint64_t>;

// What the other host has: operations in the order of the stream, of which a prefix was received and a shorter one is durable.
struct Standby {
  struct Operation {
    uint64_t sequence = 0;  // grows over all streams of a life; 0: of an earlier one
    std::optional<Sector> sector;
    uint64_t value = 0;
  };
  std::vector<Operation> operations;
  size_t received = 0;
  size_t durable = 0;
  uint64_t settled = 0;  // of the streams before: durable, or remembered by their owner

  Contents Through(size_t count) const {
    Contents contents;
    for (size_t i = 0; i < count; ++i) {
      if (operations[i].sector) contents[*operations[i].sector] = operations[i].value;
    }
    return contents;
  }
  uint64_t SequenceOf(size_t count) const {
    return count == 0 ? settled : std::max(settled, operations[count - 1].sequence);
  }
  // Keeps the first `count`; a new stream begins behind sequence `last`.
  void Cut(size_t count, uint64_t last) {
    operations.resize(count);
    for (Operation& operation : operations) operation.sequence = 0;
    received = durable = count;
    settled = last;
  }
};

class Primary {
 public:
  Primary(SimDisk& disk, Standby& standby, uint64_t seed)
      : disk_(disk), standby_(standby), random_(seed) {}

  absl::Status Open() {
    const auto kept = disk_.ReadWholeFile(kKept);
    if (kept.ok() && !absl::SimpleAtoi(*kept, &kept_id_)) return absl::DataLossError(*kept);
    disk_.SyncDirectory("/state").IgnoreError();
    const bool there = disk_.Exists(kIntent);
    auto log = IntentLog::Open(
        disk_, kIntent, {{.name = "a", .size_bytes = kSize}, {.name = "b", .size_bytes = kSize}}, 3,
        kept_id_);
    if (!log.ok()) return log.status();
    log_ = *std::move(log);
    refused_ = there && log_->was_missing();
    // Without the file everything may differ; what a real owner stores elsewhere is said by bits here.
    for (uint32_t volume = 0; log_->was_missing() && volume < kVolumes; ++volume) {
      for (uint64_t at = 0; at < kSize; at += kRegion) {
        suspects_.insert({volume, at / kRegion});
        const ByteRange region = {at, std::min(at + kRegion, kSize)};
        if (log_->Begin(volume, region).ok()) log_->End(volume, region, 0);
      }
    }
    if (Below(4) > 0) KeepId();
    if (Below(4) > 0) Make();
    for (uint32_t volume = 0; volume < kVolumes; ++volume) {
      auto file = disk_.Open(DiskPath(volume), {});
      if (!file.ok()) return file.status();
      files_[volume] = *std::move(file);
      for (const ByteRange& range : log_->Loaded(volume)) {
        for (uint64_t at = range.start; at < range.end; at += kRegion) {
          suspects_.insert({volume, at / kRegion});
        }
      }
    }
    return absl::OkStatus();
  }

  bool refused() const { return refused_; }  // a log that was there

  void Step() {
    const uint64_t dice = Below(100);
    if (dice < 20) return BeginWrite();
    if (dice < 50) return GoOn();
    if (dice < 58) return Resync();
    if (dice < 70) return Compare();
    if (dice < 82) return Acknowledge();
    if (dice < 84) return NewStream();
    if (dice < 86) return KeepId();
    if (dice < 90) return Make();
    Clean();
  }

  // The first sector in which the disks differ without its region being set; verifies what Open() found.
  std::optional<std::string> Violation(const Contents& standby, absl::string_view which) {
    std::set<Sector> sectors;
    for (const auto& [sector, value] : standby) sectors.insert(sector);
    for (uint32_t volume = 0; volume < kVolumes; ++volume) {
      for (const uint64_t number : Places()) sectors.insert({volume, number});
    }
    for (const Sector& sector : sectors) {
      const auto there = standby.find(sector);
      const uint64_t value = there == standby.end() ? 0 : there->second;
      const uint64_t local = Read(sector);
      if (local == value || suspects_.contains({sector.volume, RegionOf(sector)})) continue;
      return absl::StrCat("volume ", sector.volume, " sector ", sector.number, " region ",
                          RegionOf(sector), ": local ", local, ", standby (", which, ") ", value,
                          ", not set");
    }
    return std::nullopt;
  }

 private:
  struct Write {
    uint32_t volume = 0;
    ByteRange range;
    bool written = false;
  };

  void KeepId() {
    if (log_->id() == kept_id_) return;
    if (disk_.WriteFileAtomically(kKept, absl::StrCat(log_->id())).ok()) kept_id_ = log_->id();
  }
  void Make() {
    if (!log_->lost()) return;
    KeepId();
    if (log_->id() == kept_id_) log_->Make().IgnoreError();
  }

  // Where writes go: few sectors, so that they meet again, at both edges of each region.
  static std::vector<uint64_t> Places() {
    std::vector<uint64_t> places;
    for (uint64_t at = 0; at < kSize; at += kRegion) {
      const uint64_t sector = at / kSectorBytes;
      if (at > 0) places.push_back(sector - 1);
      for (const uint64_t next : {0U, 1U, 2U}) places.push_back(sector + next);
    }
    return places;
  }
  static uint64_t RegionOf(const Sector& sector) { return sector.number * kSectorBytes / kRegion; }
  uint64_t Below(uint64_t limit) { return random_() % limit; }

  uint64_t Read(const Sector& sector) {
    std::array<char, kSectorBytes> bytes = {};
    uint64_t value = 0;
    if (!files_[sector.volume]->Read(sector.number * kSectorBytes, bytes).ok()) return 0;
    std::memcpy(&value, bytes.data(), sizeof(value));
    return value;
  }

  bool Busy(uint32_t volume, ByteRange range) const {
    return std::any_of(writes_.begin(), writes_.end(), [&](const Write& write) {
      return write.volume == volume && write.range.Overlaps(range);
    });
  }

  void BeginWrite() {
    if (writes_.size() >= 3) return;
    const std::vector<uint64_t> places = Places();
    const size_t first = Below(places.size());
    const bool two = first + 1 < places.size() && places[first + 1] == places[first] + 1;
    const uint64_t sectors = two ? 1 + Below(2) : 1;
    const Write write = {
        .volume = static_cast<uint32_t>(Below(kVolumes)),
        .range = ByteRange::OfLength(places[first] * kSectorBytes, sectors * kSectorBytes)};
    if (Busy(write.volume, write.range)) return;
    if (log_->Begin(write.volume, write.range).ok()) writes_.push_back(write);
  }

  void GoOn() {
    if (writes_.empty()) return;
    const size_t which = Below(writes_.size());
    Write& write = writes_[which];
    if (!write.written) {
      std::string data(write.range.size(), '\0');
      for (size_t at = 0; at < data.size(); at += kSectorBytes) {
        const uint64_t value = ++next_value_;
        std::memcpy(data.data() + at, &value, sizeof(value));
      }
      write.written = files_[write.volume]->Write(write.range.start, data).ok();
      if (write.written) return;
    }
    const bool placed = write.written && Below(4) != 0;
    uint64_t sequence = 0;
    for (uint64_t at = write.range.start; at < write.range.end; at += kSectorBytes) {
      const Sector sector = {write.volume, at / kSectorBytes};
      if (placed) sequence = Queue(sector);
      if (!placed) dirty_[sector] = 0;
    }
    log_->End(write.volume, write.range, sequence);
    writes_.erase(writes_.begin() + static_cast<ptrdiff_t>(which));
  }

  // Queues what the local disk has there.
  uint64_t Queue(const Sector& sector) {
    standby_.operations.push_back(
        {.sequence = ++sequence_, .sector = sector, .value = Read(sector)});
    return sequence_;
  }

  void Resync() {
    if (dirty_.empty()) return;
    const auto at = std::next(dirty_.begin(), static_cast<ptrdiff_t>(Below(dirty_.size())));
    const Sector sector = at->first;
    const ByteRange range = ByteRange::OfLength(sector.number * kSectorBytes, kSectorBytes);
    if (Busy(sector.volume, range) || !log_->Begin(sector.volume, range).ok()) return;
    at->second = Queue(sector);
    log_->End(sector.volume, range, at->second);
  }

  // A region found set is compared with what the standby has received; what differs is queued, and a marker after it.
  void Compare() {
    if (suspects_.empty()) return;
    const auto [volume, region] = *suspects_.begin();
    const ByteRange range = {region * kRegion, std::min((region + 1) * kRegion, kSize)};
    if (Busy(volume, range) || !log_->Begin(volume, range).ok()) return;
    Contents there = standby_.Through(standby_.received);
    for (const uint64_t number : Places()) {
      const Sector sector = {volume, number};
      if (RegionOf(sector) == region && Read(sector) != there[sector]) Queue(sector);
    }
    standby_.operations.push_back({.sequence = ++sequence_, .sector = {}});
    compared_[{volume, region}] = sequence_;
    log_->End(volume, range, sequence_);
    suspects_.erase({volume, region});
  }

  void Acknowledge() {
    standby_.received += Below(standby_.operations.size() - standby_.received + 1);
    standby_.durable += Below(standby_.received - standby_.durable + 1);
    const uint64_t received = standby_.SequenceOf(standby_.received);
    std::erase_if(dirty_,
                  [&](const auto& entry) { return entry.second > 0 && entry.second <= received; });
    std::erase_if(compared_, [&](const auto& entry) { return entry.second <= received; });
  }

  // What was not durable is lost with the old stream: the owner remembers it.
  void NewStream() {
    for (size_t i = standby_.durable; i < standby_.operations.size(); ++i) {
      if (standby_.operations[i].sector) dirty_[*standby_.operations[i].sector] = 0;
    }
    for (auto& [sector, sequence] : dirty_) sequence = 0;
    for (const auto& [region, sequence] : compared_) suspects_.insert(region);
    compared_.clear();
    standby_.Cut(standby_.durable, sequence_);
  }

  bool Keeps(uint32_t volume, ByteRange range) const {
    const std::pair<uint32_t, uint64_t> region = {volume, range.start / kRegion};
    const auto dirty = dirty_.lower_bound({volume, range.start / kSectorBytes});
    return suspects_.contains(region) || compared_.contains(region) ||
           (dirty != dirty_.end() && dirty->first.volume == volume &&
            dirty->first.number * kSectorBytes < range.end);
  }

  // Propose, sync, clear, with other things going on in between.
  void Clean() {
    if (cleaning_ == 0) {
      cleanable_ = log_->Cleanable(
          standby_.SequenceOf(standby_.durable),
          [this](uint32_t volume, ByteRange range) { return Keeps(volume, range); });
    } else if (cleaning_ == 1) {
      for (auto& file : files_) {
        if (!file->Sync().ok()) return;
      }
    } else {
      log_->Clear(cleanable_).IgnoreError();
    }
    cleaning_ = (cleaning_ + 1) % 3;
  }

  SimDisk& disk_;
  Standby& standby_;
  std::mt19937_64 random_;
  std::unique_ptr<IntentLog> log_;
  uint64_t kept_id_ = 0;
  bool refused_ = false;
  std::array<std::unique_ptr<base::File>, kVolumes> files_;
  std::vector<Write> writes_;
  std::map<Sector, uint64_t> dirty_;  // to the sequence that carries it; 0: none yet
  std::set<std::pair<uint32_t, uint64_t>> suspects_;
  std::map<std::pair<uint32_t, uint64_t>, uint64_t> compared_;  // likewise
  std::vector<IntentLog::Region> cleanable_;
  int cleaning_ = 0;
  uint64_t sequence_ = 0;
  static inline uint64_t next_value_ = 0;
};

struct Run {
  SimFault fault = SimFault::kPowerCut;
  uint64_t io = 1;
  uint64_t seed = 1;
  SimDisk::Hook lie;  // asked first

  std::string ToString() const {
    return absl::StrCat("fault ", static_cast<int>(fault), " io ", io, " seed ", seed);
  }
};

struct Outcome {
  bool reached = false;
  std::optional<std::string> violation;
};

void Prepare(SimDisk& disk) {
  ASSERT_TRUE(disk.CreateDirectory("/state").ok());
  ASSERT_TRUE(disk.CreateDirectory("/disks").ok());
  for (uint32_t volume = 0; volume < kVolumes; ++volume) {
    const auto file = disk.Open(DiskPath(volume), {.create = true});
    ASSERT_TRUE(file.ok() && (*file)->Truncate(kSize).ok() && (*file)->Sync().ok());
  }
  for (const char* directory : {"/disks", "/"}) {
    ASSERT_TRUE(disk.SyncDirectory(directory).ok());
  }
}

// The fault at the Nth I/O from now on; an error only where it hits the log.
SimDisk::Hook FaultAt(const Run& run, uint64_t io, SimFault fault, bool* reached) {
  return [=, lie = run.lie, count = uint64_t{0}](const SimIo& now) mutable {
    if (lie != nullptr && lie(now) != SimFault::kNone) return SimFault::kIgnore;
    if (++count != io) return SimFault::kNone;
    *reached = true;
    const bool survives = fault == SimFault::kIoError;
    return survives && now.path != kIntent ? SimFault::kNone : fault;
  };
}

Outcome RunOne(const Run& run) {
  SimDisk disk(run.seed);
  Prepare(disk);
  Standby standby;
  std::mt19937_64 random(run.seed);
  Outcome outcome;
  bool reached = false;
  // All but the first of four lives begin with what the one before has left. A kill is followed by
  // another one.
  for (int life = 0; life < 4; ++life) {
    const bool kills = run.fault == SimFault::kKill && life < 2;
    const SimFault fault = life == 0 || kills ? run.fault : SimFault::kPowerCut;
    disk.SetHook(FaultAt(run, life == 0 ? run.io : 1 + random() % 60, fault, &reached));
    {
      Primary primary(disk, standby, random());
      if (primary.Open().ok()) {
        outcome.violation = primary.Violation(standby.Through(standby.durable), "durable");
        if (primary.refused() && run.lie == nullptr) {
          outcome.violation = "its own log was taken for that of another copy";
        }
        if (!outcome.violation) {
          outcome.violation = primary.Violation(standby.Through(standby.received), "received");
        }
        if (outcome.violation) return outcome;
        const size_t left = random() % 2 == 0 ? standby.durable : standby.received;
        standby.Cut(left, 0);
        for (int step = 0; step < 150 && !disk.dead(); ++step) primary.Step();
      }
      if (life == 0) outcome.reached = reached;
      if (!disk.dead()) kills ? disk.Kill() : disk.CutPower();
    }
    disk.SetHook(nullptr);
    disk.Restart();
  }
  return outcome;
}

// Every I/O of the first life, several seeds each; the first violation.
std::optional<std::string> FirstViolation(SimFault fault, uint64_t seeds, uint64_t seed,
                                          const SimDisk::Hook& lie = nullptr) {
  base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
  uint64_t runs = 0;
  bool reached = true;
  for (uint64_t io = 1; reached; ++io) {
    reached = false;
    for (uint64_t i = 0; i < seeds; ++i) {
      const Run run = {.fault = fault, .io = io, .seed = seed + 1000 * io + i, .lie = lie};
      const Outcome outcome = RunOne(run);
      ++runs;
      if (outcome.violation) return absl::StrCat(run.ToString(), ": ", *outcome.violation);
      reached = reached || outcome.reached;
    }
  }
  std::printf("%llu runs\n", static_cast<unsigned long long>(runs));
  return std::nullopt;
}

TEST(IntentLogCrashTest, APowerCutAtAnyIoLeavesEveryDifferenceMarked) {
  EXPECT_EQ(FirstViolation(SimFault::kPowerCut, 40, testing::TestSeed()), std::nullopt);
}

// What the process had written and not synced is still there, so the next process must not take it for durable.
TEST(IntentLogCrashTest, AKillAtAnyIoAndThenAPowerCutLikewise) {
  EXPECT_EQ(FirstViolation(SimFault::kKill, 20, testing::TestSeed()), std::nullopt);
}

TEST(IntentLogCrashTest, AFailedWriteOrSyncOfTheLogLikewise) {
  EXPECT_EQ(FirstViolation(SimFault::kIoError, 20, testing::TestSeed()), std::nullopt);
}

// The rule broken on purpose, so that the tests above are known to be able to fail.
TEST(IntentLogCrashTest, WithoutItsSyncADifferenceIsMissed) {
  const auto lie = [](const SimIo& io) {
    return io.kind == SimIoKind::kSync && io.path == kIntent ? SimFault::kIgnore : SimFault::kNone;
  };
  const auto violation = FirstViolation(SimFault::kPowerCut, 40, 1, lie);
  ASSERT_TRUE(violation.has_value()) << "nobody missed the sync";
  std::printf("%s\n", violation->c_str());
}

TEST(IntentLogCrashTest, ClearedWithoutASyncOfTheDisksADifferenceIsMissed) {
  const auto lie = [](const SimIo& io) {
    return io.kind == SimIoKind::kSync && absl::StartsWith(io.path, "/disks/") ? SimFault::kIgnore
                                                                               : SimFault::kNone;
  };
  const auto violation = FirstViolation(SimFault::kPowerCut, 40, 1, lie);
  ASSERT_TRUE(violation.has_value()) << "nobody missed the sync";
  std::printf("%s\n", violation->c_str());
}

TEST(IntentLogCrashTest, RemovedWithoutASyncOfItsDirectoryADifferenceIsMissed) {
  const auto lie = [](const SimIo& io) {
    return io.kind == SimIoKind::kSyncDirectory ? SimFault::kIgnore : SimFault::kNone;
  };
  const auto violation = FirstViolation(SimFault::kIoError, 40, 1, lie);
  ASSERT_TRUE(violation.has_value()) << "nobody missed the sync";
  std::printf("%s\n", violation->c_str());
}

}  // namespace
}  // namespace understudy::client::intent_log_crash_test
