#include "storage/verifier.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/status_macros.h"
#include "storage/segment_log.h"
#include "storage/segment_pool.h"

namespace understudy::storage {
namespace {

constexpr uint64_t kStepBytes = 1 << 20;
constexpr size_t kVerifyExtents = 256;

}  // namespace

absl::StatusOr<std::vector<ByteRange>> MismatchedBlocks(const Segment& segment,
                                                        const Extent& extent, ByteRange range) {
  const ByteRange blocks =
      ByteRange{RoundDown(range.start, kBlockBytes), RoundUp(range.end, kBlockBytes)}.Intersect(
          extent.origin());
  std::vector<char> data(blocks.size());
  RETURN_IF_ERROR(
      segment.file().Read(extent.position + (blocks.start - extent.origin_start), data));
  std::vector<uint32_t> computed;
  AppendChecksums(blocks, {data.data(), data.size()}, &computed);
  const uint64_t first_block = RoundDown(extent.origin_start, kBlockBytes);
  const uint64_t index = (RoundDown(blocks.start, kBlockBytes) - first_block) / kBlockBytes;
  std::vector<uint32_t> stored(computed.size());
  RETURN_IF_ERROR(segment.ReadChecksums(extent.checksums + index * sizeof(uint32_t), stored));
  std::vector<ByteRange> mismatched;
  for (size_t i = 0; i < computed.size(); ++i) {
    if (computed[i] == stored[i]) continue;
    const ByteRange block =
        ByteRange::OfLength(RoundDown(blocks.start, kBlockBytes) + i * kBlockBytes, kBlockBytes);
    const ByteRange bad = block.Intersect(range);
    if (!mismatched.empty() && mismatched.back().end == bad.start) {
      mismatched.back().end = bad.end;
    } else {
      mismatched.push_back(bad);
    }
  }
  return mismatched;
}

Verifier::Verifier(const Index& index, std::span<const VolumeInfo> volumes, OverlayId overlay,
                   FindSegment find_segment, Depth depth)
    : index_(index),
      volumes_(volumes),
      overlay_(overlay),
      find_segment_(std::move(find_segment)),
      depth_(depth) {}

Verifier::Step Verifier::Next() {
  Step step;
  const FoundExtents found = index_.FindExtents(overlay_, volume_, end_, kVerifyExtents);
  for (const FoundExtent& extent : found.extents) {
    if (step.bytes >= kStepBytes) return step;
    Check(extent, &step);
  }
  if (!found.status.ok()) {
    SkipUnreadable(found.status, &step);
  } else {
    step.done = found.extents.size() < kVerifyExtents;
  }
  return step;
}

void Verifier::Check(const FoundExtent& found, Step* step) {
  if (visitor_) visitor_(found);
  const ExtentKey& key = found.key;
  if (key.volume != volume_) end_ = 0;
  const uint64_t previous_end = std::exchange(end_, key.end);
  volume_ = key.volume;
  ++step->extents;
  std::vector<Damage> damages;
  const absl::Status record = CheckRecord(found, previous_end);
  if (!record.ok()) {
    Damage damage{.range = {std::min(previous_end, key.end), key.end}, .status = record};
    if (key.volume.value() < volumes_.size()) damage.volume = key.volume;
    damages.push_back(std::move(damage));
  } else {
    step->bytes += key.end - found.extent->start;
    CheckBytes(key, *found.extent, &damages);
  }
  if (damages.empty() || !StillThere(found)) return;
  std::move(damages.begin(), damages.end(), std::back_inserter(step->damages));
}

absl::Status Verifier::CheckRecord(const FoundExtent& found, uint64_t previous_end) const {
  const ExtentKey& key = found.key;
  if (key.volume.value() >= volumes_.size()) {
    return absl::DataLossError(absl::StrCat("index: extent record of volume number ",
                                            key.volume.value(), ", which the group does not have"));
  }
  RETURN_IF_ERROR(found.extent.status());
  RETURN_IF_ERROR(CheckExtent(key.end, *found.extent, volumes_[key.volume.value()].size_bytes));
  if (found.extent->start >= previous_end || !Follows(found, previous_end)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      "index: extent record overlaps the one before it, which ends at ", previous_end));
}

void Verifier::CheckBytes(const ExtentKey& key, const Extent& extent,
                          std::vector<Damage>* damages) const {
  if (extent.zero()) return;
  Damage damage{.volume = key.volume, .range = {extent.start, key.end}};
  const std::shared_ptr<Segment> segment = find_segment_(extent.segment);
  if (segment == nullptr) {
    damage.status = absl::DataLossError(absl::StrCat("segment ", extent.segment, " is missing"));
    damages->push_back(std::move(damage));
    return;
  }
  if (depth_ == Depth::kRecords) return;
  const auto mismatched = MismatchedBlocks(*segment, extent, damage.range);
  if (!mismatched.ok()) {
    damage.status =
        absl::DataLossError(absl::StrCat(segment->ToString(), ": ", mismatched.status().message()));
    damages->push_back(std::move(damage));
    return;
  }
  for (const ByteRange& range : *mismatched) {
    damages->push_back({.volume = key.volume,
                        .range = range,
                        .status = absl::DataLossError(
                            absl::StrCat("checksum mismatch in ", segment->ToString()))});
  }
}

bool Verifier::StillThere(const FoundExtent& found) const {
  const uint64_t before = found.key.end - 1;
  const FoundExtents again = index_.FindExtents(overlay_, found.key.volume, before, 1);
  if (again.extents.empty()) return !again.status.ok();
  const FoundExtent& now = again.extents[0];
  if (now.key.volume != found.key.volume || now.key.end != found.key.end) return false;
  if (now.extent.ok() != found.extent.ok()) return false;
  return !now.extent.ok() || *now.extent == *found.extent;
}

bool Verifier::Follows(const FoundExtent& found, uint64_t previous_end) const {
  const FoundExtents both = index_.FindExtents(overlay_, found.key.volume, previous_end - 1, 2);
  return both.extents.size() == 2 && both.extents[0].key.end == previous_end &&
         both.extents[1].key.end == found.key.end;
}

// A block of the index cannot be read: what it held is unknown, up to the end of the volume. Goes on with the next one.
void Verifier::SkipUnreadable(const absl::Status& status, Step* step) {
  if (volume_.value() < volumes_.size()) {
    const uint64_t size_bytes = volumes_[volume_.value()].size_bytes;
    step->damages.push_back({.volume = volume_, .range = {end_, size_bytes}, .status = status});
  }
  volume_ = VolumeId(volume_.value() + 1);
  end_ = 0;
  step->done = volume_.value() >= volumes_.size();
}

}  // namespace understudy::storage
