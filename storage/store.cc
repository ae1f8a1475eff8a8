#include "storage/store.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

#include "storage/base/log.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"
#include "storage/base/worker_pool.h"
#include "storage/index.h"
#include "storage/replica_impl.h"
#include "storage/secondary_disk.h"
#include "storage/segment_pool.h"

namespace understudy::storage {
namespace {

constexpr absl::string_view kVersionPrefix = "understudy ";
constexpr int kWriteBackThreads = 4;
constexpr int kJobThreads = 16;  // made on demand: a few stuck disks must not block the others

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
        segments_(file_system, Path("segments"), options.segment_bytes,
                  options.free_segment_bytes_max, random()),
        checker_(file_system, DiskDirs(options)) {}

  ~StoreImpl() override {
    for (const auto& [name, replica] : replicas_) replica->Close();
    jobs_.Shutdown();
    write_back_.Shutdown();
    segments_.StopRecycling();  // overlays end now without having been dropped
    replicas_.clear();
  }

  absl::Status OpenDirectory();
  absl::Status Recover();

  absl::StatusOr<std::shared_ptr<Replica>> Open(const GroupSpec& spec) override;
  absl::StatusOr<std::shared_ptr<Replica>> Find(const std::string& group) const override;
  std::vector<std::shared_ptr<Replica>> List() const override;
  absl::Status Remove(const std::string& group) override;
  absl::StatusOr<StoreSpace> Space() const override;

 private:
  static std::vector<std::string> DiskDirs(const StoreOptions& options) {
    if (!options.disk_dirs.empty()) return options.disk_dirs;
    return {absl::StrCat(options.data_dir, "/disks")};
  }
  std::string Path(absl::string_view name) const {
    return absl::StrCat(options_.data_dir, "/", name);
  }
  StoreContext Context() {
    return {options_, file_system_, clock_, *index_, segments_, write_back_, jobs_, random_};
  }
  absl::Status CheckVersion();
  absl::Status CheckNames(const GroupSpec& spec) const;
  bool SameDeclaration(const GroupRecord& record, const GroupSpec& spec) const;
  absl::StatusOr<std::vector<VolumeRecord>> CheckDisks(const GroupSpec& spec);

