#include "storage/store.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "storage/base/log.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"
#include "storage/base/worker_pool.h"
#include "storage/data_directory.h"
#include "storage/extent_memory.h"
#include "storage/index.h"
#include "storage/replica_impl.h"
#include "storage/secondary_disk.h"
#include "storage/segment_pool.h"
#include "storage/synced_file.h"

namespace understudy::storage {
namespace {

constexpr int kWriteBackThreads = 4;
constexpr int kScrubThreads = 2;  // the others wait
constexpr int kJobThreads = 16;   // made on demand: a few stuck disks must not block the others

// A generator that any thread may ask.
class SharedRandom {
 public:
  explicit SharedRandom(uint64_t seed) : generator_(seed) {}
  uint64_t Next() {
    base::MutexLock lock(mutex_);
    return generator_();
  }

 private:
  base::Mutex mutex_;
  std::mt19937_64 generator_ ABSL_GUARDED_BY(mutex_);
};

class StoreImpl : public Store {
 public:
  StoreImpl(const StoreOptions& options, base::FileSystem& file_system, const base::Clock& clock,
            absl::BitGenRef random)
      : options_(options),
        file_system_(file_system),
        clock_(clock),
        shared_random_(random()),
        random_([this] { return shared_random_.Next(); }),
        apply_rate_(options.apply_bytes_per_second),
        segments_(file_system, Path("segments"), options.segment_bytes,
                  options.free_segment_bytes_max, random()),
        checker_(file_system, DiskDirs(options)),
        extent_memory_(options.index_memory_max - IndexShare(options)),
        synced_(file_system, Path("SYNCED")),
        write_back_(options.worker_pool != nullptr
                        ? options.worker_pool
                        : std::make_shared<base::WorkerPool>("write-back", kWriteBackThreads)),
        jobs_(options.worker_pool != nullptr
                  ? options.worker_pool
                  : std::make_shared<base::WorkerPool>("jobs", kJobThreads)) {
    if (options_.reserve_disk_space) segments_.SetReserve([this] { return DiskReserve(); });
  }

  ~StoreImpl() override {
    for (const auto& [name, replica] : replicas_) replica->Close();
    jobs_->Shutdown();
    scrubs_.Shutdown();
    write_back_->Shutdown();
    segments_.StopRecycling();  // overlays end now without having been dropped
    replicas_.clear();
  }

  absl::Status OpenDirectory();
  absl::Status Recover();

  absl::StatusOr<std::shared_ptr<Replica>> Open(
      const GroupSpec& spec, absl::FunctionRef<absl::Status()> last_check) override;
  absl::StatusOr<std::shared_ptr<Replica>> Find(const std::string& group) const override;
  std::vector<std::shared_ptr<Replica>> List() const override;
  absl::Status Remove(const std::string& group, std::optional<uint64_t> failback_mark) override;
  absl::StatusOr<StoreSpace> Space() const override;
  absl::Status CheckRoom() const override { return segments_.CheckRoom(); }

 private:
  static std::vector<std::string> DiskDirs(const StoreOptions& options) {
    if (!options.disk_dirs.empty()) return options.disk_dirs;
    return {absl::StrCat(options.data_dir, "/disks")};
  }
  // RocksDB's part of the memory; the rest is for extent maps.
  static uint64_t IndexShare(const StoreOptions& options) {
    return options.index_memory_max / 8 * 3;
  }
  std::string Path(absl::string_view name) const {
    return absl::StrCat(options_.data_dir, "/", name);
  }
  StoreContext Context() {
    return {options_,     file_system_, clock_,  *index_,     segments_, extent_memory_,
            *write_back_, *jobs_,       scrubs_, apply_rate_, random_};
  }
  using RemainsByGroup = std::map<uint64_t, ReplicaImpl::Remains>;  // by the group's number

