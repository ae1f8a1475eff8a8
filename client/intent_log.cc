#include "client/intent_log.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"

#include "client/intent_file.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

uint64_t NewId() {
  std::random_device device;
  return uint64_t{device()} << 32 | device() | 1;  // not 0
}

uint64_t FirstRegion(ByteRange range) { return range.start / IntentLog::kRegionBytes; }
uint64_t LastRegion(ByteRange range) { return (range.end - 1) / IntentLog::kRegionBytes; }

}  // namespace

IntentLog::IntentLog(base::FileSystem& file_system, std::string path,
                     std::vector<VolumeSpec> volumes, uint64_t regions_max, OnLost on_lost)
    : file_system_(file_system),
      path_(std::move(path)),
      header_(EncodeIntentHeader(volumes)),
      regions_max_(regions_max),
      on_lost_(std::move(on_lost)),
      id_(NewId()) {
  base::MutexLock lock(mutex_);
  uint64_t sector = header_.size() / kSectorBytes;
  for (VolumeSpec& spec : volumes) {
    const uint64_t regions = RoundUp(spec.size_bytes, kRegionBytes) / kRegionBytes;
    const uint64_t sectors = RoundUp(regions, kRegionsPerSector) / kRegionsPerSector;
    volumes_.push_back({.spec = std::move(spec),
                        .first_sector = sector,
                        .regions = regions,
                        .set = {},
                        .bits = std::string(sectors * kIntentBitmapBytes, '\0')});
    sector += sectors;
  }
  sectors_ = sector;
}

IntentLog::~IntentLog() = default;

absl::StatusOr<std::unique_ptr<IntentLog>> IntentLog::Open(base::FileSystem& file_system,
                                                           const std::string& path,
                                                           std::vector<VolumeSpec> volumes,
                                                           uint64_t regions_max, uint64_t kept_id,
                                                           OnLost on_lost) {
  auto log = std::unique_ptr<IntentLog>(
      new IntentLog(file_system, path, std::move(volumes), regions_max, std::move(on_lost)));
  std::string file;
  if (file_system.Exists(path)) {
    ASSIGN_OR_RETURN(file, file_system.ReadWholeFile(path));
  }
  if (!file.empty()) {
    RETURN_IF_ERROR(Annotate(
        CheckIntentFile(file, log->header_, log->id_offset()),
        absl::StrCat("write-intent log ", path,
                     " (remedy: restore it, or remove it: then the whole disks are compared)")));
    if (!log->IsKept(file, kept_id)) file.clear();
  }
  log->Load(file);
  log->was_missing_ = file.empty();
  if (log->was_missing_) {
    base::MutexLock lock(log->mutex_);
    log->lost_ = true;
    return log;
  }
  ASSIGN_OR_RETURN(log->file_, file_system.Open(path, {}));
  // Also what was read is written anew: a process that died between write and sync, or after a failed sync, has left bits in
  // the page cache that no later sync makes durable. In place: that needs no space.
  std::string sectors;
  {
    base::MutexLock lock(log->mutex_);
    sectors = log->AllSectorsLocked();
  }
  absl::Status written = log->file_->Write(log->header_.size(), sectors);
  const bool grows = file.size() < log->id_offset() + kSectorBytes;
  if (written.ok()) written = log->WriteId(kept_id, grows);
  if (written.ok()) written = log->file_->Sync();
  if (!written.ok()) RETURN_IF_ERROR(log->Lose(written));
  return log;
}

bool IntentLog::IsKept(absl::string_view file, uint64_t kept_id) const {
  if (kept_id == 0 || HasIntentId(file.substr(id_offset()), kept_id)) return true;
  base::LogWarning("intent_log_of_another_copy")
      .With("path", path_)
      .With("consequence", "everything is compared, and sent where it differs");
  return false;
}

absl::Status IntentLog::WriteId(uint64_t kept_id, bool grows) {
  const absl::Status written = file_->Write(id_offset(), EncodeIntentIds(id_, kept_id));
  if (written.ok() || !grows) return written;
  id_ = 0;
  return absl::OkStatus();
}