  const StoreOptions options_;
  base::FileSystem& file_system_;
  const base::Clock& clock_;
  SharedRandom shared_random_;
  absl::AnyInvocable<uint64_t()> random_;
  SegmentPool segments_;
  DiskChecker checker_;
  std::unique_ptr<base::File> lock_;
  std::unique_ptr<Index> index_;
  base::WorkerPool write_back_{"write-back", kWriteBackThreads};
  base::WorkerPool jobs_{"jobs", kJobThreads};
  base::Turn open_turn_;  // Open() and Remove(), one at a time
  mutable base::Mutex mutex_;
  std::map<std::string, std::shared_ptr<ReplicaImpl>> replicas_ ABSL_GUARDED_BY(mutex_);
};

absl::Status StoreImpl::CheckVersion() {
  const std::string path = Path("VERSION");
  const std::string current = absl::StrCat(kVersionPrefix, kFormatVersion, "\n");
  if (!file_system_.Exists(path)) return file_system_.WriteFileAtomically(path, current);
  ASSIGN_OR_RETURN(const std::string found, file_system_.ReadWholeFile(path));
  absl::string_view text = absl::StripSuffix(found, "\n");
  int version = 0;
  if (!absl::ConsumePrefix(&text, kVersionPrefix) || !absl::SimpleAtoi(text, &version)) {
    return absl::DataLossError(
        absl::StrCat(path, " is damaged or not of Understudy: nothing was touched"));
  }
  if (version <= kFormatVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("data directory ", options_.data_dir, " has format version ", version,
                   ", this understudyd knows up to ", kFormatVersion,
                   ": start the newer release that wrote it; nothing was touched"));
}

absl::Status StoreImpl::OpenDirectory() {
  RETURN_IF_ERROR(Annotate(file_system_.CreateDirectory(options_.data_dir), "data directory"));
  absl::StatusOr<std::unique_ptr<base::File>> lock =
      file_system_.Open(Path("LOCK"), {.create = true, .lock = true});
  if (lock.status().code() == absl::StatusCode::kFailedPrecondition) {
    return absl::FailedPreconditionError(absl::StrCat(
        "data directory ", options_.data_dir,
        " is in use by another understudyd: stop that one, or give this one its own --data-dir"));
  }
  RETURN_IF_ERROR(Annotate(lock.status(), "data directory"));
  lock_ = *std::move(lock);
  RETURN_IF_ERROR(CheckVersion());
  RETURN_IF_ERROR(file_system_.CreateDirectory(Path("segments")));
  if (options_.disk_dirs.empty()) RETURN_IF_ERROR(file_system_.CreateDirectory(Path("disks")));
  ASSIGN_OR_RETURN(index_, Index::Open(Path("index")));
  return absl::OkStatus();
}

absl::Status StoreImpl::Recover() {
  ASSIGN_OR_RETURN(const std::vector<GroupRecord> groups, index_->Groups());
  ASSIGN_OR_RETURN(const auto overlays, index_->Overlays());
  ASSIGN_OR_RETURN(const std::vector<SegmentPool::Found> found, segments_.Scan());
  std::map<std::pair<uint64_t, uint8_t>, std::vector<std::shared_ptr<Segment>>> of_log;
  std::set<uint64_t> numbers;
  for (const GroupRecord& group : groups) numbers.insert(group.number);
  for (const SegmentPool::Found& segment : found) {
    if (!numbers.contains(segment.header.group)) {
      segments_.Release(segment);
      continue;
    }
    ASSIGN_OR_RETURN(auto adopted, segments_.Adopt(segment));
    of_log[{segment.header.group, segment.header.role}].push_back(std::move(adopted));
  }
  for (const GroupRecord& group : groups) {
    std::vector<std::pair<OverlayId, OverlayRecord>> own;
    for (const auto& overlay : overlays) {
      if (overlay.second.group == group.number) own.push_back(overlay);
    }
    auto replica = std::make_shared<ReplicaImpl>(Context(), group);
    RETURN_IF_ERROR(Annotate(replica->Recover(own, std::move(of_log[{group.number, 0}]),
                                              std::move(of_log[{group.number, 1}])),
                             absl::StrCat("group ", group.name)));
    base::MutexLock lock(mutex_);
    replicas_[group.name] = std::move(replica);
  }
  base::LogInfo("store_opened")
      .With("data_dir", options_.data_dir)
      .With("groups", groups.size())
      .With("overlays", overlays.size())
      .With("segments", found.size());
  return absl::OkStatus();
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

bool StoreImpl::SameDeclaration(const GroupRecord& record, const GroupSpec& spec) const {
  if (record.volumes.size() != spec.volumes.size()) return false;
  for (size_t i = 0; i < spec.volumes.size(); ++i) {
    const VolumeRecord& known = record.volumes[i];
    const VolumeSpec& wanted = spec.volumes[i];
    const bool same_size = wanted.size_bytes == 0 || wanted.size_bytes == known.size_bytes;
    const bool same_disk =
        file_system_.Resolve(wanted.disk_path).value_or(wanted.disk_path) == known.disk_path;
    const bool same_initial = known.initial == (wanted.create ? Initial::kSync : wanted.initial);
    if (known.name != wanted.name || known.top_id != wanted.top_id || !same_size || !same_disk ||
        !same_initial) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<std::vector<VolumeRecord>> StoreImpl::CheckDisks(const GroupSpec& spec) {
  std::vector<VolumeRecord> volumes;
  std::vector<std::string> created;
  const auto undo = [&] {
    for (const std::string& path : created) file_system_.Remove(path).IgnoreError();
  };
  for (const VolumeSpec& volume : spec.volumes) {
    const bool existed = file_system_.Exists(volume.disk_path);
    absl::StatusOr<VolumeRecord> checked = checker_.Check(volume);
    if (checked.ok() && !existed) created.push_back(checked->disk_path);
    if (checked.ok()) {
      for (const VolumeRecord& other : volumes) {
        if (other.identity == checked->identity) {
          checked = absl::FailedPreconditionError(
              absl::StrCat("Block device is in use by internal backup job: ", checked->disk_path,
                           " is given to volume ", other.name, " and to volume ", volume.name));
          break;
        }
      }
    }
    if (!checked.ok()) {
      undo();
      return checked.status();
    }
    volumes.push_back(*std::move(checked));
  }
  return volumes;
}

absl::StatusOr<std::shared_ptr<Replica>> StoreImpl::Open(const GroupSpec& spec) {
  base::Turn::Hold open_turn(open_turn_);
  RETURN_IF_ERROR(CheckNames(spec));
  {
    base::MutexLock lock(mutex_);
    const auto known = replicas_.find(spec.name);
    if (known != replicas_.end()) {
      if (SameDeclaration(known->second->record(), spec)) return known->second;
      return absl::AlreadyExistsError(absl::StrCat(
          "group ", spec.name,
          " is open with other volumes: remove it first (understudyctl remove ", spec.name, ")"));
    }
  }
  GroupRecord record{.name = spec.name};
  ASSIGN_OR_RETURN(record.volumes, CheckDisks(spec));
  for (const VolumeRecord& volume : record.volumes) {
    for (const auto& other : List()) {
      for (const VolumeInfo& info : other->volumes()) {
        if (info.disk_path != volume.disk_path) continue;
        return absl::FailedPreconditionError(
            absl::StrCat("Block device is in use by internal backup job: ", volume.disk_path,
                         " belongs to volume ", other->name(), "/", info.name));
      }
    }
  }
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

absl::Status StoreImpl::Remove(const std::string& group) {
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
  RETURN_IF_ERROR(replica->Retire());
  base::LogInfo("group_removed").With("group", group);
  base::MutexLock lock(mutex_);
  replicas_.erase(group);
  return absl::OkStatus();
}

absl::StatusOr<StoreSpace> StoreImpl::Space() const {
  ASSIGN_OR_RETURN(const base::FileSystemSpace space, file_system_.Space(options_.data_dir));
  return StoreSpace{.capacity_bytes = space.capacity_bytes,
                    .free_bytes = space.free_bytes,
                    .segment_bytes = segments_.used_bytes(),
                    .free_segment_bytes = segments_.free_bytes()};
}

}  // namespace

absl::Status StoreOptions::Validate() const {
  std::vector<std::string> problems;
  if (data_dir.empty()) problems.push_back("the data directory is missing: give --data-dir");
  if (segment_bytes % kBlockBytes != 0 || segment_bytes < 4 << 20 || segment_bytes > 1ULL << 30) {
    problems.push_back(absl::StrCat("--segment-bytes ", segment_bytes,
                                    " is not a multiple of 4096 from 4 MiB to 1 GiB"));
  }
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
