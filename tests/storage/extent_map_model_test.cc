// Random operations on an ExtentMap against a plain array, and its mutations replayed into a second one, as the index does.
#include <map>
#include <optional>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "storage/extent_map.h"
#include "tests/testing/seed.h"

namespace understudy::storage {
namespace {

constexpr uint64_t kSectors = 256;

// Per sector: which write it came from, and the offset of the sector in that write's data.
struct Cell {
  uint32_t segment = 0;
  uint64_t position = 0;
  bool operator==(const Cell&) const = default;
};
using Model = std::vector<std::optional<Cell>>;

Model Flatten(const ExtentMap& map) {
  Model cells(kSectors);
  for (uint64_t offset = 0; offset < kSectors * kSectorBytes;) {
    const auto entry = map.Find(offset);
    if (!entry.has_value()) break;
    for (uint64_t at = std::max(offset, entry->range.start); at < entry->range.end;
         at += kSectorBytes) {
      const Extent& extent = entry->extent;
      cells[at / kSectorBytes] =
          extent.zero() ? Cell{}
                        : Cell{extent.segment, extent.position + (at - extent.origin_start)};
    }
    offset = entry->range.end;
  }
  return cells;
}

TEST(ExtentMapModelTest, AgreesWithAnArrayAndItsMutationsRebuildIt) {
  std::mt19937_64 random(testing::TestSeed());
  for (int round = 0; round < 200; ++round) {
    ExtentMap map;
    Model model(kSectors);
    std::map<uint64_t, Extent> records;  // what the index would hold
    uint32_t next_position = 4096;
    for (int step = 0; step < 200; ++step) {
      uint64_t a = random() % kSectors;
      uint64_t b = random() % (kSectors + 1);
      if (a > b) std::swap(a, b);
      if (a == b) continue;
      const ByteRange range = {a * kSectorBytes, b * kSectorBytes};
      std::vector<ExtentMutation> mutations;
      const int kind = static_cast<int>(random() % 5);
      if (kind == 0) {
        map.Erase(VolumeId(0), range, &mutations);
        for (uint64_t i = a; i < b; ++i) model[i] = std::nullopt;
      } else {
        Extent extent{.start = range.start};
        if (kind > 1) {
          extent.origin_start = range.start;
          extent.origin_bytes = static_cast<uint32_t>(range.size());
          extent.segment = 1 + static_cast<uint32_t>(random() % 3);
          extent.position = next_position;
          next_position += extent.origin_bytes;
        }
        map.Put(VolumeId(0), range.end, extent, &mutations);
        for (uint64_t i = a; i < b; ++i) {
          model[i] =
              kind > 1 ? Cell{extent.segment, extent.position + (i - a) * kSectorBytes} : Cell{};
        }
      }
      map.CheckInvariants();
      for (const ExtentMutation& mutation : mutations) {
        if (mutation.extent.has_value()) {
          records[mutation.end] = *mutation.extent;
        } else {
          records.erase(mutation.end);
        }
      }
      ASSERT_EQ(Flatten(map), model);
    }
    ExtentMap rebuilt;
    for (const auto& [end, extent] : records) rebuilt.Load(end, extent);
    rebuilt.CheckInvariants();
    ASSERT_EQ(Flatten(rebuilt), model);
    ASSERT_EQ(rebuilt.size(), map.size());
    ASSERT_EQ(rebuilt.bytes(), map.bytes());
  }
}

}  // namespace
}  // namespace understudy::storage