void IntentLog::Load(absl::string_view file) {
  std::vector<DamagedSector> damaged;
  {
    base::MutexLock lock(mutex_);
    if (!file.empty()) damaged = ReadBitsLocked(file);
    for (Volume& volume : volumes_) {
      for (uint64_t region = 0; region < volume.regions; ++region) {
        if ((volume.bits[region / 8] >> region % 8 & 1) != 0) volume.set.try_emplace(region);
      }
      loaded_.push_back(Ranges(volume));
    }
  }
  for (const DamagedSector& sector : damaged) {
    base::LogWarning("intent_log_sector_damaged")
        .With("path", path_)
        .With("volume", sector.volume)
        .With("sector", sector.number)
        .With("regions", kRegionsPerSector)
        .With("consequence", "all of them are compared");
  }
}

std::vector<IntentLog::DamagedSector> IntentLog::ReadBitsLocked(absl::string_view file) {
  std::vector<DamagedSector> damaged;
  for (Volume& volume : volumes_) {
    for (size_t at = 0; at < volume.bits.size(); at += kIntentBitmapBytes) {
      const uint64_t number = volume.first_sector + at / kIntentBitmapBytes;
      const absl::string_view sector = file.substr(number * kSectorBytes, kSectorBytes);
      if (IntentSectorIntact(sector)) {
        volume.bits.replace(at, kIntentBitmapBytes,
                            sector.data() + kSectorBytes - kIntentBitmapBytes, kIntentBitmapBytes);
        continue;
      }
      volume.bits.replace(at, kIntentBitmapBytes, kIntentBitmapBytes, '\xff');
      damaged.push_back({.volume = volume.spec.name, .number = number});
    }
  }
  return damaged;
}

ByteRange IntentLog::RegionRange(const Volume& volume, uint64_t region) {
  return {region * kRegionBytes, std::min((region + 1) * kRegionBytes, volume.spec.size_bytes)};
}

std::vector<ByteRange> IntentLog::Ranges(const Volume& volume) {
  std::vector<uint64_t> regions;
  regions.reserve(volume.set.size());
  for (const auto& [region, state] : volume.set) regions.push_back(region);
  std::sort(regions.begin(), regions.end());
  std::vector<ByteRange> ranges;
  for (const uint64_t region : regions) {
    const ByteRange range = RegionRange(volume, region);
    if (!ranges.empty() && ranges.back().end == range.start) {
      ranges.back().end = range.end;
    } else {
      ranges.push_back(range);
    }
  }
  return ranges;
}

std::vector<ByteRange> IntentLog::SetRanges(uint32_t volume) const {
  base::MutexLock lock(mutex_);
  return Ranges(volumes_[volume]);
}

// ---- before and after a write --------------------------------------------------------------------------------------------

void IntentLog::ClearBit(Volume& volume, uint64_t region) {
  char& byte = volume.bits[region / 8];
  byte = static_cast<char>(static_cast<uint8_t>(byte) & ~(1U << region % 8));
}

void IntentLog::MarkLocked(Volume& volume, uint64_t region) {
  const auto [at, added] = volume.set.try_emplace(region);
  if (!added) return;
  at->second.round = next_round_;
  at->second.stamp = next_stamp_++;
  char& byte = volume.bits[region / 8];
  byte = static_cast<char>(static_cast<uint8_t>(byte) | 1U << region % 8);
  unsynced_.insert(volume.first_sector + region / kRegionsPerSector);
}

void IntentLog::MarkAheadLocked(Volume& volume, uint64_t region) {
  if (!failure_.ok()) return;
  const auto before = region == 0 ? volume.set.end() : volume.set.find(region - 1);
  if (before == volume.set.end() || !before->second.filled) return;
  const uint64_t end = std::min(region + kAheadRegions, volume.regions);
  for (uint64_t ahead = region + 1; ahead < end; ++ahead) MarkLocked(volume, ahead);
}

uint64_t IntentLog::EnterLocked(Volume& volume, ByteRange range) {
  uint64_t round = 0;
  for (uint64_t region = FirstRegion(range); region <= LastRegion(range); ++region) {
    if (!volume.set.contains(region)) {
      MarkLocked(volume, region);
      MarkAheadLocked(volume, region);
    }
    State& state = volume.set[region];
    ++state.writers;
    state.stamp = next_stamp_++;
    state.filled = state.filled || range.end >= RegionRange(volume, region).end;
    round = std::max(round, state.round);
  }
  return round;
}

