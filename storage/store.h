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
#include <string>
#include <vector>

#include "absl/random/bit_gen_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/clock.h"
#include "storage/base/file_system.h"
#include "storage/replica.h"

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
  uint64_t index_batch_bytes = 16 << 20;    // received bytes that force a durable point
  absl::Duration index_batch_delay = absl::Milliseconds(100);  // age that forces one

  // Every problem at once; kInvalidArgument.
  absl::Status Validate() const;
};

struct StoreSpace {
  uint64_t capacity_bytes = 0;  // of the file system
  uint64_t free_bytes = 0;
  uint64_t segment_bytes = 0;       // allocated to segments in use
  uint64_t free_segment_bytes = 0;  // kept for recycling
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
  // leaving nothing behind. The same declaration again returns the group; another one under its name is
  // kAlreadyExists.
  virtual absl::StatusOr<std::shared_ptr<Replica>> Open(const GroupSpec& spec) = 0;
  virtual absl::StatusOr<std::shared_ptr<Replica>> Find(
      const std::string& group) const = 0;                         // kNotFound
  virtual std::vector<std::shared_ptr<Replica>> List() const = 0;  // sorted by name
  // Forgets the group durably; its disks stay. The caller has checked the stage and detached the stream; VM I/O on the
  // replica fails from now on.
  virtual absl::Status Remove(const std::string& group) = 0;
  virtual absl::StatusOr<StoreSpace> Space() const = 0;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_STORE_H_
