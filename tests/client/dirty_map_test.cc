#include "client/dirty_map.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "storage/base/crc32c.h"
#include "tests/testing/seed.h"

namespace understudy::client::dirty_map_test {
namespace {

constexpr uint64_t kRegion = DirtyMap::kRegionBytes;
constexpr uint64_t kPlenty = 1 << 20;
// Nine regions and a bit: the last region is short, and so is its last block.
constexpr uint64_t kSize = 9 * kRegion + 5 * kBlockBytes + 3 * kSectorBytes;

std::vector<ByteRange> Runs(const DirtyMap& map, uint64_t length_max = kSize) {
  std::vector<ByteRange> runs;
  for (auto run = map.Next(0, length_max); run.has_value(); run = map.Next(run->end, length_max)) {
    runs.push_back(*run);
  }
  return runs;
}

// A character per block: 1 is dirty. (The library counts, fills and compares bytes at once, bits
// one by one.)
using Blocks = std::string;

// What a DirtyMap with all the memory in the world says, block by block.
class Model {
 public:
  void Add(ByteRange range) {
    for (uint64_t block = range.start / kBlockBytes; block * kBlockBytes < range.end; ++block) {
      if (!range.empty() && Block(block).Overlaps(range)) dirty_[block] = 1;
    }
  }
  void Remove(ByteRange range) {
    for (uint64_t block = range.start / kBlockBytes; block * kBlockBytes < range.end; ++block) {
      if (range.Contains(Block(block))) dirty_[block] = 0;
    }
  }
  const Blocks& dirty() const { return dirty_; }
  static uint64_t Bytes(const Blocks& dirty) {
    const auto blocks = static_cast<uint64_t>(std::count(dirty.begin(), dirty.end(), 1));
    return blocks * kBlockBytes - (dirty.back() == 1 ? kBlocks * kBlockBytes - kSize : 0);
  }
  static ByteRange Block(uint64_t block) {
    return {block * kBlockBytes, std::min((block + 1) * kBlockBytes, kSize)};
  }
  static Blocks Of(const DirtyMap& map) {
    Blocks dirty(kBlocks, 0);
    for (const ByteRange& run : Runs(map)) {
      EXPECT_EQ(run.start % kBlockBytes, 0U);
      const uint64_t first = run.start / kBlockBytes;
      const uint64_t count = (run.end - run.start + kBlockBytes - 1) / kBlockBytes;
      dirty.replace(first, count, count, 1);
    }
    return dirty;
  }

 private:
  static constexpr uint64_t kBlocks = (kSize + kBlockBytes - 1) / kBlockBytes;
  Blocks dirty_ = Blocks(kBlocks, 0);
};

class Operations {
 public:
  explicit Operations(uint64_t seed) : random_(seed) {}

  ByteRange Range() {
    const uint64_t sectors = kSize / kSectorBytes;
    const uint64_t start = Below(sectors);
    const uint64_t longest[] = {16, 2 * kRegion / kSectorBytes, sectors};
    uint64_t end = std::min(sectors, start + 1 + Below(longest[Below(3)]));
    if (Below(20) == 0) end = sectors;
    const uint64_t aligned = Below(6) == 0 ? RoundDown(start, kRegion / kSectorBytes) : start;
    return {aligned * kSectorBytes, end * kSectorBytes};
  }
  uint64_t Below(uint64_t limit) { return random_() % limit; }

