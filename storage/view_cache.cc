#include "storage/view_cache.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "storage/base/status_macros.h"
#include "storage/overlay.h"

namespace understudy::storage {
namespace {

constexpr size_t kEvictEntriesMax = 256;  // looked at under the lock
constexpr int64_t kEntryOverheadBytes = 96;

// nullptr: it was applied and dropped.
const Overlay* FindOverlay(std::span<const std::shared_ptr<Overlay>> committed, OverlayId id) {
  const auto found = std::lower_bound(committed.begin(), committed.end(), id,
                                      [](const std::shared_ptr<Overlay>& overlay,
                                         OverlayId wanted) { return overlay->id() > wanted; });
  return found != committed.end() && (*found)->id() == id ? found->get() : nullptr;
}

// What of `held`, which is in order, overlaps `range`.
template <typename Held>
std::span<const Held> Overlapping(const std::vector<Held>& held, ByteRange range) {
  const auto first = std::partition_point(
      held.begin(), held.end(), [&](const Held& h) { return h.range.end <= range.start; });
  const auto end = std::partition_point(first, held.end(),
                                        [&](const Held& h) { return h.range.start < range.end; });
  return {first, end};
}

}  // namespace

ViewCache::ViewCache(uint64_t age, ExtentMemory& memory) : memory_(memory), age_(age) {
  memory_.Enter(age_, *this);
}

ViewCache::~ViewCache() {
  memory_.Leave(age_, *this);
  base::WriterLock lock(mutex_);
  for (const auto& [key, entry] : entries_) memory_.Add(-BytesOf(entry));
}

int64_t ViewCache::BytesOf(const Entry& entry) {
  return kEntryOverheadBytes + static_cast<int64_t>(entry.held.capacity() * sizeof(Held));
}

absl::Status ViewCache::Resolve(std::span<const std::shared_ptr<Overlay>> committed,
                                VolumeId volume, ByteRange range, std::vector<Piece>* pieces) {
  if (committed.size() < 2) return ResolveOver(committed, volume, range, true, pieces);
  while (!range.empty()) {
    const uint64_t end = RoundDown(range.start, kRegionBytes) + kRegionBytes;
    RETURN_IF_ERROR(ResolveRegion(committed, volume, range.Intersect({range.start, end}), pieces));
    range.start = std::min(end, range.end);
  }
  return absl::OkStatus();
}

absl::Status ViewCache::ResolveRegion(std::span<const std::shared_ptr<Overlay>> committed,
                                      VolumeId volume, ByteRange range,
                                      std::vector<Piece>* pieces) {
  const Key key = {volume.value(), static_cast<uint32_t>(range.start / kRegionBytes)};
  const OverlayId newest = committed.front()->id();
  Entry entry = Find(key, newest, range);
  if (entry.through != newest) {
    const uint64_t base = RoundDown(range.start, kRegionBytes);
    const auto known = std::partition_point(
        committed.begin(), committed.end(),
        [&](const std::shared_ptr<Overlay>& overlay) { return overlay->id() > entry.through; });
    std::vector<Piece> newer;
    RETURN_IF_ERROR(ResolveOver({committed.begin(), known}, volume, {base, base + kRegionBytes},
                                /*with_disk=*/true, &newer));
    Entry fresh{.through = newest};
    for (const Piece& piece : newer) {
      if (piece.overlay != nullptr) {
        fresh.held.push_back({piece.range, piece.overlay->id(), piece.extent});
        continue;
      }
      for (Held held : Overlapping(entry.held, piece.range)) {
        if (FindOverlay(committed, held.overlay) == nullptr) continue;
        held.range = held.range.Intersect(piece.range);
        fresh.held.push_back(held);
      }
    }
    fresh.held.shrink_to_fit();
    entry = fresh;
    Store(key, std::move(fresh));
    memory_.Trim();
  }
  uint64_t at = range.start;
  for (const Held& held : Overlapping(entry.held, range)) {
    const Overlay* overlay = FindOverlay(committed, held.overlay);
    if (overlay == nullptr) continue;
    const ByteRange covered = held.range.Intersect(range);
    if (at < covered.start) pieces->push_back({.range = {at, covered.start}});
    ASSIGN_OR_RETURN(std::shared_ptr<Segment> segment, overlay->SegmentOf(held.extent));
    pieces->push_back({.range = covered,
                       .overlay = overlay,
                       .segment = std::move(segment),
                       .extent = held.extent});
    at = covered.end;
  }
  if (at < range.end) pieces->push_back({.range = {at, range.end}});
  return absl::OkStatus();
}

ViewCache::Entry ViewCache::Find(const Key& key, OverlayId newest, ByteRange range) const {
  base::ReaderLock lock(mutex_);
  const auto it = entries_.find(key);
  if (it == entries_.end() || it->second.through > newest) return {};
  const Entry& entry = it->second;
  const std::atomic_ref<uint8_t> touched(entry.touched);  // readers are many
  if (touched.load(std::memory_order_relaxed) == 0) touched.store(1, std::memory_order_relaxed);
  if (entry.through != newest) return {.through = entry.through, .held = entry.held};
  const std::span<const Held> held = Overlapping(entry.held, range);
  return {.through = newest, .held = {held.begin(), held.end()}};
}

void ViewCache::Store(const Key& key, Entry entry) {
  base::WriterLock lock(mutex_);
  const auto [it, added] = entries_.try_emplace(key);
  if (!added && it->second.through >= entry.through) return;
  memory_.Add(BytesOf(entry) - (added ? 0 : BytesOf(it->second)));
  it->second = std::move(entry);
}

uint64_t ViewCache::Evict(uint64_t bytes, bool* done) {
  uint64_t freed = 0;
  base::WriterLock lock(mutex_);
  auto it = evict_next_.has_value() ? entries_.lower_bound(*evict_next_) : entries_.begin();
  for (size_t count = 0; count < kEvictEntriesMax && it != entries_.end() && freed < bytes;
       ++count) {
    if (it->second.touched != 0) {
      it->second.touched = 0;
      ++it;
      continue;
    }
    const int64_t entry_bytes = BytesOf(it->second);
    memory_.Add(-entry_bytes);
    freed += static_cast<uint64_t>(entry_bytes);
    it = entries_.erase(it);
  }
  *done = it == entries_.end();
  evict_next_ = *done ? std::nullopt : std::optional<Key>(it->first);
  return freed;
}

}  // namespace understudy::storage
