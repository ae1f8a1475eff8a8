#include "storage/compactor.h"

#include <algorithm>
#include <utility>

#include "storage/base/status_macros.h"
#include "storage/overlay.h"

namespace understudy::storage {
namespace {

constexpr uint64_t kStepEveryBytes = 256 << 10;  // of log
constexpr uint64_t kCompactionBytesMax =
    512 << 10;  // appended again in a step: the work gains on the writes
constexpr size_t kCompactionExtents = 16 << 10;  // looked at in a step

}  // namespace

bool Compactor::Garbage(const Overlay& overlay) const {
  const uint64_t used = overlay.segment_bytes();
  const uint64_t live = overlay.data_bytes();
  return used > live + live / 4 + segment_bytes_ / 2 && used >= rest_until_;
}

bool Compactor::Behind(const Overlay& overlay) const {
  const uint64_t live = overlay.data_bytes();
  return overlay.segment_bytes() > live + live / 2 + segment_bytes_;
}

bool Compactor::Due(const Overlay& overlay, uint64_t bytes) {
  if (overlay_ != overlay.id()) {
    overlay_ = overlay.id();
    phase_ = Phase::kIdle;
    since_last_ = rest_until_ = 0;
    given_up_ = false;
  }
  since_last_ += bytes;
  if (given_up_ || since_last_ < kStepEveryBytes) return false;
  since_last_ = 0;
  if (phase_ != Phase::kIdle) return true;
  if (!Garbage(overlay)) return false;
  phase_ = Phase::kSurvey;
  cursor_ = {};
  live_.clear();
  for (const auto& [ordinal, segment] : overlay.segments()) live_[ordinal] = 0;
  return true;
}

template <typename Visit>
absl::StatusOr<bool> Compactor::Walk(Overlay& overlay, size_t count, Visit visit) {
  std::vector<OverlayExtent> extents;
  while (cursor_.volume < overlay.volume_count()) {
    const VolumeId volume(cursor_.volume);
    ASSIGN_OR_RETURN(const auto next, overlay.Next(volume, cursor_.offset));
    if (!next.has_value()) {
      cursor_ = {.volume = cursor_.volume + 1, .offset = 0};
      continue;
    }
    extents.clear();
    const ByteRange region = {*next, RoundDown(*next, kRegionBytes) + kRegionBytes};
    RETURN_IF_ERROR(overlay.Extents(volume, region, &extents));
    for (const OverlayExtent& extent : extents) {
      if (count-- == 0) return true;
      ASSIGN_OR_RETURN(const bool more, visit(volume, extent));
      if (!more) return true;
      cursor_.offset = extent.range.end;
    }
  }
  return false;
}

// Leaves in live_ the segments to empty: all but the newest, if at least a third of it is overwritten.
void Compactor::ChooseVictims(const Overlay& overlay) {
  const auto segments = overlay.segments();
  std::erase_if(live_, [&](const auto& entry) {
    const auto segment = segments.find(entry.first);
    return segment == segments.end() || std::next(segment) == segments.end() ||
           entry.second > segment->second->written_bytes() / 3 * 2;
  });
}

absl::StatusOr<Compactor::Step> Compactor::Next(Overlay& overlay) {
  return phase_ == Phase::kSurvey ? Survey(overlay) : Collect(overlay);
}

absl::StatusOr<Compactor::Step> Compactor::Survey(Overlay& overlay) {
  const auto count = [&](VolumeId, const OverlayExtent& entry) -> absl::StatusOr<bool> {
    if (!entry.extent.zero()) live_[entry.extent.segment] += entry.range.size();
    return true;
  };
  ASSIGN_OR_RETURN(const bool more, Walk(overlay, kCompactionExtents, count));
  if (more) return Step();
  ChooseVictims(overlay);
  phase_ = live_.empty() ? Phase::kIdle : Phase::kCollect;
  if (live_.empty()) rest_until_ = overlay.segment_bytes() + segment_bytes_ / 2;
  cursor_ = {};
  return Step();
}

absl::StatusOr<Compactor::Step> Compactor::Collect(Overlay& overlay) {
  Step step;
  const auto take = [&](VolumeId volume, const OverlayExtent& entry) -> absl::StatusOr<bool> {
    if (entry.extent.zero() || !live_.contains(entry.extent.segment)) return true;
    const uint64_t bytes = entry.range.size();
    if (step.payload.size() + bytes > std::max(kCompactionBytesMax, bytes) ||
        step.operations.size() == kFrameOperationsMax) {
      return false;
    }
    step.payload.resize(step.payload.size() + bytes);
    RETURN_IF_ERROR(overlay.Read(entry.segment.get(), entry.extent, entry.range,
                                 std::span(step.payload).last(bytes)));
    step.operations.push_back({.volume = volume.value(),
                               .kind = OperationKind::kData,
                               .offset = entry.range.start,
                               .length = bytes});
    return step.payload.size() < kCompactionBytesMax;
  };
  ASSIGN_OR_RETURN(const bool more, Walk(overlay, kCompactionExtents, take));
  if (more) return step;
  for (const auto& [ordinal, bytes] : live_) step.emptied.push_back(ordinal);
  phase_ = Phase::kIdle;
  return step;
}

}  // namespace understudy::storage
