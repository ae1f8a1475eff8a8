#include "storage/chain.h"

#include <algorithm>

namespace understudy::storage {

void ResolveOver(std::span<const std::shared_ptr<Overlay>> overlays, VolumeId volume,
                 ByteRange range, bool with_disk, std::vector<Piece>* pieces) {
  if (range.empty()) return;
  if (overlays.empty()) {
    if (with_disk) pieces->push_back({.range = range});
    return;
  }
  const Overlay& newest = *overlays.front();
  const auto older = overlays.subspan(1);
  uint64_t at = range.start;
  while (at < range.end) {
    const auto entry = newest.map(volume).Find(at);
    const uint64_t held = entry.has_value() ? std::min(entry->range.start, range.end) : range.end;
    if (held > at) {
      ResolveOver(older, volume, {at, held}, with_disk, pieces);
      at = held;
      continue;
    }
    const ByteRange covered = entry->range.Intersect({at, range.end});
    pieces->push_back({.range = covered,
                       .overlay = &newest,
                       .segment = newest.SegmentOf(entry->extent),
                       .extent = entry->extent});
    at = covered.end;
  }
}

std::optional<uint64_t> NextHeld(std::span<const std::shared_ptr<Overlay>> overlays,
                                 VolumeId volume, uint64_t offset) {
  std::optional<uint64_t> next;
  for (const auto& overlay : overlays) {
    const auto entry = overlay->map(volume).Find(offset);
    if (!entry.has_value()) continue;
    const uint64_t start = std::max(entry->range.start, offset);
    next = std::min(next.value_or(start), start);
  }
  return next;
}

std::vector<Piece> Chain::Resolve(VolumeId volume, ByteRange range) const {
  std::vector<Piece> pieces;
  const uint64_t boundary = std::clamp(merged_through[volume.value()], range.start, range.end);
  OverlayList layers;
  if (active != nullptr) layers.push_back(active);
  ResolveOver(layers, volume, {range.start, boundary}, true, &pieces);
  layers.insert(layers.end(), committed.begin(), committed.end());
  ResolveOver(layers, volume, {boundary, range.end}, true, &pieces);
  return pieces;
}

std::optional<uint64_t> Chain::NextUnmerged(VolumeId volume, uint64_t offset) const {
  std::optional<uint64_t> next =
      NextHeld(committed, volume, std::max(offset, merged_through[volume.value()]));
  if (active == nullptr) return next;
  const auto held = NextHeld(std::span(&active, 1), volume, offset);
  if (!held.has_value()) return next;
  return std::min(next.value_or(*held), *held);
}

absl::Status Chain::Read(VolumeId volume, const Piece& piece, std::span<char> out) const {
  if (piece.overlay != nullptr)
    return piece.overlay->Read(piece.segment, piece.extent, piece.range, out);
  return disks[volume.value()]->Read(piece.range.start, out);
}

}  // namespace understudy::storage
