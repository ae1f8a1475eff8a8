#include "storage/chain.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/status_macros.h"
#include "storage/overlay.h"
#include "storage/secondary_disk.h"
#include "storage/view_cache.h"

namespace understudy::storage {

absl::Status CheckRange(const VolumeInfo& volume, ByteRange range) {
  if (range.start <= range.end && range.end <= volume.size_bytes && range.SectorAligned()) {
    return absl::OkStatus();
  }
  return absl::OutOfRangeError(absl::StrCat("volume ", volume.name, ": range ", range.ToString(),
                                            " is not sector-aligned or ends past ",
                                            volume.size_bytes));
}

absl::StatusOr<std::vector<Piece>> Chain::Resolve(VolumeId volume, ByteRange range,
                                                  ViewCache* cache) const {
  std::vector<Piece> pieces;
  const uint64_t boundary = std::clamp(merged_through[volume.value()], range.start, range.end);
  const std::span<const std::shared_ptr<Overlay>> newest(&active, active != nullptr ? 1 : 0);
  RETURN_IF_ERROR(ResolveOver(newest, volume, {range.start, boundary}, true, &pieces));
  if (cache == nullptr) {
    OverlayList layers(newest.begin(), newest.end());
    layers.insert(layers.end(), committed.begin(), committed.end());
    RETURN_IF_ERROR(ResolveOver(layers, volume, {boundary, range.end}, true, &pieces));
    return pieces;
  }
  std::vector<Piece> top;
  RETURN_IF_ERROR(ResolveOver(newest, volume, {boundary, range.end}, true, &top));
  for (Piece& piece : top) {
    if (piece.overlay != nullptr) {
      pieces.push_back(std::move(piece));
    } else {
      RETURN_IF_ERROR(cache->Resolve(committed, volume, piece.range, &pieces));
    }
  }
  return pieces;
}

absl::StatusOr<std::optional<uint64_t>> Chain::NextUnmerged(VolumeId volume,
                                                            uint64_t offset) const {
  ASSIGN_OR_RETURN(std::optional<uint64_t> next,
                   NextHeld(committed, volume, std::max(offset, merged_through[volume.value()])));
  if (active == nullptr) return next;
  ASSIGN_OR_RETURN(const std::optional<uint64_t> held,
                   NextHeld(std::span(&active, 1), volume, offset));
  if (held.has_value()) next = std::min(next.value_or(*held), *held);
  return next;
}

absl::Status Chain::Read(VolumeId volume, const Piece& piece, std::span<char> out) const {
  if (piece.overlay != nullptr)
    return piece.overlay->Read(piece.segment.get(), piece.extent, piece.range, out);
  return disks[volume.value()]->Read(piece.range.start, out);
}

// In steps: up to what the overlays hold next it is the disk's, then pieces of a region.
absl::StatusOr<std::vector<BlockRun>> Chain::Map(VolumeId volume, ByteRange range, size_t runs_max,
                                                 absl::FunctionRef<bool()> same,
                                                 ViewCache* cache) const {
  const SecondaryDisk& disk = *disks[volume.value()];
  BlockRuns runs(runs_max);
  bool more = true;
  while (more && !range.empty()) {
    const auto next = NextUnmerged(volume, range.start);
    if (!same()) break;
    RETURN_IF_ERROR(next.status());
    const uint64_t held = std::min(next->value_or(range.end), range.end);
    ASSIGN_OR_RETURN(more, disk.AddRuns({range.start, held}, runs));
    range.start = held;
    if (!more || range.empty()) break;
    const uint64_t step = RoundDown(range.start, kRegionBytes) + kRegionBytes;
    const auto pieces = Resolve(volume, range.Intersect({range.start, step}), cache);
    if (!same()) break;
    RETURN_IF_ERROR(pieces.status());
    for (const Piece& piece : *pieces) {
      if (!more) break;
      const bool zero = piece.overlay != nullptr && piece.extent.zero();
      if (piece.overlay != nullptr) {
        more = runs.Add({.range = piece.range, .zero = zero, .hole = zero});
      } else {
        ASSIGN_OR_RETURN(more, disk.AddRuns(piece.range, runs));
      }
    }
    range.start = std::min(step, range.end);
  }
  return std::move(runs).Take();
}

}  // namespace understudy::storage