  uint64_t DiskReserve() const;
  // `free`: what nobody misses if every group is whole.
  absl::Status AdoptSegments(RemainsByGroup* remains, std::vector<SegmentFile>* free);
  void ReleaseSegments(const std::vector<SegmentFile>& free);
  void AssignDamaged(const FoundOverlay& overlay, const std::vector<FoundGroup>& groups,
                     RemainsByGroup* remains);
  absl::Status RecoverGroup(const FoundGroup& group, RemainsByGroup* remains);
  void LogRecovery(absl::Duration took);
  absl::Status CheckNames(const GroupSpec& spec) const;
  // Without links, as far as it exists.
  std::string Resolved(const std::string& path) const;
  bool SameDeclaration(const GroupRecord& record, const GroupSpec& spec) const;
  absl::Status CheckUnused(const VolumeRecord& disk, const std::string& volume,
                           const std::vector<VolumeRecord>& earlier) const;
  absl::StatusOr<std::vector<VolumeRecord>> CheckDisks(
      const GroupSpec& spec, absl::FunctionRef<absl::Status()> last_check);

  const StoreOptions options_;
  base::FileSystem& file_system_;
  const base::Clock& clock_;
  SharedRandom shared_random_;
  absl::AnyInvocable<uint64_t()> random_;
  base::RateLimit apply_rate_;
  SegmentPool segments_;
  DiskChecker checker_;
  ExtentMemory extent_memory_;
  std::unique_ptr<base::File> lock_;
  SyncedFile synced_;
  std::unique_ptr<Index> index_;
  const std::shared_ptr<base::WorkerPool> write_back_;
  const std::shared_ptr<base::WorkerPool> jobs_;
  base::WorkerPool scrubs_{"scrubs", kScrubThreads};
  base::Turn open_turn_;  // Open() and Remove(), one at a time
  mutable base::Mutex mutex_;
  std::map<std::string, std::shared_ptr<ReplicaImpl>> replicas_ ABSL_GUARDED_BY(mutex_);
};

absl::Status StoreImpl::OpenDirectory() {
  ASSIGN_OR_RETURN(lock_, OpenDataDirectory(file_system_, options_.data_dir, options_.index_env));
  ASSIGN_OR_RETURN(index_, Index::Open(Path("index"), IndexShare(options_), options_.index_env,
                                       options_.index_background_io, &synced_));
  if (!options_.disk_dirs.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(file_system_.CreateDirectory(Path("disks")));
  return file_system_.SyncDirectory(options_.data_dir);
}

// The segments in use, each with its group's remains.
absl::Status StoreImpl::AdoptSegments(RemainsByGroup* remains, std::vector<SegmentFile>* free) {
  ASSIGN_OR_RETURN(const std::vector<SegmentFile> found, segments_.Scan());
  for (const SegmentFile& file : found) {
    // No clone outlives its process. Its ordinals are those of a log of its own: among the group's they would hide segments.
    if (file.header.role == static_cast<uint8_t>(LogRole::kClone)) {
      segments_.Release(file);
      continue;
    }
    const auto owner = file.content == SegmentFile::Content::kLog ? remains->find(file.header.group)
                                                                  : remains->end();
    if (owner == remains->end()) {
      free->push_back(file);
      continue;
    }
    ASSIGN_OR_RETURN(auto segment, segments_.Adopt(file));
    const bool hidden = file.header.role == static_cast<uint8_t>(LogRole::kHidden);
    auto& segments = hidden ? owner->second.hidden_segments : owner->second.active_segments;
    segments.push_back(std::move(segment));
  }
  return absl::OkStatus();
}

// A group that misses a segment, or cannot be read, may be repaired by putting it back, or hold one of these.
void StoreImpl::ReleaseSegments(const std::vector<SegmentFile>& free) {
  base::MutexLock lock(mutex_);
  for (const auto& [name, replica] : replicas_) {
    if (!replica->whole()) return;
  }
  for (const SegmentFile& file : free) segments_.Release(file);
}

// An overlay whose record does not decode belongs to the group that names it, or whose log does. If none is found it may be any
// group's, and none can be trusted.
void StoreImpl::AssignDamaged(const FoundOverlay& overlay, const std::vector<FoundGroup>& groups,
                              RemainsByGroup* remains) {
  std::vector<uint64_t> owners;
  bool hidden_only = false;  // the secondary VM never sees it
  for (const FoundGroup& group : groups) {
    if (!group.record.ok()) continue;
    const ReplicaImpl::Remains& its = (*remains)[group.record->number];
    const auto names_it = [&](const auto& segment) { return HasFrameOf(*segment, overlay.id); };
    if (overlay.id == group.record->hidden || overlay.id == group.record->active ||
        std::any_of(its.hidden_segments.begin(), its.hidden_segments.end(), names_it)) {
      owners = {group.record->number};
      if (overlay.id == group.record->hidden) hidden_only = true;
      break;
    }
    if (group.record->stage != Stage::kNone && group.record->stage != Stage::kDone) {
      owners.push_back(group.record->number);
    }
  }
  for (const uint64_t number : owners) {
    ReplicaImpl::Remains& its = (*remains)[number];
    its.damaged.push_back(overlay.id);
    if (hidden_only) continue;
    its.damage = Annotate(overlay.record.status(), absl::StrCat("overlay ", overlay.id.value()));
  }
}

absl::Status StoreImpl::Recover() {
  const absl::Duration begun = clock_.Monotonic();
  ASSIGN_OR_RETURN(const std::vector<FoundGroup> groups, index_->Groups());
  ASSIGN_OR_RETURN(const std::vector<FoundOverlay> overlays, index_->Overlays());
  RemainsByGroup remains;
  bool groups_known = true;
  for (const FoundGroup& group : groups) {
    if (group.record.ok()) remains[group.record->number];
    groups_known = groups_known && group.record.ok();
  }
  std::vector<SegmentFile> free;
  RETURN_IF_ERROR(AdoptSegments(&remains, &free));
  Index::Batch orphans(*index_);
  for (const FoundOverlay& overlay : overlays) {
    if (!overlay.record.ok()) {
      AssignDamaged(overlay, groups, &remains);
    } else if (const auto owner = remains.find(overlay.record->group); owner != remains.end()) {
      owner->second.overlays.emplace_back(overlay.id, *overlay.record);
    } else if (groups_known) {
      orphans.DeleteOverlay(overlay.id);
    }
  }
  if (!orphans.empty()) RETURN_IF_ERROR(index_->Write(std::move(orphans), /*sync=*/false));
  for (const FoundGroup& group : groups) RETURN_IF_ERROR(RecoverGroup(group, &remains));
  ReleaseSegments(free);
  LogRecovery(clock_.Monotonic() - begun);
  return absl::OkStatus();
}

absl::Status StoreImpl::RecoverGroup(const FoundGroup& group, RemainsByGroup* remains) {
  GroupRecord record{.name = group.name};
  ReplicaImpl::Remains unknown{.damage = group.record.status()};
  if (group.record.ok()) record = *group.record;
  auto replica = std::make_shared<ReplicaImpl>(Context(), record);
  RETURN_IF_ERROR(Annotate(replica->Recover(group.record.ok() ? std::move((*remains)[record.number])
                                                              : std::move(unknown)),
                           absl::StrCat("group ", group.name)));
  base::MutexLock lock(mutex_);
  replicas_[group.name] = std::move(replica);
  return absl::OkStatus();
}

// The recovery report: one block, a line for the directory and one or two for each group.
void StoreImpl::LogRecovery(absl::Duration took) {
  std::map<std::string, std::shared_ptr<ReplicaImpl>> replicas;
  {
    base::MutexLock lock(mutex_);
    replicas = replicas_;
  }
  base::LogInfo("store_opened")
      .With("data_dir", options_.data_dir)
      .With("groups", replicas.size())
      .With("segments_used_bytes", segments_.used_bytes())
      .With("segments_free_bytes", segments_.free_bytes())
      .With("took", took);
  for (const auto& [name, replica] : replicas) replica->LogRecovery();
}

// ---- groups ---------------------------------------------------------------------------------------------------------------

absl::Status StoreImpl::CheckNames(const GroupSpec& spec) const {
  RETURN_IF_ERROR(CheckName("group", spec.name));
  if (spec.volumes.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("group ", spec.name, " has no volumes: give at least one"));
  }
  std::set<std::string> names;
  for (const VolumeSpec& volume : spec.volumes) {
    RETURN_IF_ERROR(CheckName("volume", volume.name));
    RETURN_IF_ERROR(CheckTopId(volume.top_id));
    if (!names.insert(volume.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("volume ", volume.name, " is declared twice"));
    }
    if (volume.create && volume.size_bytes == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("volume ", volume.name, ": 'create' needs a size"));
    }
  }
  return absl::OkStatus();
}

std::string StoreImpl::Resolved(const std::string& path) const {
  return file_system_.Resolve(path).value_or(path);
}

absl::Status OtherDeclaration(const GroupRecord& known) {
  const auto volume = [](std::string* out, const VolumeRecord& record) {
    absl::StrAppend(out, record.name, " (", record.size_bytes, " bytes of ", record.disk_path,
                    record.initial == Initial::kSync ? ", initial=sync)" : ")");
  };
  return absl::AlreadyExistsError(
      absl::StrCat("group ", known.name,
                   " is open with other volumes: ", absl::StrJoin(known.volumes, ", ", volume),
                   "; stop and remove it first, docs/runbooks.md, "
                   "\"Grow a disk, add a disk\""));
}

bool StoreImpl::SameDeclaration(const GroupRecord& record, const GroupSpec& spec) const {
  if (record.volumes.size() != spec.volumes.size()) return false;
  for (size_t i = 0; i < spec.volumes.size(); ++i) {
    const VolumeRecord& known = record.volumes[i];
    const VolumeSpec& wanted = spec.volumes[i];
    const bool same_size = wanted.size_bytes == 0 || wanted.size_bytes == known.size_bytes;
    const bool same_disk = Resolved(wanted.disk_path) == Resolved(known.disk_path);
    const bool same_initial = known.initial == (wanted.create ? Initial::kSync : wanted.initial);
    if (known.name != wanted.name || known.top_id != wanted.top_id || !same_size || !same_disk ||
        !same_initial) {
      return false;
    }
  }
  return true;
}

// A group that is not started has no lock on its disks.
absl::Status StoreImpl::CheckUnused(const VolumeRecord& disk, const std::string& volume,
                                    const std::vector<VolumeRecord>& earlier) const {
  const std::string in_use =
      absl::StrCat("Block device is in use by internal backup job: ", disk.disk_path);
  for (const VolumeRecord& other : earlier) {
    if (other.identity != disk.identity) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(in_use, " is given to volume ", other.name, " and to volume ", volume));
  }
  for (const auto& other : List()) {
    if (other->volumes().empty() &&
        SecondaryDisk::MarkedFor(file_system_, disk, other->name(), options_.data_dir)) {
      return absl::FailedPreconditionError(
          absl::StrCat(in_use, " belongs to group ", other->name(), ", whose record is damaged"));
    }
    for (const VolumeInfo& info : other->volumes()) {
      if (Resolved(info.disk_path) != disk.disk_path) continue;
      return absl::FailedPreconditionError(
          absl::StrCat(in_use, " belongs to volume ", other->name(), "/", info.name));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<VolumeRecord>> StoreImpl::CheckDisks(
    const GroupSpec& spec, absl::FunctionRef<absl::Status()> last_check) {
  std::vector<VolumeRecord> volumes;
  std::vector<std::string> created;
  const auto check = [&]() -> absl::Status {
    for (const VolumeSpec& volume : spec.volumes) {
      const bool existed = file_system_.Exists(volume.disk_path);
      ASSIGN_OR_RETURN(VolumeRecord checked, checker_.Check(volume, [&](const VolumeRecord& disk) {
        return CheckUnused(disk, volume.name, volumes);
      }));
      if (!existed) created.push_back(checked.disk_path);
      volumes.push_back(std::move(checked));
    }
    return last_check();
  };
  if (const absl::Status checked = check(); !checked.ok()) {
    for (const std::string& path : created) file_system_.Remove(path).IgnoreError();
    return checked;
  }
  return volumes;
}

absl::StatusOr<std::shared_ptr<Replica>> StoreImpl::Open(
    const GroupSpec& spec, absl::FunctionRef<absl::Status()> last_check) {
  base::Turn::Hold open_turn(open_turn_);
  RETURN_IF_ERROR(CheckNames(spec));
  {
    base::MutexLock lock(mutex_);
    const auto known = replicas_.find(spec.name);
    if (known != replicas_.end()) {
      if (known->second->volumes().empty()) return known->second->damage();
      if (SameDeclaration(known->second->record(), spec)) return known->second;
      return OtherDeclaration(known->second->record());
    }
  }
  GroupRecord record{.name = spec.name};
  ASSIGN_OR_RETURN(record.volumes, CheckDisks(spec, last_check));
  ASSIGN_OR_RETURN(record.number, index_->NextNumber());
  Index::Batch batch(*index_);
  batch.PutGroup(record);
  RETURN_IF_ERROR(index_->Write(std::move(batch), /*sync=*/true));
  auto replica = std::make_shared<ReplicaImpl>(Context(), record);
  base::MutexLock lock(mutex_);
  replicas_[spec.name] = replica;
  return replica;
}

absl::StatusOr<std::shared_ptr<Replica>> StoreImpl::Find(const std::string& group) const {
  base::MutexLock lock(mutex_);
  const auto found = replicas_.find(group);
  if (found != replicas_.end()) return found->second;
  return absl::NotFoundError(
      absl::StrCat("group ", group, " is not known here: see understudyctl list"));
}

std::vector<std::shared_ptr<Replica>> StoreImpl::List() const {
  base::MutexLock lock(mutex_);
  std::vector<std::shared_ptr<Replica>> all;
  for (const auto& [name, replica] : replicas_) all.push_back(replica);
  return all;
}

absl::Status StoreImpl::Remove(const std::string& group, std::optional<uint64_t> failback_mark) {
  base::Turn::Hold open_turn(open_turn_);
  std::shared_ptr<ReplicaImpl> replica;
  {
    base::MutexLock lock(mutex_);
    const auto found = replicas_.find(group);
    if (found == replicas_.end()) {
      return absl::NotFoundError(
          absl::StrCat("group ", group, " is not known here: see understudyctl list"));
    }
    replica = found->second;
  }
  RETURN_IF_ERROR(replica->Retire(failback_mark));
  base::LogInfo("group_removed").With("group", group);
  base::MutexLock lock(mutex_);
  replicas_.erase(group);
  return absl::OkStatus();
}

uint64_t StoreImpl::DiskReserve() const {
  const auto identity = lock_->Identity();
  if (!identity.ok()) return 0;
  std::vector<std::shared_ptr<ReplicaImpl>> replicas;
  {
    base::MutexLock lock(mutex_);
    for (const auto& [name, replica] : replicas_) replicas.push_back(replica);
  }
  uint64_t bytes = 0;
  for (const auto& replica : replicas) bytes += replica->HoleBytes(*identity);
  return bytes;
}

absl::StatusOr<StoreSpace> StoreImpl::Space() const {
  ASSIGN_OR_RETURN(const base::FileSystemSpace space, file_system_.Space(options_.data_dir));
  return StoreSpace{.capacity_bytes = space.capacity_bytes,
                    .free_bytes = space.free_bytes,
                    .segment_bytes = segments_.used_bytes(),
                    .free_segment_bytes = segments_.free_bytes(),
                    .extent_memory_bytes = extent_memory_.resident_bytes(),
                    .extent_memory_limit_bytes = extent_memory_.limit_bytes(),
                    .extent_cold_reads = extent_memory_.cold_reads()};
}

}  // namespace

absl::Status StoreOptions::Validate() const {
  std::vector<std::string> problems;
  if (data_dir.empty()) problems.push_back("the data directory is missing: give --data-dir");
  if (segment_bytes % kBlockBytes != 0 || segment_bytes < 4 << 20 || segment_bytes > 1ULL << 30) {
    problems.push_back(absl::StrCat("--segment-bytes ", segment_bytes,
                                    " is not a multiple of 4096 from 4 MiB to 1 GiB"));
  }
  for (const auto& [limit, flag] : {std::pair(overlay_bytes_max, "--overlay-bytes-max"),
                                    std::pair(overlay_bytes_total, "--overlay-bytes-total")}) {
    if (limit != 0 && limit < 4 * segment_bytes) {
      problems.push_back(
          absl::StrCat(flag, " ", limit, " is less than four segments (", 4 * segment_bytes, ")"));
    }
  }
  if (index_memory_max == 0) problems.push_back("the index memory limit is 0");
  if (index_batch_delay <= absl::ZeroDuration())
    problems.push_back("the index batch delay is not positive");
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(problems, "; "));
}

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const StoreOptions& options,
                                                   base::FileSystem& file_system,
                                                   const base::Clock& clock,
                                                   absl::BitGenRef random) {
  RETURN_IF_ERROR(options.Validate());
  auto store = std::make_unique<StoreImpl>(options, file_system, clock, random);
  RETURN_IF_ERROR(store->OpenDirectory());
  RETURN_IF_ERROR(store->Recover());
  return store;
}

}  // namespace understudy::storage
