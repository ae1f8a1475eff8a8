#include "storage/index.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include <rocksdb/compaction_filter.h>
#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/listener.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/wal_filter.h>
#include <rocksdb/write_batch.h>

#include "storage/base/log.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"
#include "storage/extent_map.h"
#include "storage/index_check.h"
#include "storage/index_log.h"
#include "storage/synced_file.h"

namespace understudy::storage {

// Overlays that are recorded or held by somebody, and the bound below which every id is either among them or dead.
class LiveOverlays {
 public:
  struct View {
    std::set<uint64_t> recorded;
    std::set<uint64_t> held;
    uint64_t bound = 0;
    bool Dead(uint64_t id) const {
      return id < bound && !recorded.contains(id) && !held.contains(id);
    }
  };
  void Add(uint64_t id) {
    base::MutexLock lock(mutex_);
    view_.recorded.insert(id);
    view_.bound = std::max(view_.bound, id + 1);
  }
  void Remove(uint64_t id) {
    base::MutexLock lock(mutex_);
    if (view_.recorded.erase(id) > 0 && !view_.held.contains(id)) dead_.push_back(id);
  }
  void Hold(uint64_t id) {
    base::MutexLock lock(mutex_);
    view_.held.insert(id);
  }
  void Release(uint64_t id) {
    base::MutexLock lock(mutex_);
    if (view_.held.erase(id) > 0 && !view_.recorded.contains(id)) dead_.push_back(id);
  }
  // Those that died since the last call.
  std::vector<uint64_t> TakeDead() {
    base::MutexLock lock(mutex_);
    return std::exchange(dead_, {});
  }
  View view() const {
    base::MutexLock lock(mutex_);
    return view_;
  }

 private:
  mutable base::Mutex mutex_;
  View view_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> dead_ ABSL_GUARDED_BY(mutex_);
};

class CompactionGuard : public rocksdb::EventListener {
 public:
  void OnBackgroundError(rocksdb::BackgroundErrorReason reason, rocksdb::Status* status) override {
    if (reason != rocksdb::BackgroundErrorReason::kCompaction || !status->IsCorruption()) return;
    *status = rocksdb::Status::OK();  // its inputs stay as they are: nothing is lost by going on
    if (!damaged_.exchange(true)) news_.store(true);
  }
  // After a failed write the index is broken until a restart (Note()). RocksDB's own recovery would
  // only run beside the end of the database, and leave memory behind.
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason reason, rocksdb::Status,
                            bool* recovers) override {
    using Reason = rocksdb::BackgroundErrorReason;
    if (reason == Reason::kWriteCallback || reason == Reason::kMemTable) *recovers = false;
  }
  bool TakeNews() { return news_.load() && news_.exchange(false); }

 private:
  std::atomic<bool> damaged_ = false;
  std::atomic<bool> news_ = false;
};

