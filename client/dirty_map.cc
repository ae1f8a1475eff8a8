#include "client/dirty_map.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "client/plain_value.h"
#include "storage/base/crc32c.h"
#include "storage/base/log.h"

namespace understudy::client {
namespace {

constexpr char kMapMagic[8] = {'U', 'N', 'D', 'R', 'S', 'T', 'Y', 'D'};
constexpr uint32_t kMapVersion = 1;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t reserved;
  uint64_t size_bytes;
  uint64_t regions;
};
static_assert(sizeof(Header) == 32);

struct RegionHeader {
  uint64_t index;
  uint64_t whole;  // 1: no bitset follows
};
static_assert(sizeof(RegionHeader) == 16);

using Words = std::array<uint64_t, DirtyMap::kRegionBytes / kBlockBytes / 64>;

absl::Status Damaged(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("dirty map: ", what));
}

// The header of an encoding whose checksum is right, which is taken off `encoded`.
absl::StatusOr<Header> TakeHeader(absl::string_view& encoded, uint64_t size_bytes) {
  Header header = {};
  uint32_t crc = 0;
  if (encoded.size() < sizeof(header) + sizeof(crc)) return Damaged("it is cut short");
  std::memcpy(&crc, encoded.data() + encoded.size() - sizeof(crc), sizeof(crc));
  encoded.remove_suffix(sizeof(crc));
  if (base::Crc32c(encoded.data(), encoded.size()) != crc) return Damaged("bad checksum");
  Take(encoded, header);
  if (std::memcmp(header.magic, kMapMagic, sizeof(kMapMagic)) != 0) return Damaged("it is not one");
  if (header.version != kMapVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("dirty map: another release wrote it (version ", header.version,
                     ", this one knows ", kMapVersion, ")"));
  }
  if (header.size_bytes != size_bytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        "dirty map: it is of a volume of ", header.size_bytes, " bytes, not of ", size_bytes));
  }
  return header;
}

}  // namespace

DirtyMap::DirtyMap(uint64_t size_bytes, uint64_t bytes_max)
    : size_bytes_(size_bytes), bytes_max_(bytes_max) {}

ByteRange DirtyMap::RegionRange(uint64_t region) const {
  return {region * kRegionBytes, std::min((region + 1) * kRegionBytes, size_bytes_)};
}

uint64_t DirtyMap::BlocksIn(uint64_t region) const {
  return RoundUp(RegionRange(region).size(), kBlockBytes) / kBlockBytes;
}

uint64_t DirtyMap::BytesOf(uint64_t region, const Blocks* blocks) const {
  const uint64_t whole = RegionRange(region).size();
  if (blocks == nullptr) return whole;
  const uint64_t last = BlocksIn(region) - 1;
  const uint64_t missing = (last + 1) * kBlockBytes - whole;  // of a short last block
  return blocks->count() * kBlockBytes - (blocks->test(last) ? missing : 0);
}

bool DirtyMap::RoomForBitset() const { return (bitsets_ + 1) * sizeof(Blocks) <= bytes_max_; }

void DirtyMap::MakeWhole(uint64_t region, std::unique_ptr<Blocks>& blocks) {
  bytes_ += RegionRange(region).size() - BytesOf(region, blocks.get());
  blocks.reset();
  --bitsets_;
}

void DirtyMap::Drop(Regions::iterator at) {
  bytes_ -= BytesOf(at->first, at->second.get());
  if (at->second != nullptr) --bitsets_;
  regions_.erase(at);
}

// Blocks [first, last) of the region.
void DirtyMap::AddToRegion(uint64_t region, uint64_t first, uint64_t last) {
  const auto [at, added] = regions_.try_emplace(region);
  std::unique_ptr<Blocks>& blocks = at->second;
  if (!added && blocks == nullptr) return;
  if (added && ((first == 0 && last == BlocksIn(region)) || !RoomForBitset())) {
    bytes_ += RegionRange(region).size();
    return;
  }
  if (added) {
    blocks = std::make_unique<Blocks>();
    ++bitsets_;
  }
  bytes_ -= BytesOf(region, blocks.get());
  for (uint64_t block = first; block < last; ++block) blocks->set(block);
  bytes_ += BytesOf(region, blocks.get());
  if (blocks->count() == BlocksIn(region)) MakeWhole(region, blocks);
}

void DirtyMap::RemoveFromRegion(uint64_t region, uint64_t first, uint64_t last) {
  const auto at = regions_.find(region);
  if (at == regions_.end()) return;
  if (first == 0 && last == BlocksIn(region)) return Drop(at);
  std::unique_ptr<Blocks>& blocks = at->second;
  if (blocks == nullptr) {
    if (!RoomForBitset()) return;
    blocks = std::make_unique<Blocks>();
    for (uint64_t block = 0; block < BlocksIn(region); ++block) blocks->set(block);
    ++bitsets_;
  }
  bytes_ -= BytesOf(region, blocks.get());
  for (uint64_t block = first; block < last; ++block) blocks->reset(block);
  bytes_ += BytesOf(region, blocks.get());
  if (blocks->none()) Drop(at);
}

