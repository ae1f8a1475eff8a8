#include "storage/piece.h"

#include <algorithm>

#include "storage/base/status_macros.h"
#include "storage/overlay.h"

namespace understudy::storage {

absl::Status ResolveOver(std::span<const std::shared_ptr<Overlay>> overlays, VolumeId volume,
                         ByteRange range, bool with_disk, std::vector<Piece>* pieces) {
  if (range.empty()) return absl::OkStatus();
  const auto first = static_cast<std::ptrdiff_t>(pieces->size());
  std::vector<ByteRange> holes = {range};  // what nobody newer holds, in order
  std::vector<ByteRange> left;
  std::vector<OverlayExtent> extents;
  for (const auto& overlay : overlays) {
    if (holes.empty()) break;
    extents.clear();
    RETURN_IF_ERROR(overlay->Extents(volume, {holes.front().start, holes.back().end}, &extents));
    if (extents.empty()) continue;
    left.clear();
    auto next = extents.begin();
    for (const ByteRange& hole : holes) {
      while (next != extents.end() && next->range.end <= hole.start) ++next;
      uint64_t at = hole.start;
      for (auto it = next; it != extents.end() && it->range.start < hole.end; ++it) {
        const ByteRange covered = it->range.Intersect(hole);
        if (at < covered.start) left.push_back({at, covered.start});
        pieces->push_back({.range = covered,
                           .overlay = overlay.get(),
                           .segment = it->segment,
                           .extent = it->extent});
        at = covered.end;
      }
      if (at < hole.end) left.push_back({at, hole.end});
    }
    holes.swap(left);
  }
  if (with_disk) {
    for (const ByteRange& hole : holes) pieces->push_back({.range = hole});
  }
  std::sort(pieces->begin() + first, pieces->end(),
            [](const Piece& a, const Piece& b) { return a.range.start < b.range.start; });
  return absl::OkStatus();
}

absl::StatusOr<std::optional<uint64_t>> NextHeld(std::span<const std::shared_ptr<Overlay>> overlays,
                                                 VolumeId volume, uint64_t offset) {
  std::optional<uint64_t> next;
  for (const auto& overlay : overlays) {
    ASSIGN_OR_RETURN(const std::optional<uint64_t> held, overlay->Next(volume, offset));
    if (held.has_value()) next = std::min(next.value_or(*held), *held);
  }
  return next;
}

}  // namespace understudy::storage
