// storage/index.h
//
// Index is the RocksDB half of a data directory: groups, overlays, how far each log is mirrored, and the extents. Keys and records:
// docs/on_disk_format.md.
//
// Order    The log is the write-ahead log of the extents: a Batch names only bytes that are synced. Batches are atomic, and
//          later ones never survive a crash that an earlier one did not.
// Dead records  Overlay ids never repeat, so the extents of a dropped overlay are dead at once; whole files of them are deleted
//          where possible, the rest goes in compactions.
// Threads  any.
// Errors   kDataLoss for a damaged index: never a silent step back (a term could go back with it).
#ifndef UNDERSTUDY_STORAGE_INDEX_H_
#define UNDERSTUDY_STORAGE_INDEX_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/turn.h"
#include "storage/extent_map.h"
#include "storage/format.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class Env;
class WriteBatch;
}  // namespace rocksdb

namespace understudy::storage {

class LiveOverlays;  // the ids that compactions must keep

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
    void Mutate(OverlayId overlay, const std::vector<ExtentMutation>& mutations);
    bool empty() const;

   private:
    friend class Index;
    Index& index_;
    std::unique_ptr<rocksdb::WriteBatch> batch_;
    std::vector<OverlayId> deleted_;
  };

  // `env` nullptr: the real one.
  static absl::StatusOr<std::unique_ptr<Index>> Open(const std::string& directory,
                                                     rocksdb::Env* env = nullptr);
  ~Index();

  // All or nothing; durable when it returns if `sync`, else with the next synced one.
  absl::Status Write(Batch batch, bool sync);
  // Makes every batch written so far durable.
  absl::Status Sync();

  absl::StatusOr<std::vector<GroupRecord>> Groups() const;
  absl::StatusOr<std::vector<std::pair<OverlayId, OverlayRecord>>> Overlays() const;
  absl::StatusOr<IndexedPosition> Position(uint64_t group, LogRole role) const;  // kNotFound
  absl::Status ForEachExtent(
      OverlayId overlay,
      const std::function<absl::Status(const ExtentKey&, const Extent&)>& visit) const;

  // A number that this data directory has never given out: overlay ids and group numbers.
  absl::StatusOr<uint64_t> NextNumber();
  // The same as an overlay id, which compactions keep from now until it is deleted.
  absl::StatusOr<OverlayId> NextOverlay();
  // Recovery: the log names an overlay that is not in the index yet; compactions keep it.
  void KeepOverlay(OverlayId id);

 private:
  Index() = default;
  absl::Status LoadLiveOverlays();

  std::shared_ptr<LiveOverlays> live_;
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> families_;  // default, extents
  base::Turn number_turn_;  // guards the two below; held over the sync that raises the limit
  uint64_t next_number_ = 0;
  uint64_t number_limit_ = 0;  // durable: numbers below it may have been given out
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_INDEX_H_
