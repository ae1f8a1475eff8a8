#include "storage/extent_map.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <iterator>

#include "storage/base/log.h"

namespace understudy::storage {
namespace {

constexpr uint64_t kRegionSectors = kRegionBytes / kSectorBytes;
// A region's place in the tree with the tree's slack, and the allocation of its slots.
constexpr uint64_t kRegionOverheadBytes = 88;
constexpr uint64_t kWordBits = 64;

// A slot's offsets are 16 bits of sectors.
static_assert(kRegionSectors <= UINT16_MAX && kFramePayloadBytesMax / kSectorBytes <= UINT16_MAX);

uint64_t RegionOf(uint64_t offset) { return offset / kRegionBytes; }

}  // namespace

ExtentMap ExtentMap::Cold(CoveredBytes covered) {
  ExtentMap map;
  map.rest_cold_ = true;
  map.covered_ = covered;
  return map;
}

ExtentMap::Slot ExtentMap::Pack(uint64_t base, const ExtentEntry& entry) {
  const Extent& extent = entry.extent;
  const auto sectors = [](uint64_t bytes) { return static_cast<uint16_t>(bytes / kSectorBytes); };
  Slot slot{.start = sectors(entry.range.start - base),
            .end = sectors(entry.range.end - base),
            .origin_before = 0,
            .origin_sectors = 0,
            .segment = extent.segment,
            .position = extent.position,
            .checksums = extent.checksums};
  if (!extent.zero()) {
    slot.origin_before = sectors(entry.range.start - extent.origin_start);
    slot.origin_sectors = sectors(extent.origin_bytes);
  }
  return slot;
}

ExtentEntry ExtentMap::Unpack(uint64_t base, const Slot& slot) {
  ExtentEntry entry{
      .range = {base + slot.start * kSectorBytes, base + slot.end * kSectorBytes},
      .extent = {.segment = slot.segment, .position = slot.position, .checksums = slot.checksums}};
  entry.extent.start = entry.range.start;
  if (slot.segment != 0) {
    entry.extent.origin_start = entry.range.start - slot.origin_before * kSectorBytes;
    entry.extent.origin_bytes = static_cast<uint32_t>(slot.origin_sectors * kSectorBytes);
  }
  return entry;
}

// ---- changes -----------------------------------------------------------------------------------------------------------------

void ExtentMap::Put(VolumeId volume, uint64_t end, const Extent& extent, uint64_t change,
                    std::vector<ExtentMutation>* mutations) {
  UNDERSTUDY_CHECK(extent.start < end && NextCold({extent.start, end}).empty());
  for (uint64_t at = extent.start; at < end;) {
    const uint64_t base = RoundDown(at, kRegionBytes);
    ExtentEntry part{.range = {at, std::min(end, base + kRegionBytes)}, .extent = extent};
    part.extent.start = at;
    const auto [it, added] = regions_.try_emplace(static_cast<uint32_t>(RegionOf(at)));
    if (added) memory_bytes_ += kRegionOverheadBytes;
    Region& region = it->second;
    region.changed = change;
    region.touched = 1;
    const size_t place = EraseSlots(volume, base, part.range, region, mutations);
    Insert(region, place, Pack(base, part));
    covered_.all += part.range.size();
    if (!extent.zero()) covered_.data += part.range.size();
    mutations->push_back({volume, part.range.end, part.extent});
    at = part.range.end;
  }
}

void ExtentMap::Erase(VolumeId volume, ByteRange range, uint64_t change,
                      std::vector<ExtentMutation>* mutations) {
  UNDERSTUDY_CHECK(NextCold(range).empty());
  auto it = regions_.lower_bound(static_cast<uint32_t>(RegionOf(range.start)));
  while (it != regions_.end() && it->first * kRegionBytes < range.end) {
    const uint64_t base = it->first * kRegionBytes;
    Region& region = it->second;
    region.changed = change;
    EraseSlots(volume, base, range.Intersect({base, base + kRegionBytes}), region, mutations);
    if (!region.slots.empty()) {
      ++it;
      continue;
    }
    memory_bytes_ -= kRegionOverheadBytes + region.slots.capacity() * sizeof(Slot);
    it = regions_.erase(it);
  }
}

size_t ExtentMap::EraseSlots(VolumeId volume, uint64_t base, ByteRange range, Region& region,
                             std::vector<ExtentMutation>* mutations) {
  const auto start = static_cast<uint16_t>((range.start - base) / kSectorBytes);
  const auto end = static_cast<uint16_t>((range.end - base) / kSectorBytes);
  const auto record = [&](const Slot& slot) {
    const ExtentEntry entry = Unpack(base, slot);
    mutations->push_back({volume, entry.range.end, entry.extent});
  };
  std::vector<Slot>& slots = region.slots;
  auto it = std::upper_bound(slots.begin(), slots.end(), start,
                             [](uint16_t at, const Slot& slot) { return at < slot.end; });
  if (it != slots.end() && it->start < start) {  // its head stays, under a new key
    Slot tail = *it;
    it->end = start;
    const Slot head = *it++;
    if (tail.end > end) {  // and so does its tail, under the old one
      tail.TrimStart(end);
      record(tail);
      record(head);
      Uncover(tail, start, end);
      const auto place = static_cast<size_t>(it - slots.begin());
      Insert(region, place, tail);
      return place;
    }
    mutations->push_back({volume, base + tail.end * kSectorBytes, std::nullopt});
    record(head);
    Uncover(tail, start, tail.end);
  }
  auto covered = it;
  for (; covered != slots.end() && covered->end <= end; ++covered) {
    mutations->push_back({volume, base + covered->end * kSectorBytes, std::nullopt});
    Uncover(*covered, covered->start, covered->end);
  }
  it = slots.erase(it, covered);
  if (it != slots.end() && it->start < end) {  // its tail stays, under the same key
    Uncover(*it, it->start, end);
    it->TrimStart(end);
    record(*it);
  }
  return static_cast<size_t>(it - slots.begin());
}

void ExtentMap::Uncover(const Slot& slot, uint16_t start, uint16_t end) {
  const uint64_t bytes = (end - start) * kSectorBytes;
  covered_.all -= bytes;
  if (slot.segment != 0) covered_.data -= bytes;
}

// Grows by a quarter: these arrays are most of what an overlay costs.
void ExtentMap::Insert(Region& region, size_t at, const Slot& slot) {
  std::vector<Slot>& slots = region.slots;
  if (slots.size() == slots.capacity()) {
    memory_bytes_ -= slots.capacity() * sizeof(Slot);
    slots.reserve(slots.size() + slots.size() / 4 + 1);
    memory_bytes_ += slots.capacity() * sizeof(Slot);
  }
  slots.insert(slots.begin() + static_cast<std::ptrdiff_t>(at), slot);
}

// ---- looking -----------------------------------------------------------------------------------------------------------------

void ExtentMap::Collect(ByteRange range, std::vector<ExtentEntry>* entries) const {
  auto it = regions_.lower_bound(static_cast<uint32_t>(RegionOf(range.start)));
  for (; it != regions_.end() && it->first * kRegionBytes < range.end; ++it) {
    const uint64_t base = it->first * kRegionBytes;
    const Region& region = it->second;
    const std::atomic_ref<uint8_t> touched(region.touched);  // readers are many
    if (touched.load(std::memory_order_relaxed) == 0) touched.store(1, std::memory_order_relaxed);
    const uint64_t first = std::max(range.start, base) - base;
    auto slot =
        std::upper_bound(region.slots.begin(), region.slots.end(), first / kSectorBytes,
                         [](uint64_t at, const Slot& candidate) { return at < candidate.end; });
    for (; slot != region.slots.end() && base + slot->start * kSectorBytes < range.end; ++slot) {
      entries->push_back(Unpack(base, *slot));
    }
  }
}

std::optional<uint64_t> ExtentMap::Next(uint64_t offset) const {
  auto it = regions_.lower_bound(static_cast<uint32_t>(RegionOf(offset)));
  for (; it != regions_.end(); ++it) {
    const uint64_t base = it->first * kRegionBytes;
    for (const Slot& slot : it->second.slots) {
      if (base + slot.end * kSectorBytes > offset) {
        return std::max(offset, base + slot.start * kSectorBytes);
      }
    }
  }
  return std::nullopt;
}

// ---- cold regions ------------------------------------------------------------------------------------------------------------

// The first region in [from, to) that is cold, or is not; `to`: none.
uint64_t ExtentMap::FindCold(uint64_t from, uint64_t to, bool cold) const {
  const uint64_t known = cold_.size() * kWordBits;
  while (from < std::min(known, to)) {
    const uint64_t word = cold ? cold_[from / kWordBits] : ~cold_[from / kWordBits];
    const uint64_t rest = word >> (from % kWordBits);
    if (rest != 0) return std::min(to, from + static_cast<uint64_t>(std::countr_zero(rest)));
    from = RoundDown(from, kWordBits) + kWordBits;
  }
  return cold == rest_cold_ ? std::min(from, to) : to;
}

void ExtentMap::SetCold(uint64_t region, bool cold) {
  const uint64_t words = region / kWordBits + 1;
  if (cold_.size() < words) {
    memory_bytes_ -= cold_.capacity() * sizeof(uint64_t);
    cold_.resize(words, rest_cold_ ? ~uint64_t{0} : 0);
    memory_bytes_ += cold_.capacity() * sizeof(uint64_t);
  }
  const uint64_t bit = uint64_t{1} << (region % kWordBits);
  uint64_t& word = cold_[region / kWordBits];
  word = cold ? word | bit : word & ~bit;
}

ByteRange ExtentMap::NextCold(ByteRange range) const {
  if (range.empty() || (cold_.empty() && !rest_cold_)) return {};
  const uint64_t to = RegionOf(range.end - 1) + 1;
  const uint64_t first = FindCold(RegionOf(range.start), to, true);
  if (first == to) return {};
  return {first * kRegionBytes, FindCold(first, to, false) * kRegionBytes};
}

void ExtentMap::Install(ByteRange run, std::span<const ExtentEntry> entries) {
  for (uint64_t region = RegionOf(run.start); region < RegionOf(run.end); ++region) {
    SetCold(region, false);
  }
  auto place = regions_.end();
  for (auto it = entries.begin(); it != entries.end();) {
    const uint64_t base = RoundDown(it->range.start, kRegionBytes);
    const auto end = std::find_if(
        it, entries.end(), [&](const auto& e) { return e.range.start >= base + kRegionBytes; });
    place = regions_.try_emplace(place, static_cast<uint32_t>(RegionOf(base)));
    std::vector<Slot>& slots = place->second.slots;
    slots.reserve(static_cast<size_t>(end - it));
    for (; it != end; ++it) slots.push_back(Pack(base, *it));
    memory_bytes_ += kRegionOverheadBytes + slots.capacity() * sizeof(Slot);
  }
}

uint64_t ExtentMap::Evict(uint32_t* cursor, size_t regions_max, uint64_t bytes, uint64_t indexed,
                          const std::function<bool(ByteRange)>& held) {
  const uint64_t before = memory_bytes_;
  auto it = regions_.lower_bound(*cursor);
  for (; regions_max > 0 && it != regions_.end() && before < memory_bytes_ + bytes; --regions_max) {
    const uint64_t base = it->first * kRegionBytes;
    Region& region = it->second;
    if (region.changed > indexed || region.touched != 0 || held({base, base + kRegionBytes})) {
      region.touched = 0;
      ++it;
      continue;
    }
    SetCold(it->first, true);
    memory_bytes_ -= kRegionOverheadBytes + region.slots.capacity() * sizeof(Slot);
    it = regions_.erase(it);
  }
  *cursor = it == regions_.end() ? 0 : it->first;
  return before > memory_bytes_ ? before - memory_bytes_ : 0;
}

// ---- for tests and benchmarks ------------------------------------------------------------------------------------------------

uint64_t ExtentMap::resident_extents() const {
  uint64_t count = 0;
  for (const auto& [number, region] : regions_) count += region.slots.size();
  return count;
}

void ExtentMap::CheckInvariants() const {
  CoveredBytes covered;
  uint64_t memory_bytes = cold_.capacity() * sizeof(uint64_t);
  for (const auto& [number, region] : regions_) {
    const uint64_t base = number * kRegionBytes;
    UNDERSTUDY_CHECK(!region.slots.empty() && NextCold({base, base + 1}).empty());
    uint64_t previous_end = base;
    for (const Slot& slot : region.slots) {
      const ExtentEntry entry = Unpack(base, slot);
      UNDERSTUDY_CHECK(entry.range.start >= previous_end && !entry.range.empty());
      UNDERSTUDY_CHECK(entry.extent.zero() || entry.extent.origin().Contains(entry.range));
      covered.all += entry.range.size();
      if (!entry.extent.zero()) covered.data += entry.range.size();
      previous_end = entry.range.end;
    }
    UNDERSTUDY_CHECK(previous_end <= base + kRegionBytes);
    memory_bytes += kRegionOverheadBytes + region.slots.capacity() * sizeof(Slot);
  }
  const bool any_cold = FindCold(0, UINT64_MAX, true) != UINT64_MAX;
  UNDERSTUDY_CHECK(any_cold ? covered.all <= covered_.all : covered == covered_, covered.all,
                   " != ", covered_.all);
  UNDERSTUDY_CHECK(memory_bytes == memory_bytes_, memory_bytes, " != ", memory_bytes_);
}

}  // namespace understudy::storage
