#include "client/differences.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

std::vector<uint64_t> SizesOf(const std::vector<VolumeSpec>& volumes) {
  std::vector<uint64_t> sizes;
  for (const VolumeSpec& volume : volumes) sizes.push_back(volume.size_bytes);
  return sizes;
}

// To ask for two runs costs more than to compare so much between them.
constexpr uint64_t kGapBytes = 256 << 10;

// "LENGTH\n" and the bytes.
void AppendPart(const std::string& part, std::string* out) {
  absl::StrAppend(out, part.size(), "\n", part);
}

absl::StatusOr<absl::string_view> TakePart(absl::string_view* in) {
  const size_t line = in->find('\n');
  uint64_t length = 0;
  if (line == absl::string_view::npos || !absl::SimpleAtoi(in->substr(0, line), &length) ||
      length > in->size() - line - 1) {
    return absl::DataLossError("the file of missing writes is damaged");
  }
  const absl::string_view part = in->substr(line + 1, length);
  in->remove_prefix(line + 1 + length);
  return part;
}

}  // namespace

Differences::Differences(const std::vector<VolumeSpec>& volumes, uint64_t bytes_max)
    : sizes_(SizesOf(volumes)), bytes_max_(bytes_max / std::max<uint64_t>(2 * volumes.size(), 1)) {
  for (const uint64_t size : sizes_) {
    maps_.push_back({.missing = DirtyMap(size, bytes_max_), .suspect = DirtyMap(size, bytes_max_)});
  }
}

void Differences::AddMissing(uint32_t volume, ByteRange range) {
  base::MutexLock lock(mutex_);
  maps_[volume].missing.Add(range);
}

void Differences::RemoveMissing(uint32_t volume, ByteRange range) {
  base::MutexLock lock(mutex_);
  maps_[volume].missing.Remove(range);
}

std::optional<ByteRange> Differences::NextMissing(uint32_t volume, uint64_t from,
                                                  uint64_t length_max) const {
  base::MutexLock lock(mutex_);
  return maps_[volume].missing.Next(from, length_max);
}

void Differences::AddSuspect(uint32_t volume, ByteRange range) {
  base::MutexLock lock(mutex_);
  maps_[volume].suspect.Add(range);
  ++generation_;
}

void Differences::SuspectAll() {
  base::MutexLock lock(mutex_);
  for (Maps& maps : maps_) maps.suspect.AddAll();
  ++generation_;
}

std::optional<Differences::Suspect> Differences::NextSuspect(uint32_t volume, uint64_t from,
                                                             uint64_t length_max) const {
  base::MutexLock lock(mutex_);
  const DirtyMap& map = maps_[volume].suspect;
  std::optional<ByteRange> range = map.Next(from, length_max);
  if (!range.has_value()) return std::nullopt;
  while (range->size() < length_max) {
    const auto next = map.Next(range->end, length_max - range->size());
    if (!next.has_value() || next->start - range->end > kGapBytes ||
        next->end - range->start > length_max) {
      break;
    }
    range->end = next->end;
  }
  return Suspect{.range = *range, .generation = generation_};
}

void Differences::RemoveSuspect(uint32_t volume, const Suspect& suspect) {
  base::MutexLock lock(mutex_);
  if (suspect.generation == generation_) maps_[volume].suspect.Remove(suspect.range);
}

bool Differences::empty() const {
  base::MutexLock lock(mutex_);
  return std::all_of(maps_.begin(), maps_.end(),
                     [](const Maps& maps) { return maps.missing.empty() && maps.suspect.empty(); });
}

bool Differences::Holds(uint32_t volume, ByteRange range) const {
  base::MutexLock lock(mutex_);
  return maps_[volume].missing.Intersects(range) || maps_[volume].suspect.Intersects(range);
}

uint64_t Differences::missing_bytes(uint32_t volume) const {
  base::MutexLock lock(mutex_);
  return maps_[volume].missing.bytes();
}

uint64_t Differences::suspect_bytes(uint32_t volume) const {
  base::MutexLock lock(mutex_);
  return maps_[volume].suspect.bytes();
}

uint64_t Differences::bytes() const {
  base::MutexLock lock(mutex_);
  uint64_t bytes = 0;
  for (const Maps& maps : maps_) bytes += maps.missing.bytes() + maps.suspect.bytes();
  return bytes;
}

std::string Differences::EncodeAll() const {
  base::MutexLock lock(mutex_);
  std::string out;
  for (const Maps& maps : maps_) {
    AppendPart(maps.missing.Encode(), &out);
    AppendPart(maps.suspect.Encode(), &out);
  }
  return out;
}

absl::Status Differences::DecodeAll(absl::string_view encoded) {
  std::vector<Maps> loaded;
  for (const uint64_t size : sizes_) {
    ASSIGN_OR_RETURN(const absl::string_view missing_part, TakePart(&encoded));
    ASSIGN_OR_RETURN(DirtyMap missing, DirtyMap::Decode(missing_part, size, bytes_max_));
    ASSIGN_OR_RETURN(const absl::string_view suspect_part, TakePart(&encoded));
    ASSIGN_OR_RETURN(DirtyMap suspect, DirtyMap::Decode(suspect_part, size, bytes_max_));
    loaded.push_back({.missing = std::move(missing), .suspect = std::move(suspect)});
  }
  if (!encoded.empty()) {
    return absl::FailedPreconditionError("the file of missing writes is of other volumes");
  }
  base::MutexLock lock(mutex_);
  for (size_t i = 0; i < maps_.size(); ++i) {
    maps_[i].missing.Merge(loaded[i].missing);
    maps_[i].suspect.Merge(loaded[i].suspect);
  }
  ++generation_;
  return absl::OkStatus();
}

}  // namespace understudy::client