void DirtyMap::Add(ByteRange range) {
  UNDERSTUDY_CHECK(range.end <= size_bytes_, range.ToString());
  if (range.empty()) return;
  const uint64_t end = RoundUp(range.end, kBlockBytes) / kBlockBytes;
  for (uint64_t block = range.start / kBlockBytes; block < end;) {
    const uint64_t region = block / kRegionBlocks;
    const uint64_t stop = std::min(end, (region + 1) * kRegionBlocks);
    AddToRegion(region, block - region * kRegionBlocks, stop - region * kRegionBlocks);
    block = stop;
  }
}

void DirtyMap::Remove(ByteRange range) {
  UNDERSTUDY_CHECK(range.end <= size_bytes_, range.ToString());
  const uint64_t end =
      (range.end == size_bytes_ ? RoundUp(range.end, kBlockBytes) : range.end) / kBlockBytes;
  for (uint64_t block = RoundUp(range.start, kBlockBytes) / kBlockBytes; block < end;) {
    const uint64_t region = block / kRegionBlocks;
    const uint64_t stop = std::min(end, (region + 1) * kRegionBlocks);
    RemoveFromRegion(region, block - region * kRegionBlocks, stop - region * kRegionBlocks);
    block = stop;
  }
}

void DirtyMap::Clear() {
  regions_.clear();
  bytes_ = 0;
  bitsets_ = 0;
}

void DirtyMap::AddAll() { Add({0, size_bytes_}); }

void DirtyMap::Merge(const DirtyMap& other) {
  UNDERSTUDY_CHECK(other.size_bytes_ == size_bytes_);
  for (std::optional<ByteRange> run = other.Next(0, size_bytes_); run.has_value();
       run = other.Next(run->end, size_bytes_)) {
    Add(*run);
  }
}

std::optional<ByteRange> DirtyMap::Next(uint64_t from, uint64_t length_max) const {
  if (from >= size_bytes_) return std::nullopt;
  const uint64_t blocks_max = std::max<uint64_t>(length_max / kBlockBytes, 1);
  const uint64_t from_block = from / kBlockBytes;
  uint64_t first = 0;
  uint64_t last = 0;  // nothing yet while equal
  const auto range = [&]() -> std::optional<ByteRange> {
    if (first == last) return std::nullopt;
    return ByteRange{first * kBlockBytes, std::min(last * kBlockBytes, size_bytes_)};
  };
  for (auto at = regions_.lower_bound(from_block / kRegionBlocks); at != regions_.end(); ++at) {
    const uint64_t base = at->first * kRegionBlocks;
    if (first != last && base != last) return range();
    const uint64_t end = base + BlocksIn(at->first);
    for (uint64_t block = std::max(base, from_block); block < end; ++block) {
      const bool dirty = at->second == nullptr || at->second->test(block - base);
      if (!dirty && first != last) return range();
      if (!dirty) continue;
      if (first == last) first = block;
      last = block + 1;
      if (last - first == blocks_max) return range();
    }
  }
  return range();
}

bool DirtyMap::Intersects(ByteRange range) const {
  if (range.empty()) return false;
  const std::optional<ByteRange> next = Next(range.start, kBlockBytes);
  return next.has_value() && next->start < range.end;
}

std::string DirtyMap::Encode() const {
  Header header = {.magic = {},
                   .version = kMapVersion,
                   .reserved = 0,
                   .size_bytes = size_bytes_,
                   .regions = regions_.size()};
  std::memcpy(header.magic, kMapMagic, sizeof(kMapMagic));
  std::string encoded;
  Append(header, encoded);
  for (const auto& [region, blocks] : regions_) {
    Append(RegionHeader{.index = region, .whole = blocks == nullptr ? 1U : 0U}, encoded);
    if (blocks == nullptr) continue;
    Words words = {};
    for (uint64_t block = 0; block < kRegionBlocks; ++block) {
      if (blocks->test(block)) words[block / 64] |= uint64_t{1} << block % 64;
    }
    Append(words, encoded);
  }
  Append(base::Crc32c(encoded.data(), encoded.size()), encoded);
  return encoded;
}

absl::StatusOr<DirtyMap> DirtyMap::Decode(absl::string_view encoded, uint64_t size_bytes,
                                          uint64_t bytes_max) {
  const absl::StatusOr<Header> header = TakeHeader(encoded, size_bytes);
  if (!header.ok()) return header.status();
  DirtyMap map(size_bytes, bytes_max);
  const uint64_t regions = RoundUp(size_bytes, kRegionBytes) / kRegionBytes;
  for (uint64_t i = 0; i < header->regions; ++i) {
    RegionHeader region = {};
    Words words = {};
    if (!Take(encoded, region)) return Damaged("it is cut short");
    if (region.index >= regions) return Damaged("a region lies past the volume's end");
    if (region.whole != 0) {
      map.Add(map.RegionRange(region.index));
      continue;
    }
    if (!Take(encoded, words)) return Damaged("it is cut short");
    for (uint64_t block = 0; block < map.BlocksIn(region.index); ++block) {
      if ((words[block / 64] >> block % 64 & 1) != 0) {
        map.AddToRegion(region.index, block, block + 1);
      }
    }
  }
  if (!encoded.empty()) return Damaged("more follows than it should hold");
  return map;
}

}  // namespace understudy::client
