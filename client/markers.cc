#include "client/markers.h"

#include <algorithm>
#include <utility>

namespace understudy::client {

uint64_t Markers::Add(uint64_t sequence, MarkerOwner owner, absl::Duration now) {
  std::erase_if(markers_, [](const Marker& marker) {
    return marker.owner == MarkerOwner::kAbandoned && marker.outcome.has_value();
  });
  markers_.push_back(
      {.id = next_id_++, .sequence = sequence, .owner = owner, .queued_at = now, .outcome = {}});
  return markers_.back().id;
}

Markers::Marker* Markers::Find(uint64_t id) {
  for (Marker& marker : markers_) {
    if (marker.id == id) return &marker;
  }
  return nullptr;
}

std::optional<uint64_t> Markers::Adopt(uint64_t next_sequence) {
  for (auto marker = markers_.rbegin(); marker != markers_.rend(); ++marker) {
    if (marker->owner != MarkerOwner::kAbandoned) continue;
    if (marker->outcome.has_value() && marker->sequence + 1 != next_sequence) continue;
    marker->owner = MarkerOwner::kCaller;
    return marker->id;
  }
  return std::nullopt;
}

void Markers::Abandon(uint64_t id) {
  if (Marker* marker = Find(id)) marker->owner = MarkerOwner::kAbandoned;
}

void Markers::Forget(uint64_t id) {
  std::erase_if(markers_, [&](const Marker& marker) { return marker.id == id; });
}

std::optional<absl::StatusOr<CheckpointResult>> Markers::Take(uint64_t id) {
  Marker* const marker = Find(id);
  if (marker == nullptr) return absl::AbortedError("the checkpoint's marker was dropped");
  if (!marker->outcome.has_value()) return std::nullopt;
  auto outcome = std::move(marker->outcome);
  Forget(id);
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

bool Markers::ForgetUnwanted(uint64_t through) {
  const auto unanswered = [&](const Marker& marker) {
    return marker.sequence <= through && !marker.outcome.has_value();
  };
  std::erase_if(markers_, [&](const Marker& marker) {
    return unanswered(marker) && marker.owner != MarkerOwner::kCaller;
  });
  return std::any_of(markers_.begin(), markers_.end(), unanswered);
}

void Markers::Repeat(uint64_t through, uint64_t repeated) {
  for (Marker& marker : markers_) {
    if (marker.sequence <= through && !marker.outcome.has_value()) marker.sequence = repeated;
  }
  std::stable_sort(markers_.begin(), markers_.end(),
                   [](const Marker& a, const Marker& b) { return a.sequence < b.sequence; });
}

std::vector<Markers::Finished> Markers::Committed(const CheckpointResult& result) {
  std::vector<Finished> finished;
  for (Marker& marker : markers_) {
    if (marker.sequence > result.sequence || marker.outcome.has_value()) continue;
    CheckpointResult own{.epoch = result.epoch, .sequence = marker.sequence};
    if (marker.sequence == result.sequence) own = result;
    Finish(marker, own, finished);
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
