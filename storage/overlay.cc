#include "storage/overlay.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/crc32c.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/index.h"

namespace understudy::storage {
namespace {

constexpr size_t kEvictRegionsMax = 1024;  // looked at under the lock
constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();

}  // namespace

absl::StatusOr<std::vector<std::shared_ptr<Segment>>> SegmentsOf(
    const OverlayRecord& record,
    absl::FunctionRef<std::shared_ptr<Segment>(uint32_t ordinal)> find) {
  std::vector<std::shared_ptr<Segment>> segments;
  uint64_t incarnations = 0;
  for (const SegmentRange& range : record.segments) {
    for (uint32_t ordinal = range.first; ordinal <= range.last; ++ordinal) {
      std::shared_ptr<Segment> segment = find(ordinal);
      if (segment == nullptr) {
        return absl::DataLossError(
            absl::StrCat("epoch ", record.epoch.value(), ": segment ", ordinal, " is missing"));
      }
      incarnations ^= segment->header().incarnation;
      segments.push_back(std::move(segment));
    }
  }
  if (record.segment_incarnations == 0 || record.segment_incarnations == incarnations) {
    return segments;
  }
  return absl::DataLossError(absl::StrCat(
      "epoch ", record.epoch.value(),
      ": a segment is not the one that the index names: it, or the index, is of another copy of "
      "the data directory"));
}

Overlay::Overlay(OverlayId id, OverlayRecord record, size_t volume_count, Index& index,
                 ExtentMemory& memory, Origin origin)
    : id_(id),
      record_(std::move(record)),
      index_(index),
      memory_(memory),
      committed_micros_(record_.unix_micros),
      bytes_(volume_count),
      maps_(volume_count) {
  for (size_t volume = 0; volume < volume_count && origin == Origin::kIndex; ++volume) {
    const CoveredBytes covered =
        volume < record_.covered.size() ? record_.covered[volume] : CoveredBytes();
    maps_[volume] = ExtentMap::Cold(covered);
    bytes_[volume].store(covered.all, std::memory_order_relaxed);
  }
  index_.HoldExtents(id_);
  memory_.Enter(id_.value(), *this);
}

Overlay::~Overlay() {
  memory_.Leave(id_.value(), *this);
  index_.ReleaseExtents(id_);
  base::WriterLock lock(mutex_);
  memory_.Add(-accounted_bytes_);
}

uint64_t Overlay::bytes() const {
  uint64_t sum = 0;
  for (const auto& bytes : bytes_) sum += bytes.load(std::memory_order_relaxed);
  return sum;
}

std::vector<CoveredBytes> Overlay::covered() const {
  base::ReaderLock lock(mutex_);
  std::vector<CoveredBytes> covered;
  for (const ExtentMap& map : maps_) covered.push_back(map.covered());
  return covered;
}

uint64_t Overlay::data_bytes() const {
  uint64_t sum = 0;
  for (const CoveredBytes& covered : this->covered()) sum += covered.data;
  return sum;
}

// ---- segments ----------------------------------------------------------------------------------------------------------------

absl::StatusOr<std::shared_ptr<Segment>> Overlay::SegmentOf(const Extent& extent) const {
  std::shared_ptr<Segment> none;
  if (extent.zero()) return none;
  base::ReaderLock lock(mutex_);
  const auto found = segments_.find(extent.segment);
  if (found != segments_.end()) return found->second;
  return absl::DataLossError(
      absl::StrCat("epoch ", record_.epoch.value(), ": segment ", extent.segment, " is missing"));
}

std::map<uint32_t, std::shared_ptr<Segment>> Overlay::segments() const {
  base::ReaderLock lock(mutex_);
  return segments_;
}

uint64_t Overlay::segment_bytes() const {
  base::ReaderLock lock(mutex_);
  uint64_t sum = 0;
  for (const auto& [ordinal, segment] : segments_) sum += segment->written_bytes();
  return sum;
}

void Overlay::HoldSegment(const std::shared_ptr<Segment>& segment) {
  base::WriterLock lock(mutex_);
  segments_.try_emplace(segment->ordinal(), segment);
}

void Overlay::RetireSegment(uint32_t ordinal) {
  base::WriterLock lock(mutex_);
  retired_.insert(ordinal);
}

void Overlay::ReleaseSegment(uint32_t ordinal) {
  std::shared_ptr<Segment> released;  // ends outside the lock
  base::WriterLock lock(mutex_);
  if (retired_.erase(ordinal) == 0) return;
  if (auto node = segments_.extract(ordinal)) released = std::move(node.mapped());
}

OverlayRecord Overlay::RecordAfter(std::span<const CoveredBytes> covered) const {
  OverlayRecord record = record_;
  record.covered.assign(covered.begin(), covered.end());
  record.segments.clear();
  record.segment_incarnations = 0;
  base::ReaderLock lock(mutex_);
  for (const auto& [ordinal, segment] : segments_) {
    if (retired_.contains(ordinal)) continue;
    record.segment_incarnations ^= segment->header().incarnation;
    if (record.segments.empty() || record.segments.back().last + 1 != ordinal) {
      record.segments.push_back({ordinal, ordinal});
    }
    record.segments.back().last = ordinal;
  }
  return record;
}

// ---- changes -----------------------------------------------------------------------------------------------------------------

OverlayChange Overlay::Apply(std::span<const Operation> operations,
                             const std::shared_ptr<Segment>& segment,
                             OperationPlacement placement) {
  OverlayChange change;
  base::WriterLock lock(mutex_);
  segments_.try_emplace(segment->ordinal(), segment);
  change.number = ++changes_;
  for (const Operation& operation : operations) {
    if (!operation.has_range()) continue;
    const VolumeId volume(operation.volume);
    const Extent extent = placement.Next(operation, segment->ordinal());
    maps_[volume.value()].Put(volume, operation.range().end, extent, change.number,
                              &change.mutations);
  }
  FinishChange(&change);
  return change;
}

OverlayChange Overlay::Erase(VolumeId volume, ByteRange range) {
  OverlayChange change;
  base::WriterLock lock(mutex_);
  change.number = ++changes_;
  maps_[volume.value()].Erase(volume, range, change.number, &change.mutations);
  FinishChange(&change);
  return change;
}

OverlayChange Overlay::NoChange() const {
  const std::vector<CoveredBytes> covered = this->covered();
  base::ReaderLock lock(mutex_);
  return {.number = changes_, .covered = {covered.begin(), covered.end()}};
}

void Overlay::FinishChange(OverlayChange* change) {
  change->covered.reserve(maps_.size());
  for (size_t volume = 0; volume < maps_.size(); ++volume) {
    change->covered.push_back(maps_[volume].covered());
    bytes_[volume].store(maps_[volume].covered().all, std::memory_order_relaxed);
  }
  Account();
}

void Overlay::SetIndexed(uint64_t number) {
  base::WriterLock lock(mutex_);
  indexed_ = std::max(indexed_, number);
}

// ---- memory ------------------------------------------------------------------------------------------------------------------

void Overlay::Account() {
  int64_t bytes = 0;
  for (const ExtentMap& map : maps_) bytes += static_cast<int64_t>(map.memory_bytes());
  if (bytes == accounted_bytes_) return;
  memory_.Add(bytes - accounted_bytes_);
  accounted_bytes_ = bytes;
}

uint64_t Overlay::Evict(uint64_t bytes, bool* done) {
  base::WriterLock lock(mutex_);
  const VolumeId volume(static_cast<uint32_t>(evict_volume_));
  const std::vector<const Hold*>& holds = holds_;
  const uint64_t freed = maps_[evict_volume_].Evict(
      &evict_region_, kEvictRegionsMax, bytes, indexed_, [&](ByteRange region) {
        return std::any_of(holds.begin(), holds.end(),
                           [&](const Hold* hold) { return hold->Covers(volume, region); });
      });
  if (evict_region_ == 0) evict_volume_ = (evict_volume_ + 1) % maps_.size();
  *done = evict_region_ == 0 && evict_volume_ == 0;
  Account();
  return freed;
}

Overlay::Hold::Hold(Overlay& overlay, std::span<const Operation> operations)
    : overlay_(overlay), operations_(operations) {
  base::WriterLock lock(overlay_.mutex_);
  overlay_.holds_.push_back(this);
}

Overlay::Hold::Hold(Overlay& overlay, VolumeId volume, ByteRange range)
    : overlay_(overlay),
      single_{.volume = volume.value(),
              .kind = OperationKind::kZero,
              .offset = range.start,
              .length = range.size()},
      operations_(&single_, 1) {
  base::WriterLock lock(overlay_.mutex_);
  overlay_.holds_.push_back(this);
}

Overlay::Hold::~Hold() {
  {
    base::WriterLock lock(overlay_.mutex_);
    std::erase(overlay_.holds_, this);
  }
  overlay_.memory_.Trim();
}

bool Overlay::Hold::Covers(VolumeId volume, ByteRange region) const {
  return std::any_of(operations_.begin(), operations_.end(), [&](const Operation& operation) {
    return operation.has_range() && operation.volume == volume.value() &&
           operation.range().Overlaps(region);
  });
}

// From the time a region was seen cold under this Hold nobody can have changed it: a change needs it resident, and once resident
// it stays so. So what is read is what it is.
absl::Status Overlay::Hold::Load() {
  size_t next = 0;
  while (true) {
    const ByteRange run = NextCold(&next);
    if (run.empty()) return absl::OkStatus();
    const VolumeId volume(operations_[next].volume);
    std::vector<ExtentEntry> entries;
    RETURN_IF_ERROR(overlay_.ReadIndex(volume, run, kNoLimit, &entries));
    base::WriterLock lock(overlay_.mutex_);
    ExtentMap& map = overlay_.maps_[volume.value()];
    if (map.NextCold(run) != run) continue;  // somebody else loaded a part of it
    map.Install(run, entries);
    overlay_.Account();
  }
}

ByteRange Overlay::Hold::NextCold(size_t* next) const {
  base::ReaderLock lock(overlay_.mutex_);
  for (; *next < operations_.size(); ++*next) {
    const Operation& operation = operations_[*next];
    if (!operation.has_range()) continue;
    const ByteRange run = overlay_.maps_[operation.volume].NextCold(operation.range());
    if (!run.empty()) return run;
  }
  return {};
}

// ---- looking -----------------------------------------------------------------------------------------------------------------

absl::Status Overlay::ReadIndex(VolumeId volume, ByteRange range, size_t count_max,
                                std::vector<ExtentEntry>* entries) const {
  memory_.CountColdRead();
  return Annotate(index_.ReadExtents(id_, volume, range, count_max, entries),
                  absl::StrCat("epoch ", record_.epoch.value(), " extents of volume number ",
                               volume.value(), " in ", range.ToString()));
}

absl::Status Overlay::Name(std::span<const ExtentEntry> entries,
                           std::vector<OverlayExtent>* extents) const {
  for (const ExtentEntry& entry : entries) {
    std::shared_ptr<Segment> segment;
    if (!entry.extent.zero()) {
      const auto found = segments_.find(entry.extent.segment);
      if (found == segments_.end()) {
        return absl::DataLossError(absl::StrCat("epoch ", record_.epoch.value(), " range ",
                                                entry.range.ToString(), ": segment ",
                                                entry.extent.segment, " is missing"));
      }
      segment = found->second;
    }
    extents->push_back({entry.range, entry.extent, std::move(segment)});
  }
  return absl::OkStatus();
}

absl::Status Overlay::Extents(VolumeId volume, ByteRange range,
                              std::vector<OverlayExtent>* extents) {
  std::optional<Hold> loaded;
  std::vector<ExtentEntry> entries;
  while (!range.empty()) {
    entries.clear();
    ByteRange cold;
    {
      base::ReaderLock lock(mutex_);
      const ExtentMap& map = maps_[volume.value()];
      cold = map.NextCold(range).Intersect(range);
      map.Collect({range.start, cold.empty() ? range.end : cold.start}, &entries);
      RETURN_IF_ERROR(Name(entries, extents));
    }
    if (cold.empty()) break;
    range.start = cold.start;
    if (record_.role == LogRole::kActive && !loaded.has_value()) {
      loaded.emplace(*this, volume, range);
      RETURN_IF_ERROR(loaded->Load());
      continue;
    }
    entries.clear();
    RETURN_IF_ERROR(ReadIndex(volume, cold, kNoLimit, &entries));
    const auto known = static_cast<std::ptrdiff_t>(extents->size());
    absl::Status named;
    {
      base::ReaderLock lock(mutex_);
      named = Name(entries, extents);
    }
    if (named.ok()) {
      range.start = cold.end;
      continue;
    }
    if (loaded.has_value()) return named;
    // Of an open overlay the compactor may have emptied and let go of the segment since the index was read. Loaded, extents and
    // segments are looked at together.
    extents->erase(extents->begin() + known, extents->end());
    loaded.emplace(*this, volume, range);
    RETURN_IF_ERROR(loaded->Load());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<uint64_t>> Overlay::Next(VolumeId volume, uint64_t offset) const {
  while (true) {
    ByteRange cold;
    std::optional<uint64_t> resident;
    {
      base::ReaderLock lock(mutex_);
      const ExtentMap& map = maps_[volume.value()];
      resident = map.Next(offset);
      cold = map.NextCold({offset, resident.value_or(kVolumeBytesMax)});
    }
    if (cold.empty()) return resident;
    std::vector<ExtentEntry> entries;
    RETURN_IF_ERROR(ReadIndex(volume, {std::max(offset, cold.start), cold.end}, 1, &entries));
    if (!entries.empty()) return std::max(offset, entries[0].range.start);
    offset = cold.end;
    if (offset >= kVolumeBytesMax) return resident;
  }
}

uint64_t Overlay::resident_extents() const {
  base::ReaderLock lock(mutex_);
  uint64_t count = 0;
  for (const ExtentMap& map : maps_) count += map.resident_extents();
  return count;
}

void Overlay::CheckInvariants() const {
  base::ReaderLock lock(mutex_);
  for (const ExtentMap& map : maps_) map.CheckInvariants();
}

// ---- data --------------------------------------------------------------------------------------------------------------------

absl::Status Overlay::ReadBlocks(const Segment& segment, const Extent& extent, ByteRange blocks,
                                 std::span<char> out) const {
  RETURN_IF_ERROR(segment.file().Read(extent.position + (blocks.start - extent.origin_start), out));
  const uint64_t first_block = RoundDown(extent.origin_start, kBlockBytes);
  const uint64_t index = (RoundDown(blocks.start, kBlockBytes) - first_block) / kBlockBytes;
  std::vector<uint32_t> computed;
  computed.reserve(ChecksumCount(blocks));
  AppendChecksums(blocks, {out.data(), out.size()}, &computed);
  std::vector<uint32_t> stored(computed.size());
  RETURN_IF_ERROR(segment.ReadChecksums(extent.checksums + index * sizeof(uint32_t), stored));
  if (computed == stored) return absl::OkStatus();
  const auto [bad, unused] = std::mismatch(computed.begin(), computed.end(), stored.begin());
  const uint64_t block = RoundDown(blocks.start, kBlockBytes) +
                         static_cast<uint64_t>(bad - computed.begin()) * kBlockBytes;
  return absl::DataLossError(absl::StrCat("epoch ", record_.epoch.value(), " block at ", block,
                                          " in ", segment.ToString(), ": checksum mismatch"));
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
