#include "client/markers.h"

#include <algorithm>
#include <utility>

namespace understudy::client {

void Markers::Add(uint64_t sequence, MarkerOwner owner, absl::Duration now) {
  std::erase_if(markers_, [](const Marker& marker) {
    return marker.owner == MarkerOwner::kAbandoned && marker.outcome.has_value();
  });
  markers_.push_back({.sequence = sequence, .owner = owner, .queued_at = now, .outcome = {}});
}

Markers::Marker* Markers::Find(uint64_t sequence) {
  for (Marker& marker : markers_) {
    if (marker.sequence == sequence) return &marker;
  }
  return nullptr;
}

std::optional<uint64_t> Markers::Adopt(uint64_t next_sequence) {
  for (auto marker = markers_.rbegin(); marker != markers_.rend(); ++marker) {
    if (marker->owner != MarkerOwner::kAbandoned) continue;
    if (marker->outcome.has_value() && marker->sequence + 1 != next_sequence) continue;
    marker->owner = MarkerOwner::kCaller;
    return marker->sequence;
  }
  return std::nullopt;
}

void Markers::Abandon(uint64_t sequence) {
  if (Marker* marker = Find(sequence)) marker->owner = MarkerOwner::kAbandoned;
}

std::optional<absl::StatusOr<CheckpointResult>> Markers::Take(uint64_t sequence) {
  Marker* const marker = Find(sequence);
  if (marker == nullptr) return absl::AbortedError("the checkpoint's marker was dropped");
  if (!marker->outcome.has_value()) return std::nullopt;
  auto outcome = std::move(marker->outcome);
  std::erase_if(markers_, [&](const Marker& other) { return other.sequence == sequence; });
  return outcome;
}

void Markers::Finish(Marker& marker, absl::StatusOr<CheckpointResult> outcome,
                     std::vector<Finished>& finished) {
  finished.push_back({.queued_at = marker.queued_at, .status = outcome.status()});
  marker.outcome = std::move(outcome);
}

void Markers::DropUnwanted() {
  std::erase_if(markers_, [](const Marker& marker) {
    return marker.owner == MarkerOwner::kSecondary && marker.outcome.has_value();
  });
}

std::vector<Markers::Finished> Markers::Committed(const CheckpointResult& result) {
  std::vector<Finished> finished;
  uint64_t epoch = result.epoch.value();
  for (auto marker = markers_.rbegin(); marker != markers_.rend(); ++marker) {
    if (marker->sequence > result.sequence || marker->outcome.has_value()) continue;
    CheckpointResult own{.epoch = Epoch(epoch), .sequence = marker->sequence};
    if (marker->sequence == result.sequence) own = result;
    Finish(*marker, own, finished);
    if (epoch > 0) --epoch;
  }
  DropUnwanted();
  return finished;
}

std::vector<Markers::Finished> Markers::Aborted(uint64_t sequence, uint64_t committed_sequence,
                                                const absl::Status& status) {
  std::vector<Finished> finished;
  for (Marker& marker : markers_) {
    if (marker.outcome.has_value()) continue;
    const bool named = marker.sequence == sequence;
    const bool passed = marker.sequence > committed_sequence && marker.sequence < sequence;
    if (named || passed) Finish(marker, status, finished);
  }
  DropUnwanted();
  return finished;
}

std::vector<Markers::Finished> Markers::FailAll(const absl::Status& status) {
  std::vector<Finished> finished;
  for (Marker& marker : markers_) {
    if (!marker.outcome.has_value()) Finish(marker, status, finished);
  }
  std::erase_if(markers_,
                [](const Marker& marker) { return marker.owner != MarkerOwner::kCaller; });
  return finished;
}

}  // namespace understudy::client
