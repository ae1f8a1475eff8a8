#include "storage/extent_map.h"

#include "storage/base/log.h"

namespace understudy::storage {

void ExtentMap::Put(VolumeId volume, uint64_t end, const Extent& extent,
                    std::vector<ExtentMutation>* mutations) {
  UNDERSTUDY_CHECK(extent.start < end);
  Erase(volume, {extent.start, end}, mutations);
  extents_.emplace(end, extent);
  bytes_ += end - extent.start;
  mutations->push_back({volume, end, extent});
}

void ExtentMap::Erase(VolumeId volume, ByteRange range, std::vector<ExtentMutation>* mutations) {
  auto it = extents_.upper_bound(range.start);
  while (it != extents_.end() && it->second.start < range.end) {
    const uint64_t end = it->first;
    const Extent extent = it->second;
    bytes_ -= ByteRange{extent.start, end}.Intersect(range).size();
    if (end > range.end) {  // its tail stays, under the same key
      it->second.start = range.end;
      mutations->push_back({volume, end, it->second});
    } else {
      it = extents_.erase(it);
      mutations->push_back({volume, end, std::nullopt});
    }
    if (extent.start < range.start) {  // its head stays, under a new key
      it = extents_.emplace(range.start, extent).first;
      mutations->push_back({volume, range.start, extent});
      ++it;
    }
    if (end > range.end) return;
  }
}

void ExtentMap::Load(uint64_t end, const Extent& extent) {
  extents_.emplace_hint(extents_.end(), end, extent);
  bytes_ += end - extent.start;
}

std::optional<ExtentMap::Entry> ExtentMap::Find(uint64_t offset) const {
  const auto it = extents_.upper_bound(offset);
  if (it == extents_.end()) return std::nullopt;
  return Entry{.range = {it->second.start, it->first}, .extent = it->second};
}

void ExtentMap::CheckInvariants() const {
  uint64_t bytes = 0;
  uint64_t previous_end = 0;
  for (const auto& [end, extent] : extents_) {
    UNDERSTUDY_CHECK(extent.start < end && extent.start >= previous_end);
    UNDERSTUDY_CHECK(extent.zero() || extent.origin().Contains({extent.start, end}));
    bytes += end - extent.start;
    previous_end = end;
  }
  UNDERSTUDY_CHECK(bytes == bytes_, bytes, " != ", bytes_);
}

}  // namespace understudy::storage
