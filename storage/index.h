// storage/index.h
//
// Index is the RocksDB half of a data directory: groups, overlays, how far each log is mirrored, and the extents. Keys and records:
// docs/on_disk_format.md.
//
// Order    The log is the write-ahead log of the extents: a Batch names only bytes that are synced. Batches are atomic, and
//          later ones never survive a crash that an earlier one did not.
// Dead records  Overlay ids never repeat, so the extents of a dropped overlay are dead once nobody holds the overlay any more
//          (an older chain or a clone may still read them); whole files of them are deleted where possible, the rest goes in
//          compactions.
// Memory   RocksDB's write buffers get a third of what Open() is given and its block cache, index blocks included, the rest.
// Threads  any.
// Errors   kDataLoss for a damaged index: never a silent step back (a term could go back with it). Damage of its files as a
//          whole (write-ahead log, MANIFEST, the records of the groups) fails Open(); a damaged block of extents fails what
//          reads it, and nothing else: compactions stop rather than take the index down. A part that is missing, or a write-ahead
//          log that has lost what was synced, is found before anything is written: index_log.h, synced_file.h.
//          After a failed write or sync nobody knows what the write-ahead log holds: every later one fails with the same error,
//          until a restart.
#ifndef UNDERSTUDY_STORAGE_INDEX_H_
#define UNDERSTUDY_STORAGE_INDEX_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/mutex.h"
#include "storage/base/turn.h"
#include "storage/format.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class Env;
class WalFilter;
class WriteBatch;
}  // namespace rocksdb

namespace understudy::storage {

class CompactionGuard;  // keeps damage that a compaction meets from stopping every write
class LiveOverlays;     // the ids that compactions must keep
class SyncedFile;
struct ExtentEntry;
struct ExtentMutation;

struct FoundGroup {
  std::string name;
  absl::StatusOr<GroupRecord> record;
};
struct FoundOverlay {
  OverlayId id;
  absl::StatusOr<OverlayRecord> record;
};

struct FoundExtent {
  ExtentKey key;
  absl::StatusOr<Extent> extent;
};
struct FoundExtents {
  std::vector<FoundExtent> extents;  // as of one instant
  absl::Status status;               // why there are no more of them
};

class Index {
 public:
  class Batch {
   public:
    explicit Batch(Index& index);
    ~Batch();
    Batch(Batch&&) noexcept;

    void PutGroup(const GroupRecord& record);
    void DeleteGroup(const std::string& name);
    void PutOverlay(OverlayId id, const OverlayRecord& record);
    void DeleteOverlay(OverlayId id);  // and, sooner or later, its extents
    void PutPosition(uint64_t group, LogRole role, const IndexedPosition& position);
    void DeletePositions(uint64_t group);
    void PutFailbackWord(uint64_t group, const FailbackWord& word);
    void DeleteFailbackWords(uint64_t group);
    void Mutate(OverlayId overlay, const std::vector<ExtentMutation>& mutations);
    bool empty() const;

   private:
    friend class Index;
    Index& index_;
    std::unique_ptr<rocksdb::WriteBatch> batch_;
    std::vector<OverlayId> deleted_;
  };

  // A new index in `directory`, which is missing or empty; durable once that directory is synced. `env` nullptr: the real one.
  static absl::Status Create(const std::string& directory, rocksdb::Env* env = nullptr);
  // Touches nothing unless OpenReadOnly() is content. Without `background_io` nothing is compacted, and the same calls make the
  // same I/Os. `synced`, unless nullptr, outlives the index, which keeps it up.
  static absl::StatusOr<std::unique_ptr<Index>> Open(const std::string& directory,
                                                     uint64_t memory_bytes,
                                                     rocksdb::Env* env = nullptr,
                                                     bool background_io = true,
                                                     SyncedFile* synced = nullptr);
  // For looking at it: nothing is written, Write() and the Next...() calls fail. The caller has the directory's lock. kDataLoss,
  // naming what is wrong and the remedy, when a part is missing or damaged, or less can be read than was synced: by its own
  // marks, or `synced_through`.
  static absl::StatusOr<std::unique_ptr<Index>> OpenReadOnly(const std::string& directory,
                                                             rocksdb::Env* env = nullptr,
                                                             uint64_t synced_through = 0);
  ~Index();

  // All or nothing; durable when it returns if `sync`, else with the next synced one.
  absl::Status Write(Batch batch, bool sync);
  // Makes every batch written so far durable; costs nothing when that is so already.
  absl::Status Sync();

  // Each record with what its key says; a record that does not decode is kDataLoss on its own.
  absl::StatusOr<std::vector<FoundGroup>> Groups() const;
  absl::StatusOr<std::vector<FoundOverlay>> Overlays() const;
  absl::StatusOr<IndexedPosition> Position(uint64_t group, LogRole role) const;  // kNotFound
  absl::StatusOr<std::vector<FailbackWord>> FailbackWords(uint64_t group) const;
  // For verification: at most `count_max` records of `overlay`, from the first of `volume` that ends behind `offset` on, through
  // the volumes after it.
  FoundExtents FindExtents(OverlayId overlay, VolumeId volume, uint64_t offset,
                           size_t count_max) const;
  // Appends the extents of a volume that overlap `range`, in order, at most `count_max`; all as of one instant. kDataLoss for
  // records that cannot be read or contradict each other.
  absl::Status ReadExtents(OverlayId overlay, VolumeId volume, ByteRange range, size_t count_max,
                           std::vector<ExtentEntry>* entries) const;
  absl::Status ForEachExtent(
      OverlayId overlay,
      const std::function<absl::Status(const ExtentKey&, const Extent&)>& visit) const;

  // A number that this data directory has never given out: overlay ids and group numbers.
  absl::StatusOr<uint64_t> NextNumber();
  // The same as an overlay id, which compactions keep from now until it is deleted.
  absl::StatusOr<OverlayId> NextOverlay();
  // Recovery: the log names an overlay that is not in the index yet; compactions keep it.
  void KeepOverlay(OverlayId id);
  // Between the two the overlay's extents can be read, even after its record was deleted.
  void HoldExtents(OverlayId id);
  void ReleaseExtents(OverlayId id);

 private:
  Index() = default;
  absl::Status LoadLiveOverlays();
  void WriteSyncedMark(uint64_t sequence);
  void StopCompactionsIfDamaged();
  absl::Status CheckSound() const;
  absl::Status Note(absl::Status written);  // returns it
  void DeleteDeadFiles();

  std::shared_ptr<LiveOverlays> live_;
  std::shared_ptr<CompactionGuard> guard_;
  uint64_t checked_through_ = 0;                    // OpenReadOnly()'s
  std::unique_ptr<rocksdb::WalFilter> log_filter_;  // of the opening, but SetOptions() names it
  std::unique_ptr<rocksdb::DB> db_;
  SyncedFile* synced_ = nullptr;
  std::vector<rocksdb::ColumnFamilyHandle*> families_;  // default, extents
  mutable base::Mutex mutex_;
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);  // the first error of a write or a sync
  base::Turn sync_turn_;
  // A batch was written without a sync, and no Sync() began since. What an earlier process left so is durable when Open() returns.
  std::atomic<bool> unsynced_ = false;
  base::Turn number_turn_;  // guards the two below; held over the sync that raises the limit
  uint64_t next_number_ = 0;
  uint64_t number_limit_ = 0;  // durable: numbers below it may have been given out
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_INDEX_H_