void IntentLog::LeaveLocked(Volume& volume, ByteRange range, uint64_t sequence) {
  for (uint64_t region = FirstRegion(range); region <= LastRegion(range); ++region) {
    const auto at = volume.set.find(region);
    UNDERSTUDY_CHECK(at != volume.set.end() && at->second.writers > 0, "End() without its Begin()");
    State& state = at->second;
    --state.writers;
    state.stamp = next_stamp_++;
    state.sequence = std::max(state.sequence, sequence);
    if (state.writers > 0 || state.round <= durable_round_) continue;
    volume.set.erase(at);  // it has failed
    ClearBit(volume, region);
  }
}

absl::Status IntentLog::Begin(uint32_t volume, ByteRange range) {
  absl::Status result;
  BeginAll(volume, {&range, 1}, {&result, 1});
  return result;
}

void IntentLog::BeginAll(uint32_t volume, std::span<const ByteRange> ranges,
                         std::span<absl::Status> results) {
  base::MutexLock lock(mutex_);
  Volume& of = volumes_[volume];
  absl::InlinedVector<uint64_t, 1> rounds(ranges.size());
  uint64_t last = 0;
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (!results[i].ok()) continue;
    UNDERSTUDY_CHECK(!ranges[i].empty() && ranges[i].end <= of.spec.size_bytes,
                     ranges[i].ToString());
    rounds[i] = EnterLocked(of, ranges[i]);
    last = std::max(last, rounds[i]);
  }
  while (durable_round_ < last && failure_.ok()) {
    if (busy_) {
      turn_over_.Wait(mutex_);
    } else {
      CommitLocked();
    }
  }
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (!results[i].ok() || durable_round_ >= rounds[i]) continue;
    LeaveLocked(of, ranges[i], 0);
    results[i] = RefusalLocked();
  }
}

void IntentLog::End(uint32_t volume, ByteRange range, uint64_t stream_sequence) {
  base::MutexLock lock(mutex_);
  LeaveLocked(volumes_[volume], range, stream_sequence);
}

// ---- the file ------------------------------------------------------------------------------------------------------------

IntentLog::Sectors IntentLog::SectorsLocked(const std::set<uint64_t>& numbers) const {
  Sectors sectors;
  auto number = numbers.begin();
  for (const Volume& volume : volumes_) {
    const uint64_t end = volume.first_sector + volume.bits.size() / kIntentBitmapBytes;
    for (; number != numbers.end() && *number < end; ++number) {
      const uint64_t at = (*number - volume.first_sector) * kIntentBitmapBytes;
      sectors[*number] =
          EncodeIntentSector(absl::string_view(volume.bits).substr(at, kIntentBitmapBytes));
    }
  }
  return sectors;
}

std::string IntentLog::AllSectorsLocked() const {
  std::string sectors;
  for (const Volume& volume : volumes_) {
    for (size_t at = 0; at < volume.bits.size(); at += kIntentBitmapBytes) {
      sectors += EncodeIntentSector(absl::string_view(volume.bits).substr(at, kIntentBitmapBytes));
    }
  }
  return sectors;
}

absl::Status IntentLog::WriteSectors(const Sectors& sectors) {
  for (const auto& [number, contents] : sectors) {
    RETURN_IF_ERROR(file_->Write(number * kSectorBytes, contents));
  }
  return absl::OkStatus();
}

void IntentLog::CommitLocked() {
  const uint64_t round = next_round_++;
  const Sectors sectors = lost_ ? Sectors() : SectorsLocked(unsynced_);
  unsynced_.clear();
  if (lost_) {
    durable_round_ = round;
    return;
  }
  busy_ = true;
  ++syncs_;
  mutex_.Unlock();
  absl::Status status = WriteSectors(sectors);
  if (status.ok()) status = file_->Sync();
  const absl::Status removed = status.ok() ? status : RemoveFile(status);
  mutex_.Lock();
  if (removed.ok()) durable_round_ = round;
  EndTurnLocked(status, removed);
}