 private:
  std::mt19937_64 random_;
};

TEST(DirtyMapTest, DoesWhatAVectorOfBitsDoes) {
  const uint64_t seed = testing::TestSeed();
  Operations operations(seed);
  DirtyMap map(kSize, kPlenty);
  Model model;
  for (int i = 0; i < 600; ++i) {
    const ByteRange range = operations.Range();
    const uint64_t kind = operations.Below(100);
    if (kind < 50) {
      map.Add(range);
      model.Add(range);
    } else if (kind < 97) {
      map.Remove(range);
      model.Remove(range);
    } else if (kind < 98) {
      map.AddAll();
      model.Add({0, kSize});
    } else {
      map = *DirtyMap::Decode(map.Encode(), kSize, kPlenty);
    }
    const uint64_t bytes = Model::Bytes(model.dirty());
    ASSERT_EQ(map.bytes(), bytes) << "operation " << i << " " << range.ToString();
    ASSERT_TRUE(Model::Of(map) == model.dirty()) << "operation " << i << " " << range.ToString();
    ASSERT_EQ(map.empty(), bytes == 0);
    const ByteRange asked = operations.Range();
    const uint64_t found = model.dirty().find(char{1}, asked.start / kBlockBytes);
    ASSERT_EQ(map.Intersects(asked), found != Blocks::npos && found * kBlockBytes < asked.end)
        << asked.ToString();
  }
}

// Less memory than the bitsets want: all that the model has is there; what is removed whole is gone when its region is.
TEST(DirtyMapTest, WithLittleMemorySaysMoreButNeverLess) {
  const uint64_t seed = testing::TestSeed();
  for (const uint64_t bytes_max : {0U, 128U, 300U}) {
    Operations operations(seed + bytes_max);
    DirtyMap map(kSize, bytes_max);
    Model model;
    for (int i = 0; i < 300; ++i) {
      const ByteRange range = operations.Range();
      if (operations.Below(2) == 0) {
        map.Add(range);
        model.Add(range);
      } else {
        map.Remove(range);
        model.Remove(range);
      }
      if (operations.Below(20) == 0) map = *DirtyMap::Decode(map.Encode(), kSize, bytes_max);
      const Blocks said = Model::Of(map);
      // Where the model has more than the map says.
      const auto missing = std::mismatch(said.begin(), said.end(), model.dirty().begin(),
                                         std::greater_equal<char>());
      ASSERT_TRUE(missing.first == said.end())
          << "block " << missing.first - said.begin() << " is missing";
      ASSERT_EQ(map.bytes(), Model::Bytes(said));
    }
    map.Remove({0, kSize});
    EXPECT_TRUE(map.empty());
    EXPECT_EQ(map.bytes(), 0U);
  }
}

TEST(DirtyMapTest, AddGoesOutwardAndRemoveInward) {
  DirtyMap map(kSize, kPlenty);
  map.Add({kBlockBytes + 512, 2 * kBlockBytes + 512});
  EXPECT_EQ(Runs(map), (std::vector<ByteRange>{{kBlockBytes, 3 * kBlockBytes}}));
  map.Remove({kBlockBytes + 512, 3 * kBlockBytes});
  EXPECT_EQ(Runs(map), (std::vector<ByteRange>{{kBlockBytes, 2 * kBlockBytes}}));
  map.Remove({kBlockBytes, 2 * kBlockBytes - 512});
  EXPECT_FALSE(map.empty());
  map.Remove({kBlockBytes, 2 * kBlockBytes});
  EXPECT_TRUE(map.empty());
}

TEST(DirtyMapTest, TheShortLastBlockIsCoveredByWhatReachesTheEnd) {
  DirtyMap map(kSize, kPlenty);
  map.Add({kSize - 512, kSize});
  const uint64_t last = RoundDown(kSize, kBlockBytes);
  EXPECT_EQ(map.bytes(), kSize - last);
  EXPECT_EQ(Runs(map), (std::vector<ByteRange>{{last, kSize}}));
  map.Remove({last, kSize - 512});
  EXPECT_FALSE(map.empty());
  map.Remove({last, kSize});
  EXPECT_TRUE(map.empty());
}

TEST(DirtyMapTest, NextCutsToTheLengthAndJoinsAcrossRegions) {
  DirtyMap map(kSize, kPlenty);
  map.Add({kRegion - kBlockBytes, 2 * kRegion + kBlockBytes});
  EXPECT_EQ(map.Next(0, kSize), (ByteRange{kRegion - kBlockBytes, 2 * kRegion + kBlockBytes}));
  EXPECT_EQ(map.Next(0, 3 * kBlockBytes),
            (ByteRange{kRegion - kBlockBytes, kRegion + 2 * kBlockBytes}));
  EXPECT_EQ(map.Next(kRegion + 512, 100), (ByteRange{kRegion, kRegion + kBlockBytes}));
  EXPECT_EQ(map.Next(2 * kRegion + kBlockBytes, kSize), std::nullopt);
  EXPECT_EQ(map.Next(kSize, kSize), std::nullopt);
}

TEST(DirtyMapTest, MergeIsTheUnion) {
  DirtyMap map(kSize, kPlenty);
  map.Add({0, kBlockBytes});
  DirtyMap other(kSize, 0);
  other.Add({3 * kRegion, 3 * kRegion + kBlockBytes});  // coarse: the whole region
  map.Merge(other);
  EXPECT_EQ(Runs(map), (std::vector<ByteRange>{{0, kBlockBytes}, {3 * kRegion, 4 * kRegion}}));
  EXPECT_EQ(map.bytes(), kBlockBytes + kRegion);
}

TEST(DirtyMapTest, AWholeRegionIsSplitWhereMemoryAllows) {
  DirtyMap map(kSize, 128);
  map.Add({0, 2 * kRegion});
  map.Remove({0, kBlockBytes});
  map.Remove({kRegion, kRegion + kBlockBytes});  // no room for a second bitset
  EXPECT_EQ(Runs(map), (std::vector<ByteRange>{{kBlockBytes, 2 * kRegion}}));
  map.Add({0, kBlockBytes});  // whole again: its bitset is given back
  map.Remove({kRegion, kRegion + kBlockBytes});
  EXPECT_EQ(Runs(map),
            (std::vector<ByteRange>{{0, kRegion}, {kRegion + kBlockBytes, 2 * kRegion}}));
}

TEST(DirtyMapTest, ADamagedEncodingIsRefused) {
  DirtyMap map(kSize, kPlenty);
  map.Add({0, kBlockBytes});
  map.Add({2 * kRegion, 4 * kRegion});
  const std::string good = map.Encode();
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 4);
    EXPECT_TRUE(absl::IsDataLoss(DirtyMap::Decode(bad, kSize, kPlenty).status())) << at;
    EXPECT_FALSE(DirtyMap::Decode(good.substr(0, at), kSize, kPlenty).ok()) << at;
  }
}

TEST(DirtyMapTest, AnEncodingOfAnotherReleaseOrVolumeIsRefused) {
  const std::string good = DirtyMap(kSize, kPlenty).Encode();
  EXPECT_TRUE(DirtyMap::Decode(good, kSize, kPlenty)->empty());
  EXPECT_TRUE(absl::IsFailedPrecondition(DirtyMap::Decode(good, kRegion, kPlenty).status()));
  std::string newer = good.substr(0, good.size() - 4);
  newer[8] = 2;
  const uint32_t crc = base::Crc32c(newer.data(), newer.size());
  newer.append(reinterpret_cast<const char*>(&crc), sizeof(crc));
  EXPECT_TRUE(absl::IsFailedPrecondition(DirtyMap::Decode(newer, kSize, kPlenty).status()));
}

}  // namespace
}  // namespace understudy::client::dirty_map_test
