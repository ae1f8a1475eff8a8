// Random operations on an ExtentMap against a plain array, around the bound of two regions; its mutations go into a second map, as
// the index does, from which evicted regions are read back.
#include <map>
#include <optional>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "storage/extent_map.h"
#include "tests/testing/seed.h"

namespace understudy::storage::extent_map_model_test {
namespace {

constexpr uint64_t kSectors = 256;
constexpr uint64_t kBase = kRegionBytes - kSectors / 2 * kSectorBytes;
constexpr ByteRange kAll = {kBase, kBase + kSectors* kSectorBytes};

// Per sector: which write it came from, and the offset of the sector in that write's data.
struct Cell {
  uint32_t segment = 0;
  uint64_t position = 0;
  bool operator==(const Cell&) const = default;
};
using Model = std::vector<std::optional<Cell>>;
using Records = std::map<uint64_t, Extent>;  // what the index would hold

std::vector<ExtentEntry> EntriesIn(const Records& records, ByteRange range) {
  std::vector<ExtentEntry> entries;
  for (auto it = records.upper_bound(range.start); it != records.end(); ++it) {
    if (it->second.start >= range.end) break;
    entries.push_back({{it->second.start, it->first}, it->second});
  }
  return entries;
}

Model Flatten(const std::vector<ExtentEntry>& entries) {
  Model cells(kSectors);
  for (const auto& [range, extent] : entries) {
    for (uint64_t at = range.start; at < range.end; at += kSectorBytes) {
      cells[(at - kBase) / kSectorBytes] =
          extent.zero() ? Cell{}
                        : Cell{extent.segment, extent.position + (at - extent.origin_start)};
    }
  }
  return cells;
}

// What a reader finds that looks at cold regions in the index.
Model Look(const ExtentMap& map, const Records& records) {
  std::vector<ExtentEntry> entries;
  for (ByteRange rest = kAll; !rest.empty();) {
    const ByteRange cold = map.NextCold(rest).Intersect(rest);
    map.Collect({rest.start, cold.empty() ? rest.end : cold.start}, &entries);
    if (cold.empty()) break;
    for (const ExtentEntry& entry : EntriesIn(records, cold)) entries.push_back(entry);
    rest.start = cold.end;
  }
  return Flatten(entries);
}

class Driver {
 public:
  explicit Driver(uint64_t seed) : random_(seed) {}

  void Step() {
    switch (random_() % 8) {
      case 0:
        return Evict();
      case 1:
        indexed_ = change_;
        return;
      default:
        return Change();
    }
  }
  void Check() {
    map_.CheckInvariants();
    if (indexed_ == change_) {
      ASSERT_EQ(Flatten(EntriesIn(records_, kAll)), model_);
    }
    ASSERT_EQ(Look(map_, records_), model_);
    CoveredBytes covered;
    for (const auto& cell : model_) {
      covered.all += cell.has_value() ? kSectorBytes : 0;
      covered.data += cell.has_value() && cell->segment != 0 ? kSectorBytes : 0;
    }
    ASSERT_EQ(map_.covered(), covered);
    uint64_t next = 0;
    while (next < kSectors && !model_[next].has_value()) ++next;
    if (map_.NextCold(kAll).empty()) {
      const auto held = map_.Next(0);
      ASSERT_EQ(held.has_value(), next < kSectors);
      if (held.has_value()) {
        ASSERT_EQ(*held, kBase + next * kSectorBytes);
      }
    }
  }
  int evictions() const { return evictions_; }