void IntentLog::EndTurnLocked(const absl::Status& status, const absl::Status& removed) {
  if (!status.ok()) {
    lost_ = removed.ok();
    failure_ = removed;
  }
  if (!removed.ok()) {
    for (Volume& volume : volumes_) {  // marked ahead, in vain
      std::erase_if(volume.set, [&](const auto& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        const bool in_vain = entry.second.writers == 0 && entry.second.round > durable_round_;
        if (in_vain) ClearBit(volume, entry.first);
        return in_vain;
      });
    }
  }
  busy_ = false;
  turn_over_.NotifyAll();
}

absl::Status IntentLog::RemoveOrEmpty() {
  if (file_system_.Exists(path_)) {
    const absl::Status removed = file_system_.Remove(path_);
    if (!removed.ok()) {
      const auto file = file_system_.Open(path_, {});
      const bool emptied = file.ok() && (*file)->Truncate(0).ok() && (*file)->Sync().ok();
      return emptied ? absl::OkStatus() : removed;
    }
  }
  // Also when it is gone already: the sync that should have made that durable may have failed.
  return file_system_.SyncDirectory(base::DirectoryOf(path_));
}

absl::Status IntentLog::RemoveFile(const absl::Status& why) {
  file_ = nullptr;
  const absl::Status removed = RemoveOrEmpty();
  const bool gone = removed.ok();
  if (std::exchange(told_gone_, gone) == gone) return gone ? removed : why;
  base::LogError(gone ? "intent_log_lost" : "intent_log_failed")
      .With("path", path_)
      .With("error", why)
      .With("removed", removed)
      .With("consequence",
            gone ? "writes go on; everything is compared after the agent's next end"
                 : "writes to regions that are not marked fail until the directory is writable");
  if (on_lost_) on_lost_(why, gone);
  return gone ? removed : why;
}

absl::Status IntentLog::RefusalLocked() const {
  return Annotate(failure_, absl::StrCat("write-intent log ", path_,
                                         " can be neither written nor removed (remedy: make its "
                                         "directory writable again)"));
}

bool IntentLog::lost() const {
  base::MutexLock lock(mutex_);
  return lost_;
}

absl::Status IntentLog::failure() const {
  base::MutexLock lock(mutex_);
  return failure_;
}

bool IntentLog::kept() const {
  base::MutexLock lock(mutex_);
  return !lost_ && failure_.ok();
}

absl::Status IntentLog::Lose(const absl::Status& why) {
  base::MutexLock lock(mutex_);
  while (busy_) turn_over_.Wait(mutex_);
  if (lost_) return absl::OkStatus();
  busy_ = true;
  mutex_.Unlock();
  const absl::Status removed = RemoveFile(why);
  mutex_.Lock();
  EndTurnLocked(why, removed);
  return RefusalLocked();
}

absl::Status IntentLog::Make() {
  base::MutexLock lock(mutex_);
  while (busy_) turn_over_.Wait(mutex_);
  if (!lost_ || !failure_.ok()) return RefusalLocked();
  busy_ = true;
  const uint64_t round = next_round_++;
  const std::string contents = header_ + AllSectorsLocked() + EncodeIntentIds(id_, 0);
  unsynced_.clear();
  mutex_.Unlock();
  absl::Status made = file_system_.WriteFileAtomically(path_, contents);
  if (made.ok()) {
    auto file = file_system_.Open(path_, {});
    made = file.status();
    if (file.ok()) file_ = *std::move(file);
  }
  // A rename may have come to pass before the error.
  const bool there = !made.ok() && file_system_.Exists(path_);
  const absl::Status removed = there ? RemoveFile(made) : absl::OkStatus();
  mutex_.Lock();
  durable_round_ = round;
  if (made.ok()) {
    lost_ = false;
    told_gone_.reset();
  }
  EndTurnLocked(made, removed);
  return Annotate(made, "write-intent log");
}

// ---- cleaning ------------------------------------------------------------------------------------------------------------

