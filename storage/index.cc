#include "storage/index.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include <rocksdb/compaction_filter.h>
#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include "storage/base/log.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"

namespace understudy::storage {

// Overlays that exist, and the bound below which every id is either among them or dead.
class LiveOverlays {
 public:
  struct View {
    std::set<uint64_t> live;
    uint64_t bound = 0;
    bool Dead(uint64_t id) const { return id < bound && !live.contains(id); }
  };
  void Add(uint64_t id) {
    base::MutexLock lock(mutex_);
    view_.live.insert(id);
    view_.bound = std::max(view_.bound, id + 1);
  }
  void Remove(uint64_t id) {
    base::MutexLock lock(mutex_);
    view_.live.erase(id);
  }
  View view() const {
    base::MutexLock lock(mutex_);
    return view_;
  }

 private:
  mutable base::Mutex mutex_;
  View view_ ABSL_GUARDED_BY(mutex_);
};

namespace {

constexpr char kGroupPrefix = 'g';
constexpr char kOverlayPrefix = 'o';
constexpr char kPositionPrefix = 'p';
constexpr absl::string_view kNumberLimitKey = "n";
constexpr uint64_t kNumbersReserved = 1 << 16;

class DeadExtentFilter : public rocksdb::CompactionFilter {
 public:
  explicit DeadExtentFilter(LiveOverlays::View view) : view_(std::move(view)) {}
  const char* Name() const override { return "understudy.dead_extents"; }
  bool Filter(int, const rocksdb::Slice& key, const rocksdb::Slice&, std::string*,
              bool*) const override {
    const auto decoded = DecodeExtentKey({key.data(), key.size()});
    return decoded.ok() && view_.Dead(decoded->overlay.value());
  }

 private:
  const LiveOverlays::View view_;
};

class DeadExtentFilterFactory : public rocksdb::CompactionFilterFactory {
 public:
  explicit DeadExtentFilterFactory(std::shared_ptr<LiveOverlays> live) : live_(std::move(live)) {}
  const char* Name() const override { return "understudy.dead_extents"; }
  std::unique_ptr<rocksdb::CompactionFilter> CreateCompactionFilter(
      const rocksdb::CompactionFilter::Context&) override {
    return std::make_unique<DeadExtentFilter>(live_->view());
  }

 private:
  const std::shared_ptr<LiveOverlays> live_;
};

absl::Status FromRocks(const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat("index: ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsCorruption()) return absl::DataLossError(message);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  return absl::InternalError(message);
}

std::string OverlayKey(OverlayId id) {
  return absl::StrCat(std::string(1, kOverlayPrefix), EncodeExtentPrefix(id));
}

std::string PositionKey(uint64_t group, LogRole role) {
  return absl::StrCat(std::string(1, kPositionPrefix), EncodeExtentPrefix(OverlayId(group)),
                      std::string(1, static_cast<char>(role)));
}

std::string GroupKey(const std::string& name) {
  return absl::StrCat(std::string(1, kGroupPrefix), name);
}

absl::string_view View(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

rocksdb::Options DatabaseOptions(rocksdb::Env* env) {
  rocksdb::Options options;
  if (env != nullptr) options.env = env;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.track_and_verify_wals_in_manifest = true;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.max_total_wal_size = 64 << 20;
  options.keep_log_file_num = 4;
  options.max_background_jobs = 2;
  options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  return options;
}

}  // namespace

// ---- batch ---------------------------------------------------------------------------------------------------------------

Index::Batch::Batch(Index& index)
    : index_(index), batch_(std::make_unique<rocksdb::WriteBatch>()) {}
Index::Batch::~Batch() = default;
Index::Batch::Batch(Batch&&) noexcept = default;

void Index::Batch::PutGroup(const GroupRecord& record) {
  batch_->Put(GroupKey(record.name), Encode(record));
}
void Index::Batch::DeleteGroup(const std::string& name) { batch_->Delete(GroupKey(name)); }

void Index::Batch::PutOverlay(OverlayId id, const OverlayRecord& record) {
  batch_->Put(OverlayKey(id), Encode(record));
}

void Index::Batch::DeleteOverlay(OverlayId id) {
  batch_->Delete(OverlayKey(id));
  deleted_.push_back(id);
}

void Index::Batch::PutPosition(uint64_t group, LogRole role, const IndexedPosition& position) {
  batch_->Put(PositionKey(group, role), Encode(position));
}

void Index::Batch::DeletePositions(uint64_t group) {
  batch_->Delete(PositionKey(group, LogRole::kHidden));
  batch_->Delete(PositionKey(group, LogRole::kActive));
}

void Index::Batch::Mutate(OverlayId overlay, const std::vector<ExtentMutation>& mutations) {
  for (const ExtentMutation& mutation : mutations) {
    const std::string key = EncodeExtentKey(overlay, mutation.volume, mutation.end);
    if (mutation.extent.has_value()) {
      batch_->Put(index_.families_[1], key, Encode(*mutation.extent));
    } else {
      batch_->Delete(index_.families_[1], key);
    }
  }
}

bool Index::Batch::empty() const { return batch_->Count() == 0; }

// ---- index ---------------------------------------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<Index>> Index::Open(const std::string& directory,
                                                   rocksdb::Env* env) {
  std::unique_ptr<Index> index(new Index);
  index->live_ = std::make_shared<LiveOverlays>();
  rocksdb::ColumnFamilyOptions extents;
  extents.write_buffer_size = 16 << 20;
  extents.compaction_filter_factory = std::make_shared<DeadExtentFilterFactory>(index->live_);
  // Automatic compactions must not meet the filter before it knows which overlays live.
  extents.disable_auto_compactions = true;
  const std::vector<rocksdb::ColumnFamilyDescriptor> families = {
      {rocksdb::kDefaultColumnFamilyName, rocksdb::ColumnFamilyOptions()}, {"extents", extents}};
  rocksdb::DB* db = nullptr;
  RETURN_IF_ERROR(FromRocks(
      rocksdb::DB::Open(DatabaseOptions(env), directory, families, &index->families_, &db)));
  index->db_.reset(db);
  RETURN_IF_ERROR(index->LoadLiveOverlays());
  RETURN_IF_ERROR(
      FromRocks(db->SetOptions(index->families_[1], {{"disable_auto_compactions", "false"}})));
  return index;
}

Index::~Index() {
  if (db_ == nullptr) return;
  for (rocksdb::ColumnFamilyHandle* family : families_) db_->DestroyColumnFamilyHandle(family);
  const rocksdb::Status closed = db_->Close();
  if (!closed.ok()) base::LogError("index_not_closed").With("status", FromRocks(closed));
}

absl::Status Index::LoadLiveOverlays() {
  std::string limit;
  const rocksdb::Status found =
      db_->Get(rocksdb::ReadOptions(), std::string(kNumberLimitKey), &limit);
  if (!found.ok() && !found.IsNotFound()) return FromRocks(found);
  if (found.ok() && limit.size() != sizeof(uint64_t)) {
    return absl::DataLossError("index: damaged number record");
  }
  next_number_ = 1;
  if (found.ok()) std::memcpy(&next_number_, limit.data(), sizeof(next_number_));
  number_limit_ = next_number_;
  ASSIGN_OR_RETURN(const auto overlays, Overlays());
  for (const auto& [id, record] : overlays) live_->Add(id.value());
  return absl::OkStatus();
}

absl::Status Index::Write(Batch batch, bool sync) {
  rocksdb::WriteOptions options;
  options.sync = sync;
  RETURN_IF_ERROR(FromRocks(db_->Write(options, batch.batch_.get())));
  for (const OverlayId id : batch.deleted_) {
    live_->Remove(id.value());
    const std::string begin = EncodeExtentPrefix(id);
    const std::string end = EncodeExtentPrefix(id.Next());
    const rocksdb::Slice begin_slice(begin);
    const rocksdb::Slice end_slice(end);
    const rocksdb::Status deleted =
        rocksdb::DeleteFilesInRange(db_.get(), families_[1], &begin_slice, &end_slice, false);
    if (!deleted.ok())
      base::LogWarning("dead_extents_not_deleted").With("status", FromRocks(deleted));
  }
  return absl::OkStatus();
}

absl::Status Index::Sync() { return FromRocks(db_->SyncWAL()); }

absl::StatusOr<std::vector<GroupRecord>> Index::Groups() const {
  std::vector<GroupRecord> groups;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions()));
  const std::string prefix(1, kGroupPrefix);
  for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    ASSIGN_OR_RETURN(GroupRecord record, DecodeGroupRecord(View(it->value())));
    groups.push_back(std::move(record));
  }
  RETURN_IF_ERROR(FromRocks(it->status()));
  return groups;
}