 private:
  void Evict() {
    for (int round = 0; round < 2; ++round) {  // the first one spares what was touched
      uint32_t cursor = 0;
      const uint64_t before = map_.memory_bytes();
      const uint64_t freed =
          map_.Evict(&cursor, 100, 1 << 20, indexed_, [](ByteRange) { return false; });
      ASSERT_EQ(before - map_.memory_bytes(), freed);
      evictions_ += freed > 0;
    }
  }
  void Load(ByteRange range) {
    for (ByteRange run = map_.NextCold(range); !run.empty(); run = map_.NextCold(range)) {
      map_.Install(run, EntriesIn(records_, run));
    }
  }
  void Change() {
    uint64_t a = random_() % kSectors;
    uint64_t b = random_() % (kSectors + 1);
    if (a > b) std::swap(a, b);
    if (random_() % 2 == 0) b = std::min(b, a + 8);
    if (a == b) return;
    const ByteRange range = {kBase + a * kSectorBytes, kBase + b * kSectorBytes};
    Load(range);
    std::vector<ExtentMutation> mutations;
    const int kind = static_cast<int>(random_() % 5);
    ++change_;
    if (kind == 0) {
      map_.Erase(VolumeId(0), range, change_, &mutations);
    } else {
      Extent extent{.start = range.start};
      if (kind > 1) {
        extent.origin_start = range.start;
        extent.origin_bytes = static_cast<uint32_t>(range.size());
        extent.segment = 1 + static_cast<uint32_t>(random_() % 3);
        extent.position = next_position_;
        next_position_ += extent.origin_bytes;
      }
      map_.Put(VolumeId(0), range.end, extent, change_, &mutations);
      for (uint64_t i = a; i < b; ++i) {
        model_[i] =
            kind > 1 ? Cell{extent.segment, extent.position + (i - a) * kSectorBytes} : Cell{};
      }
    }
    for (uint64_t i = a; kind == 0 && i < b; ++i) model_[i] = std::nullopt;
    for (const ExtentMutation& mutation : mutations) {
      if (mutation.extent.has_value()) {
        records_[mutation.end] = *mutation.extent;
      } else {
        records_.erase(mutation.end);
      }
    }
  }

  std::mt19937_64 random_;
  ExtentMap map_;
  Model model_{kSectors};
  Records records_;
  uint64_t change_ = 0;
  uint64_t indexed_ = 0;
  uint32_t next_position_ = 4096;
  int evictions_ = 0;
};

TEST(ExtentMapModelTest, AgreesWithAnArrayWhileRegionsBecomeColdAndReturn) {
  int evictions = 0;
  for (uint64_t round = 0; round < 260; ++round) {
    Driver driver(testing::TestSeed() + round);
    for (int step = 0; step < 200; ++step) {
      driver.Step();
      driver.Check();
      if (::testing::Test::HasFatalFailure()) FAIL() << "round " << round << " step " << step;
    }
    evictions += driver.evictions();
  }
  EXPECT_GT(evictions, 1000);  // about 1,400: 200 rounds missed it at times
}

TEST(ExtentMapModelTest, WhatIsNotInTheIndexOrWantedStays) {
  ExtentMap map;
  std::vector<ExtentMutation> mutations;
  map.Put(VolumeId(0), 3 * kRegionBytes, {.start = 0}, 1, &mutations);
  EXPECT_EQ(mutations.size(), 3u);  // cut at the regions' bounds
  map.Put(VolumeId(0), kRegionBytes, {.start = 0}, 2, &mutations);
  const auto second_held = [](ByteRange region) { return region.start == kRegionBytes; };
  uint32_t cursor = 0;
  EXPECT_EQ(map.Evict(&cursor, 10, 1 << 20, 1, second_held), 0u);  // all were just touched
  EXPECT_GT(map.Evict(&cursor, 10, 1 << 20, 1, second_held), 0u);
  EXPECT_EQ(map.NextCold({0, 3 * kRegionBytes}), (ByteRange{2 * kRegionBytes, 3 * kRegionBytes}));
  EXPECT_EQ(map.resident_extents(), 2u);
  map.CheckInvariants();
}

TEST(ExtentMapModelTest, AMapFromTheIndexIsColdToItsEnd) {
  ExtentMap map = ExtentMap::Cold({.all = 4096});
  EXPECT_EQ(map.covered().all, 4096u);
  EXPECT_EQ(map.NextCold({5000 * kRegionBytes, 5001 * kRegionBytes + 512}),
            (ByteRange{5000 * kRegionBytes, 5002 * kRegionBytes}));
  map.Install({70 * kRegionBytes, 72 * kRegionBytes}, {});
  EXPECT_EQ(map.NextCold({70 * kRegionBytes, 71 * kRegionBytes + 512}), ByteRange());
  EXPECT_EQ(map.NextCold({0, 100 * kRegionBytes}), (ByteRange{0, 70 * kRegionBytes}));
  EXPECT_EQ(map.NextCold({70 * kRegionBytes, 100 * kRegionBytes}),
            (ByteRange{72 * kRegionBytes, 100 * kRegionBytes}));
}

}  // namespace
}  // namespace understudy::storage::extent_map_model_test