namespace {

constexpr char kGroupPrefix = 'g';
constexpr char kOverlayPrefix = 'o';
constexpr char kPositionPrefix = 'p';
constexpr char kFailbackPrefix = 'f';
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

std::string FailbackPrefix(uint64_t group) {
  return absl::StrCat(std::string(1, kFailbackPrefix), EncodeExtentPrefix(OverlayId(group)));
}

absl::string_view View(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

constexpr uint64_t kRocksBufferBytesMin = 1 << 20;

rocksdb::Options DatabaseOptions(rocksdb::Env* env, uint64_t memory_bytes, bool background_io) {
  rocksdb::Options options;
  if (background_io) {
    options.db_write_buffer_size = std::max(memory_bytes / 3, 2 * kRocksBufferBytesMin);
  }
  if (env != nullptr) options.env = env;
  options.disable_auto_compactions = !background_io;
  if (!background_io) options.max_file_opening_threads = 1;
  options.track_and_verify_wals_in_manifest = true;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
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

void Index::Batch::PutFailbackWord(uint64_t group, const FailbackWord& word) {
  const std::string key = EncodeExtentKey(OverlayId(group), word.volume, word.word);
  batch_->Put(absl::StrCat(std::string(1, kFailbackPrefix), key), EncodeFailbackBits(word.bits));
}

void Index::Batch::DeleteFailbackWords(uint64_t group) {
  batch_->DeleteRange(FailbackPrefix(group), FailbackPrefix(group + 1));
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

absl::Status Index::Create(const std::string& directory, rocksdb::Env* env) {
  rocksdb::Options options = DatabaseOptions(env, 0, /*background_io=*/false);
  options.create_if_missing = true;
  options.error_if_exists = true;
  options.create_missing_column_families = true;
  const std::vector<rocksdb::ColumnFamilyDescriptor> descriptors = {
      {rocksdb::kDefaultColumnFamilyName, rocksdb::ColumnFamilyOptions()},
      {kExtentsFamily, rocksdb::ColumnFamilyOptions()}};
  std::vector<rocksdb::ColumnFamilyHandle*> families;
  rocksdb::DB* made = nullptr;
  RETURN_IF_ERROR(Annotate(
      FromRocks(rocksdb::DB::Open(options, directory, descriptors, &families, &made)), directory));
  const std::unique_ptr<rocksdb::DB> db(made);
  for (rocksdb::ColumnFamilyHandle* family : families) db->DestroyColumnFamilyHandle(family);
  return Annotate(FromRocks(db->Close()), directory);
}

absl::StatusOr<std::unique_ptr<Index>> Index::Open(const std::string& directory,
                                                   uint64_t memory_bytes, rocksdb::Env* env,
                                                   bool background_io, SyncedFile* synced) {
  // To open it for writing makes what is read of its log the truth, and leaves files even where it fails.
  ASSIGN_OR_RETURN(auto checked,
                   OpenReadOnly(directory, env, synced == nullptr ? 0 : synced->Read()));
  std::unique_ptr<Index> index(new Index);
  index->log_filter_ = ReadThrough(checked->checked_through_);
  checked = nullptr;
  index->live_ = std::make_shared<LiveOverlays>();
  rocksdb::ColumnFamilyOptions extents;
  extents.write_buffer_size =
      std::clamp<uint64_t>(memory_bytes / 6, kRocksBufferBytesMin, 16 << 20);
  rocksdb::BlockBasedTableOptions tables;
  tables.block_cache =
      rocksdb::NewLRUCache(std::max(memory_bytes - memory_bytes / 3, kRocksBufferBytesMin));
  tables.cache_index_and_filter_blocks = true;
  extents.table_factory.reset(rocksdb::NewBlockBasedTableFactory(tables));
  extents.compaction_filter_factory = std::make_shared<DeadExtentFilterFactory>(index->live_);
  // Automatic compactions must not meet the filter before it knows which overlays live.
  extents.disable_auto_compactions = true;
  rocksdb::Options options = DatabaseOptions(env, memory_bytes, background_io);
  const std::vector<rocksdb::ColumnFamilyDescriptor> families = {
      {rocksdb::kDefaultColumnFamilyName, rocksdb::ColumnFamilyOptions(options)},
      {kExtentsFamily, extents}};
  rocksdb::DB* db = nullptr;
  index->guard_ = std::make_shared<CompactionGuard>();
  options.listeners.push_back(index->guard_);
  options.wal_filter = index->log_filter_.get();
  RETURN_IF_ERROR(
      Annotate(FromRocks(rocksdb::DB::Open(options, directory, families, &index->families_, &db)),
               directory));
  index->db_.reset(db);
  RETURN_IF_ERROR(Annotate(index->LoadLiveOverlays(), directory));
  if (synced != nullptr) synced->Begin(db->GetLatestSequenceNumber());
  index->synced_ = synced;
  if (!background_io) return index;
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
  for (const FoundOverlay& overlay : overlays) live_->Add(overlay.id.value());
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Index>> Index::OpenReadOnly(const std::string& directory,
                                                           rocksdb::Env* env,
                                                           uint64_t synced_through) {
  std::unique_ptr<Index> index(new Index);
  index->live_ = std::make_shared<LiveOverlays>();
  ASSIGN_OR_RETURN(index->checked_through_,
                   OpenChecked(DatabaseOptions(env, 0, /*background_io=*/false), directory,
                               synced_through, &index->families_, &index->db_));
  RETURN_IF_ERROR(Annotate(index->LoadLiveOverlays(), directory));
  RETURN_IF_ERROR(Annotate(index->Groups().status(), directory));
  return index;
}

// Not in the callback itself: it runs inside RocksDB.
void Index::StopCompactionsIfDamaged() {
  if (guard_ == nullptr || !guard_->TakeNews()) return;
  base::LogError("index_damaged")
      .With("consequence",
            "compactions stop until a restart: scrub the groups, remove the damaged ones");
  for (rocksdb::ColumnFamilyHandle* family : families_) {
    const rocksdb::Status stopped = db_->SetOptions(family, {{"disable_auto_compactions", "true"}});
    if (!stopped.ok()) base::LogError("compactions_not_stopped").With("status", FromRocks(stopped));
  }
}

absl::Status Index::CheckSound() const {
  base::MutexLock lock(mutex_);
  return broken_;
}

absl::Status Index::Note(absl::Status written) {
  if (written.ok()) return written;
  base::MutexLock lock(mutex_);
  if (broken_.ok()) broken_ = written;
  return written;
}

absl::Status Index::Write(Batch batch, bool sync) {
  StopCompactionsIfDamaged();
  RETURN_IF_ERROR(CheckSound());
  rocksdb::WriteOptions options;
  options.sync = sync;
  // Sequence numbers up to this one are in the log before the end of this batch, whatever others write beside it.
  const uint64_t sequence = db_->GetLatestSequenceNumber() + batch.batch_->Count();
  // Whoever has read the batch must not find that there is nothing to sync; set again below for a Sync() that came before it.
  if (!sync) unsynced_.store(true);
  RETURN_IF_ERROR(Note(FromRocks(db_->Write(options, batch.batch_.get()))));
  if (sync) {
    WriteSyncedMark(sequence);
    if (synced_ != nullptr) synced_->Write(sequence);
  } else {
    unsynced_.store(true);
  }
  for (const OverlayId id : batch.deleted_) live_->Remove(id.value());
  DeleteDeadFiles();
  return absl::OkStatus();
}

// What was synced stays so if this fails; what comes after it fails.
void Index::WriteSyncedMark(uint64_t sequence) {
  rocksdb::WriteBatch mark;
  mark.PutLogData(EncodeSyncedMark(sequence));
  Note(FromRocks(db_->Write(rocksdb::WriteOptions(), &mark))).IgnoreError();
}

void Index::DeleteDeadFiles() {
  for (const uint64_t id : live_->TakeDead()) {
    const std::string begin = EncodeExtentPrefix(OverlayId(id));
    const std::string end = EncodeExtentPrefix(OverlayId(id + 1));
    const rocksdb::Slice begin_slice(begin);
    const rocksdb::Slice end_slice(end);
    const rocksdb::Status deleted =
        rocksdb::DeleteFilesInRange(db_.get(), families_[1], &begin_slice, &end_slice, false);
    if (!deleted.ok())
      base::LogWarning("dead_extents_not_deleted").With("status", FromRocks(deleted));
  }
}

// Not SyncWAL(): beside a write that has just failed it runs into an assertion of RocksDB's and ends the process.
absl::Status Index::Sync() {
  base::Turn::Hold sync_turn(
      sync_turn_);  // who finds nothing to do must not return before whoever does it
  RETURN_IF_ERROR(CheckSound());
  if (!unsynced_.exchange(false)) return absl::OkStatus();
  Batch batch(*this);
  batch.batch_->PutLogData("sync");
  return Write(std::move(batch), /*sync=*/true);
}

absl::StatusOr<std::vector<FoundGroup>> Index::Groups() const {
  std::vector<FoundGroup> groups;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions()));
  const std::string prefix(1, kGroupPrefix);
  for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    FoundGroup found{.name = std::string(View(it->key()).substr(prefix.size())),
                     .record = DecodeGroupRecord(View(it->value()))};
    if (found.record.ok() && found.record->name != found.name) {
      found.record = absl::DataLossError("index: a group record lies under another group's key");
    }
    groups.push_back(std::move(found));
  }
  RETURN_IF_ERROR(FromRocks(it->status()));
  return groups;
}

absl::StatusOr<std::vector<FoundOverlay>> Index::Overlays() const {
  std::vector<FoundOverlay> overlays;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions()));
  const std::string prefix(1, kOverlayPrefix);
  for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    std::string padded(View(it->key()).substr(1));
    if (padded.size() != 8) return absl::DataLossError("index: damaged overlay key");
    padded.resize(20);
    ASSIGN_OR_RETURN(const ExtentKey key, DecodeExtentKey(padded));
    overlays.push_back({.id = key.overlay, .record = DecodeOverlayRecord(View(it->value()))});
  }
  RETURN_IF_ERROR(FromRocks(it->status()));
  return overlays;
}