absl::StatusOr<std::vector<std::pair<OverlayId, OverlayRecord>>> Index::Overlays() const {
  std::vector<std::pair<OverlayId, OverlayRecord>> overlays;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions()));
  const std::string prefix(1, kOverlayPrefix);
  for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    ASSIGN_OR_RETURN(const OverlayRecord record, DecodeOverlayRecord(View(it->value())));
    std::string padded(View(it->key()).substr(1));
    if (padded.size() != 8) return absl::DataLossError("index: damaged overlay key");
    padded.resize(20);
    ASSIGN_OR_RETURN(const ExtentKey key, DecodeExtentKey(padded));
    overlays.emplace_back(key.overlay, record);
  }
  RETURN_IF_ERROR(FromRocks(it->status()));
  return overlays;
}

absl::StatusOr<IndexedPosition> Index::Position(uint64_t group, LogRole role) const {
  std::string value;
  RETURN_IF_ERROR(FromRocks(db_->Get(rocksdb::ReadOptions(), PositionKey(group, role), &value)));
  return DecodeIndexedPosition(value);
}

absl::Status Index::ForEachExtent(
    OverlayId overlay,
    const std::function<absl::Status(const ExtentKey&, const Extent&)>& visit) const {
  const std::unique_ptr<rocksdb::Iterator> it(
      db_->NewIterator(rocksdb::ReadOptions(), families_[1]));
  const std::string prefix = EncodeExtentPrefix(overlay);
  for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    ASSIGN_OR_RETURN(const ExtentKey key, DecodeExtentKey(View(it->key())));
    ASSIGN_OR_RETURN(const Extent extent, DecodeExtent(View(it->value())));
    RETURN_IF_ERROR(visit(key, extent));
  }
  return FromRocks(it->status());
}

absl::StatusOr<uint64_t> Index::NextNumber() {
  base::Turn::Hold turn(number_turn_);
  if (next_number_ == number_limit_) {
    const uint64_t limit = number_limit_ + kNumbersReserved;
    rocksdb::WriteOptions options;
    options.sync = true;
    RETURN_IF_ERROR(
        FromRocks(db_->Put(options, std::string(kNumberLimitKey),
                           rocksdb::Slice(reinterpret_cast<const char*>(&limit), sizeof(limit)))));
    number_limit_ = limit;
  }
  return next_number_++;
}

absl::StatusOr<OverlayId> Index::NextOverlay() {
  ASSIGN_OR_RETURN(const uint64_t number, NextNumber());
  live_->Add(number);
  return OverlayId(number);
}

void Index::KeepOverlay(OverlayId id) { live_->Add(id.value()); }

}  // namespace understudy::storage
