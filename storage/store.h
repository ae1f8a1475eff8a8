// storage/store.h
//
// Store is a data directory: VERSION, LOCK, index/ (RocksDB) and segments/, and the replicas in it.
//
// Open     takes the lock (kFailedPrecondition, naming the directory, when another process has it), checks VERSION (a newer
//          one is kFailedPrecondition and nothing is touched), opens the index, rolls every group's log forward and
//          starts unfinished commit and apply jobs.
// Close    in the destructor: jobs stop at their next window, what was received is made durable, the index is closed.
#ifndef UNDERSTUDY_STORAGE_STORE_H_
#define UNDERSTUDY_STORAGE_STORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/random/bit_gen_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/clock.h"
#include "storage/base/file_system.h"
#include "storage/base/worker_pool.h"
#include "storage/replica.h"

namespace rocksdb {
class Env;
}  // namespace rocksdb

namespace understudy::storage {

struct StoreOptions {
  std::string data_dir;  // made when missing
  std::vector<std::string>
      disk_dirs;  // secondary disks must lie under one; empty: DATA-DIR/disks, made when missing
  uint64_t segment_bytes = 64 << 20;  // size of a segment file; multiple of 4096, at least 4 MiB
  uint64_t free_segment_bytes_max = 2ULL
                                    << 30;  // recycled segments kept for reuse; more are unlinked
  bool checkpoint_durable = true;           // --durability=checkpoint|none
  uint64_t apply_bytes_per_second = 0;      // 0: no limit
  // Committed epochs kept as history instead of being applied at once: at most so many, and so many bytes changed.
  uint64_t history_epochs = 0;       // 0: no history, unless history_bytes is given
  uint64_t history_bytes = 0;        // 0: no limit but history_epochs
  uint64_t overlay_bytes_max = 0;    // of segments of one group; 0: no limit
  uint64_t overlay_bytes_total = 0;  // of all groups; 0: no limit
  // Never give overlays the space that sparse secondary disks on the data directory's file system may still need.
  bool reserve_disk_space = true;
  // Before a first sync has ended nobody can use what was received: in steps of so many bytes it goes to the secondary disks.
  uint64_t first_sync_step_bytes = 256 << 20;
  uint64_t index_batch_bytes = 16 << 20;  // received bytes that force a durable point
  absl::Duration index_batch_delay = absl::Milliseconds(100);  // age that forces one
  // A group that has been without work for so long gives back the segments that its logs would go on in.
  absl::Duration log_idle_delay = absl::Seconds(5);
  // --index-memory-max: extent maps may take 5/8 of it in memory, RocksDB's block cache 1/4, its write buffers 1/8.
  uint64_t index_memory_max = 256 << 20;

  // What a test needs to repeat a run I/O by I/O; nobody else touches these.
  rocksdb::Env* index_env = nullptr;              // nullptr: the real one
  bool index_background_io = true;                // false: RocksDB compacts nothing by itself
  std::shared_ptr<base::WorkerPool> worker_pool;  // for all work in the background, instead of the
                                                  // store's own threads; shut down with the store

  // Every problem at once; kInvalidArgument.
  absl::Status Validate() const;
};

struct StoreSpace {
  uint64_t capacity_bytes = 0;  // of the file system
  uint64_t free_bytes = 0;
  uint64_t segment_bytes = 0;       // allocated to segments in use
  uint64_t free_segment_bytes = 0;  // kept for recycling
  // Memory: what the extent maps take, what they may take, and how often a range had to be looked up in the index because it was
  // not in memory.
  uint64_t extent_memory_bytes = 0;
  uint64_t extent_memory_limit_bytes = 0;
  uint64_t extent_cold_reads = 0;
};

class Store {
 public:
  virtual ~Store() = default;

  // `file_system`, `clock` outlive the store. `random` is used during Open() only, to seed.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const StoreOptions& options,
                                                     base::FileSystem& file_system,
                                                     const base::Clock& clock,
                                                     absl::BitGenRef random);

  // Declares a group, stage NONE, durably. Checks of docs/semantics.md section 3 from the names on, in that order, each
  // leaving nothing behind; `last_check` is the caller's own, after the disks'. The same declaration again returns the group;
  // another one under its name is kAlreadyExists.
  virtual absl::StatusOr<std::shared_ptr<Replica>> Open(
      const GroupSpec& spec, absl::FunctionRef<absl::Status()> last_check) = 0;
  absl::StatusOr<std::shared_ptr<Replica>> Open(const GroupSpec& spec) {
    return Open(spec, absl::OkStatus);
  }
  virtual absl::StatusOr<std::shared_ptr<Replica>> Find(
      const std::string& group) const = 0;                         // kNotFound
  virtual std::vector<std::shared_ptr<Replica>> List() const = 0;  // sorted by name
  // Forgets the group durably; its disks stay. The caller has checked the stage and detached the stream; VM I/O on the
  // replica fails from now on. `failback_mark`: of the FailbackRegions that were taken; kAborted, and nothing is forgotten, when
  // there are more by now.
  virtual absl::Status Remove(const std::string& group,
                              std::optional<uint64_t> failback_mark = std::nullopt) = 0;
  virtual absl::StatusOr<StoreSpace> Space() const = 0;
  // Whether there is room for one more segment, without which nothing can be received:
  // kResourceExhausted, with figures and remedy, when the file system is full, or when what is kept
  // free on it for the index and for sparse secondary disks is more than is free.
  virtual absl::Status CheckRoom() const = 0;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_STORE_H_