absl::StatusOr<std::vector<FailbackWord>> Index::FailbackWords(uint64_t group) const {
  std::vector<FailbackWord> words;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions()));
  const std::string prefix = FailbackPrefix(group);
  for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    ASSIGN_OR_RETURN(const ExtentKey key, DecodeExtentKey(View(it->key()).substr(1)));
    ASSIGN_OR_RETURN(const uint64_t bits, DecodeFailbackBits(View(it->value())));
    words.push_back({.volume = key.volume, .word = key.end, .bits = bits});
  }
  RETURN_IF_ERROR(FromRocks(it->status()));
  return words;
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

FoundExtents Index::FindExtents(OverlayId overlay, VolumeId volume, uint64_t offset,
                                size_t count_max) const {
  FoundExtents found;
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, families_[1]));
  const std::string prefix = EncodeExtentPrefix(overlay);
  for (it->Seek(EncodeExtentKey(overlay, volume, offset + 1));
       it->Valid() && it->key().starts_with(prefix) && found.extents.size() < count_max;
       it->Next()) {
    const absl::StatusOr<ExtentKey> key = DecodeExtentKey(View(it->key()));
    if (!key.ok()) {
      found.status = key.status();
      return found;
    }
    found.extents.push_back({.key = *key, .extent = DecodeExtent(View(it->value()))});
  }
  found.status = FromRocks(it->status());
  return found;
}

