#include "storage/failback_map.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "absl/container/inlined_vector.h"

#include "storage/base/status_macros.h"
#include "storage/index.h"
#include "storage/overlay.h"

namespace understudy::storage {
namespace {

constexpr uint64_t kRegionsAhead = (1 << 20) / FailbackMap::kRegionBytes;

uint64_t CountIn(const std::vector<uint64_t>& words) {
  uint64_t count = 0;
  for (const uint64_t word : words) count += static_cast<uint64_t>(std::popcount(word));
  return count;
}

uint64_t FailbackRegionOf(uint64_t offset) { return offset / FailbackMap::kRegionBytes; }

}  // namespace

template <typename Visit>
void FailbackMap::ForEachWord(uint64_t first, uint64_t last, Visit visit) {
  for (uint64_t word = first / kWordRegions; word <= last / kWordRegions; ++word) {
    const uint64_t from = std::max(first, word * kWordRegions) - word * kWordRegions;
    const uint64_t count =
        std::min(last, word * kWordRegions + kWordRegions - 1) - word * kWordRegions - from + 1;
    const uint64_t bits = count == kWordRegions ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
    visit(word, bits << from);
  }
}

FailbackMap::FailbackMap(Index& index, uint64_t group, std::vector<uint64_t> volume_bytes)
    : index_(index),
      group_(group),
      volume_bytes_(std::move(volume_bytes)),
      marked_(volume_bytes_.size()) {}

uint64_t FailbackMap::RegionsIn(VolumeId volume) const {
  return RoundUp(volume_bytes_[volume.value()], kRegionBytes) / kRegionBytes;
}

absl::Status FailbackMap::Load() {
  ASSIGN_OR_RETURN(const std::vector<FailbackWord> words, index_.FailbackWords(group_));
  base::WriterLock lock(mutex_);
  for (const FailbackWord& found : words) {
    if (found.volume.value() >= marked_.size() ||
        found.word > (RegionsIn(found.volume) - 1) / kWordRegions) {
      return absl::DataLossError("index: a failback record is of no volume of its group");
    }
    Words& marked = marked_[found.volume.value()];
    marked.resize(std::max<size_t>(marked.size(), found.word + 1));
    marked[found.word] = found.bits;
  }
  return absl::OkStatus();
}

bool FailbackMap::Marked(VolumeId volume, uint64_t first, uint64_t last) const {
  base::ReaderLock lock(mutex_);
  const Words& marked = marked_[volume.value()];
  bool all = true;
  ForEachWord(first, last, [&](uint64_t word, uint64_t bits) {
    all = all && word < marked.size() && (marked[word] & bits) == bits;
  });
  return all;
}

void FailbackMap::Want(VolumeId volume, uint64_t first, uint64_t last) {
  ForEachWord(first, last, [&](uint64_t word, uint64_t bits) {
    wanted_[{volume.value(), word}] |= bits;
  });
}

absl::Status FailbackMap::Mark(VolumeId volume, std::span<const ByteRange> ranges) {
  absl::InlinedVector<std::pair<uint64_t, uint64_t>, 1> unmarked;  // first and last region
  for (const ByteRange& range : ranges) {
    const uint64_t first = FailbackRegionOf(range.start);
    const uint64_t last = FailbackRegionOf(range.end - 1);
    if (!Marked(volume, first, last)) unmarked.emplace_back(first, last);
  }
  if (unmarked.empty()) return absl::OkStatus();
  base::MutexLock lock(store_mutex_);
  for (const auto& [first, last] : unmarked) {
    const bool sequential = first > 0 && Marked(volume, first - 1, first - 1);
    Want(volume, first, sequential ? std::min(last + kRegionsAhead, RegionsIn(volume) - 1) : last);
  }
  for (const auto& [first, last] : unmarked) RETURN_IF_ERROR(AwaitStored(volume, first, last));
  return absl::OkStatus();
}

absl::Status FailbackMap::AwaitStored(VolumeId volume, uint64_t first, uint64_t last) {
  while (failed_.ok() && !Marked(volume, first, last)) {
    if (storing_) {
      stored_.Wait(store_mutex_);
    } else {
      StoreWanted();
    }
  }
  return failed_;
}

void FailbackMap::StoreWanted() {
  storing_ = true;
  Wanted taken;
  taken.swap(wanted_);
  store_mutex_.Unlock();
  Index::Batch batch(index_);
  {
    base::ReaderLock lock(mutex_);
    for (auto& [key, bits] : taken) {
      const Words& marked = marked_[key.first];
      if (key.second < marked.size()) bits |= marked[key.second];
      batch.PutFailbackWord(group_, {VolumeId(key.first), key.second, bits});
    }
  }
  const absl::Status written = index_.Write(std::move(batch), /*sync=*/true);
  if (written.ok()) {
    base::WriterLock lock(mutex_);
    for (const auto& [key, bits] : taken) {
      Words& marked = marked_[key.first];
      marked.resize(std::max<size_t>(marked.size(), key.second + 1));
      marked[key.second] = bits;
    }
  }
  store_mutex_.Lock();
  if (!written.ok()) failed_ = written;
  storing_ = false;
  stored_.NotifyAll();
}

absl::Status FailbackMap::WantOverlay(Overlay& overlay, VolumeId volume) {
  ASSIGN_OR_RETURN(std::optional<uint64_t> next, overlay.Next(volume, 0));
  while (next.has_value()) {
    const uint64_t region = FailbackRegionOf(*next);
    {
      base::MutexLock lock(store_mutex_);
      Want(volume, region, region);
    }
    ASSIGN_OR_RETURN(next, overlay.Next(volume, (region + 1) * kRegionBytes));
  }
  return absl::OkStatus();
}

absl::Status FailbackMap::MarkOverlays(const OverlayList& overlays) {
  for (uint32_t i = 0; i < volume_bytes_.size(); ++i) {
    for (const auto& overlay : overlays) RETURN_IF_ERROR(WantOverlay(*overlay, VolumeId(i)));
  }
  base::MutexLock lock(store_mutex_);
  while (failed_.ok() && (storing_ || !wanted_.empty())) {
    if (storing_) {
      stored_.Wait(store_mutex_);
    } else {
      StoreWanted();
    }
  }
  return failed_;
}

std::vector<ByteRange> FailbackMap::Runs(VolumeId volume) const {
  std::vector<ByteRange> runs;
  base::ReaderLock lock(mutex_);
  const Words& marked = marked_[volume.value()];
  for (uint64_t region = 0; region < marked.size() * kWordRegions; ++region) {
    if ((marked[region / kWordRegions] >> region % kWordRegions & 1) == 0) continue;
    const ByteRange range = ByteRange::OfLength(region * kRegionBytes, kRegionBytes)
                                .Intersect({0, volume_bytes_[volume.value()]});
    if (!runs.empty() && runs.back().end == range.start) {
      runs.back().end = range.end;
    } else {
      runs.push_back(range);
    }
  }
  return runs;
}

uint64_t FailbackMap::bytes(VolumeId volume) const {
  const uint64_t size = volume_bytes_[volume.value()];
  const uint64_t last = RegionsIn(volume) - 1;
  const uint64_t missing = Marked(volume, last, last) ? (last + 1) * kRegionBytes - size : 0;
  base::ReaderLock lock(mutex_);
  return CountIn(marked_[volume.value()]) * kRegionBytes - missing;
}

uint64_t FailbackMap::regions() const {
  uint64_t regions = 0;
  base::ReaderLock lock(mutex_);
  for (const Words& marked : marked_) regions += CountIn(marked);
  return regions;
}

}  // namespace understudy::storage