IntentLog::Candidates IntentLog::CandidatesLocked(uint64_t durable_sequence) const {
  Candidates candidates;
  uint64_t set = 0;
  for (uint32_t volume = 0; volume < volumes_.size(); ++volume) {
    set += volumes_[volume].set.size();
    for (const auto& [index, state] : volumes_[volume].set) {
      if (state.writers > 0 || state.round > durable_round_ || state.sequence > durable_sequence) {
        continue;
      }
      (state.stamp < hand_ ? candidates.quiet : candidates.recent)
          .push_back({.region = {.volume = volume, .index = index, .stamp = state.stamp},
                      .range = RegionRange(volumes_[volume], index)});
    }
  }
  candidates.over = set > regions_max_ ? set - regions_max_ : 0;
  return candidates;
}

std::vector<IntentLog::Region> IntentLog::Cleanable(uint64_t durable_sequence, Keep keep) {
  Candidates candidates;
  {
    base::MutexLock lock(mutex_);
    candidates = CandidatesLocked(durable_sequence);
    hand_ = next_stamp_;
  }
  std::vector<Region> regions;
  for (const auto& [region, range] : candidates.quiet) {
    if (!keep(region.volume, range)) regions.push_back(region);
  }
  TakeOldest(std::move(candidates.recent), candidates.over, keep, regions);
  return regions;
}

std::vector<IntentLog::Region> IntentLog::Excess(uint64_t durable_sequence, Keep keep) const {
  Candidates candidates;
  {
    base::MutexLock lock(mutex_);
    candidates = CandidatesLocked(durable_sequence);
  }
  std::vector<Region> regions;
  TakeOldest(std::move(candidates.quiet), candidates.over, keep, regions);
  TakeOldest(std::move(candidates.recent), candidates.over, keep, regions);
  return regions;
}

void IntentLog::TakeOldest(std::vector<Candidate> from, uint64_t total, Keep keep,
                           std::vector<Region>& regions) {
  if (regions.size() >= total) return;
  std::sort(from.begin(), from.end(),
            [](const auto& a, const auto& b) { return a.region.stamp < b.region.stamp; });
  for (const auto& [region, range] : from) {
    if (regions.size() >= total) return;
    if (!keep(region.volume, range)) regions.push_back(region);
  }
}

absl::Status IntentLog::Clear(std::span<const Region> regions) {
  base::MutexLock lock(mutex_);
  while (busy_) turn_over_.Wait(mutex_);
  if (!failure_.ok()) return RefusalLocked();
  std::set<uint64_t> changed;
  for (const Region& region : regions) {
    Volume& volume = volumes_[region.volume];
    const auto at = volume.set.find(region.index);
    if (at == volume.set.end() || at->second.stamp != region.stamp) continue;
    volume.set.erase(at);
    ClearBit(volume, region.index);
    changed.insert(volume.first_sector + region.index / kRegionsPerSector);
  }
  if (changed.empty() || lost_) return absl::OkStatus();
  busy_ = true;
  const Sectors sectors = SectorsLocked(changed);
  mutex_.Unlock();
  const absl::Status status = WriteSectors(sectors);
  const absl::Status removed = status.ok() ? status : RemoveFile(status);
  mutex_.Lock();
  EndTurnLocked(status, removed);
  return RefusalLocked();
}

// ---- figures -------------------------------------------------------------------------------------------------------------

uint64_t IntentLog::set_regions() const {
  base::MutexLock lock(mutex_);
  uint64_t regions = 0;
  for (const Volume& volume : volumes_) regions += volume.set.size();
  return regions;
}

uint64_t IntentLog::set_bytes() const {
  base::MutexLock lock(mutex_);
  uint64_t bytes = 0;
  for (const Volume& volume : volumes_) {
    if (lost_) {
      bytes += volume.spec.size_bytes;
      continue;
    }
    bytes += volume.set.size() * kRegionBytes;
    if (volume.regions == 0 || !volume.set.contains(volume.regions - 1)) continue;
    bytes -= kRegionBytes - RegionRange(volume, volume.regions - 1).size();
  }
  return bytes;
}

uint64_t IntentLog::syncs() const {
  base::MutexLock lock(mutex_);
  return syncs_;
}

}  // namespace understudy::client