absl::Status Index::ReadExtents(OverlayId overlay, VolumeId volume, ByteRange range,
                                size_t count_max, std::vector<ExtentEntry>* entries) const {
  if (range.empty()) return absl::OkStatus();
  // Keys are ends, and no record crosses a region's bound.
  const std::string first = EncodeExtentKey(overlay, volume, range.start + 1);
  const std::string bound = EncodeExtentKey(overlay, volume, RoundUp(range.end, kRegionBytes) + 1);
  const rocksdb::Slice bound_slice(bound);
  rocksdb::ReadOptions options;
  options.iterate_upper_bound = &bound_slice;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, families_[1]));
  uint64_t previous_end = 0;
  for (it->Seek(first); it->Valid() && count_max > 0; it->Next(), --count_max) {
    ASSIGN_OR_RETURN(const ExtentKey key, DecodeExtentKey(View(it->key())));
    ASSIGN_OR_RETURN(const Extent extent, DecodeExtent(View(it->value())));
    RETURN_IF_ERROR(CheckExtent(key.end, extent, kVolumeBytesMax));
    const ByteRange held = {extent.start, key.end};
    if (held.start < previous_end || held.start / kRegionBytes != (held.end - 1) / kRegionBytes) {
      return absl::DataLossError(
          absl::StrCat("index: the extent record of ", held.ToString(), " contradicts others"));
    }
    if (held.start >= range.end) break;
    previous_end = held.end;
    entries->push_back({held, extent});
  }
  return FromRocks(it->status());
}

absl::StatusOr<uint64_t> Index::NextNumber() {
  base::Turn::Hold turn(number_turn_);
  if (next_number_ == number_limit_) {
    const uint64_t limit = number_limit_ + kNumbersReserved;
    Batch batch(*this);
    batch.batch_->Put(std::string(kNumberLimitKey),
                      rocksdb::Slice(reinterpret_cast<const char*>(&limit), sizeof(limit)));
    RETURN_IF_ERROR(Write(std::move(batch), /*sync=*/true));
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
void Index::HoldExtents(OverlayId id) { live_->Hold(id.value()); }
void Index::ReleaseExtents(OverlayId id) { live_->Release(id.value()); }

}  // namespace understudy::storage
