#include "storage/overlay.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

#include "storage/base/crc32c.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace understudy::storage {

uint64_t Overlay::bytes() const {
  uint64_t sum = 0;
  for (const auto& bytes : bytes_) sum += bytes.load(std::memory_order_relaxed);
  return sum;
}

void Overlay::Hold(const std::shared_ptr<Segment>& segment) {
  segments_.try_emplace(segment->ordinal(), segment);
}

void Overlay::Apply(std::span<const Operation> operations, const std::shared_ptr<Segment>& segment,
                    OperationPlacement placement, std::vector<ExtentMutation>* mutations) {
  Hold(segment);
  for (const Operation& operation : operations) {
    if (!operation.has_range()) continue;
    const VolumeId volume(operation.volume);
    const Extent extent = placement.Next(operation, segment->ordinal());
    maps_[volume.value()].Put(volume, operation.range().end, extent, mutations);
    UpdateBytes(volume);
  }
}

void Overlay::Erase(VolumeId volume, ByteRange range, std::vector<ExtentMutation>* mutations) {
  maps_[volume.value()].Erase(volume, range, mutations);
  UpdateBytes(volume);
}

void Overlay::Load(VolumeId volume, uint64_t end, const Extent& extent) {
  maps_[volume.value()].Load(end, extent);
  UpdateBytes(volume);
}

absl::Status Overlay::ReadBlocks(const Segment& segment, const Extent& extent, ByteRange blocks,
                                 std::span<char> out) const {
  RETURN_IF_ERROR(segment.file().Read(extent.position + (blocks.start - extent.origin_start), out));
  const uint64_t first_block = RoundDown(extent.origin_start, kBlockBytes);
  const uint64_t index = (RoundDown(blocks.start, kBlockBytes) - first_block) / kBlockBytes;
  std::vector<uint32_t> computed;
  computed.reserve(ChecksumCount(blocks));
  AppendChecksums(blocks, {out.data(), out.size()}, &computed);
  std::vector<uint32_t> stored(computed.size());
  RETURN_IF_ERROR(segment.file().Read(
      extent.checksums + index * sizeof(uint32_t),
      std::span(reinterpret_cast<char*>(stored.data()), stored.size() * sizeof(uint32_t))));
  if (computed == stored) return absl::OkStatus();
  const auto [bad, unused] = std::mismatch(computed.begin(), computed.end(), stored.begin());
  const uint64_t block = RoundDown(blocks.start, kBlockBytes) +
                         static_cast<uint64_t>(bad - computed.begin()) * kBlockBytes;
  return absl::DataLossError(absl::StrCat("epoch ", record_.epoch.value(), " block at ", block,
                                          " in ", segment.ToString(), ": checksum mismatch"));
}

const Segment* Overlay::SegmentOf(const Extent& extent) const {
  if (extent.zero()) return nullptr;
  const auto segment = segments_.find(extent.segment);
  UNDERSTUDY_CHECK(segment != segments_.end(), "overlay ", id_.value(), " holds no segment ",
                   extent.segment);
  return segment->second.get();
}

absl::Status Overlay::Read(const Segment* segment, const Extent& extent, ByteRange range,
                           std::span<char> out) const {
  if (segment == nullptr) {
    std::memset(out.data(), 0, out.size());
    return absl::OkStatus();
  }
  // Whole blocks, so that their checksums can be checked, within the bounds they were cut on.
  const ByteRange blocks =
      ByteRange{RoundDown(range.start, kBlockBytes), RoundUp(range.end, kBlockBytes)}.Intersect(
          extent.origin());
  if (blocks == range) return ReadBlocks(*segment, extent, blocks, out);
  std::vector<char> whole(blocks.size());
  RETURN_IF_ERROR(ReadBlocks(*segment, extent, blocks, whole));
  std::memcpy(out.data(), whole.data() + (range.start - blocks.start), out.size());
  return absl::OkStatus();
}

}  // namespace understudy::storage
