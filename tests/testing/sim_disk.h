// tests/testing/sim_disk.h
//
// SimDisk is a disk and a file system in memory with a volatile cache: the segment log, the secondary disks and, through
// SimRocksdbEnv, RocksDB live on the same one and lose power together.
//
// Power cut     file contents: sim_file.h. Each change of a directory (create, rename, remove, mkdir) is kept or lost until that
//               directory is synced; a sync of the file does not make its name durable. A rename is one change. Which
//               of the unsynced changes of a directory survive: any of them, as POSIX allows, or, below a path given to
//               OrderDirectories(), a prefix of them, as journaling file systems do it.
// kill -9       nothing is lost; a write under way may have been done in part.
// Dead process  from the fault on every I/O fails, reads too, and nothing more reaches the disk, until Restart(), before which the
//               dead process must have closed its files.
// Errors        EIO and ENOSPC on demand, the latter also at the capacity; the first sectors of a failing write may have been
//               written. A failing sync: sim_file.h.
// Reflinks      UseReflinks(): files share blocks (File::CloneFrom()), else the disk cannot. Each of them counts as used.
// Numbers       every I/O that changes something, syncs included, has a number, from 1; the hook is asked before each.
// Snapshots     copies share pages; Save() and Load() cost a pointer per page.
// Threads       any. The hook is called under the disk's lock and must not call the disk.
#ifndef UNDERSTUDY_TESTS_TESTING_SIM_DISK_H_
#define UNDERSTUDY_TESTS_TESTING_SIM_DISK_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "storage/base/file_system.h"
#include "storage/base/mutex.h"
#include "tests/testing/seed.h"
#include "tests/testing/sim_file.h"

namespace understudy::testing {

enum class SimIoKind {
  kWrite,
  kPunchHole,
  kClone,
  kTruncate,
  kSync,
  kCreate,
  kRename,
  kRemove,
  kCreateDirectory,
  kSyncDirectory,
};
const char* SimIoName(SimIoKind kind);

struct SimIo {
  uint64_t number = 0;
  SimIoKind kind = SimIoKind::kWrite;
  const std::string& path;
  uint64_t offset = 0;  // of a write
};

enum class SimFault {
  kNone,
  kPowerCut,
  kKill,
  kIoError,
  kNoSpace,
  kIgnore,  // says OK and does nothing: a sync that lies, to show what it is good for
};

class SimDisk : public base::FileSystem {
 public:
  struct State;  // all of it; immutable once saved
  using Hook = std::function<SimFault(const SimIo&)>;

  explicit SimDisk(uint64_t seed);
  ~SimDisk() override;

  // ---- faults ----------------------------------------------------------------------------------------------------------
  void SetHook(Hook hook);  // nullptr: none
  uint64_t io_count() const;
  bool dead() const;
  void CutPower();  // now, between two I/Os
  void Kill();
  // The next process: after a power cut with what survived it. REQUIRES: no open files.
  void Restart();
  void Reseed(uint64_t seed);
  void OrderDirectories(const std::string& path);
  void SetCapacity(uint64_t bytes);  // 0: none
  void UseReflinks();
  // Some writes and syncs take a while, as on a real disk: what runs beside them gets into any order.
  void TakeTime();

  // REQUIRES: no open files.
  std::shared_ptr<const State> Save() const;
  void Load(const std::shared_ptr<const State>& state);

  // ---- base::FileSystem ------------------------------------------------------------------------------------------------
  absl::StatusOr<std::unique_ptr<base::File>> Open(const std::string& path,
                                                   const base::OpenOptions& options) override;
  absl::Status CreateDirectory(const std::string& path) override;
  absl::Status SyncDirectory(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override;
  absl::Status Remove(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  bool Exists(const std::string& path) override;
  absl::StatusOr<std::string> Resolve(const std::string& path) override;
  absl::StatusOr<base::FileSystemSpace> Space(const std::string& path) override;
  bool IsDirectory(const std::string& path);

 private:
  class Handle;
  struct Inode {
    SimFile file;
    bool directory = false;
    bool locked = false;
    int open_count = 0;
  };
  using Names = std::map<std::string, uint64_t>;  // absolute path -> inode
  // The names one directory operation sets, all or none; nullopt: takes away.
  using NameChange = std::vector<std::pair<std::string, std::optional<uint64_t>>>;

  // Numbers an I/O and asks the hook. The status says how it fails; `*act` whether it is to be done nevertheless (in part,
  // where that is possible).
  absl::Status Begin(SimIoKind kind, const std::string& path, bool* act, uint64_t offset = 0)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckAlive(const std::string& path) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckParent(const std::string& path) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Inode* Find(const std::string& path) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<Inode> NewInode(bool directory, uint64_t* number)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ChangeNames(NameChange change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ResolveNames() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ForgetUnnamed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Ordered(const std::string& path) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t UsedBytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t FreeBytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void Delay() const;
  absl::Status WriteTo(Inode& inode, const std::string& path, uint64_t offset,
                       std::span<const iovec> pieces);
  absl::Status SyncInode(uint64_t number, Inode& inode, const std::string& path);
  absl::Status CloneInto(Inode& inode, const std::string& path, ByteRange range,
                         const Handle& source, uint64_t source_offset);
  absl::Status ChangeInode(SimIoKind kind, Inode& inode, const std::string& path,
                           const std::function<void(SimFile&)>& change);

  mutable base::Mutex mutex_;
  std::unique_ptr<State> state_ ABSL_GUARDED_BY(mutex_);
  Random random_ ABSL_GUARDED_BY(mutex_);
  Hook hook_ ABSL_GUARDED_BY(mutex_);
  uint64_t io_count_ ABSL_GUARDED_BY(mutex_) = 0;
  SimFault dead_ ABSL_GUARDED_BY(mutex_) = SimFault::kNone;  // of what
  std::vector<std::string> ordered_ ABSL_GUARDED_BY(mutex_);
  uint64_t capacity_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool reflinks_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<bool> takes_time_ = false;
  int open_files_ ABSL_GUARDED_BY(mutex_) = 0;
};

// "/a/b" of "/a/b/c".
std::string SimParent(const std::string& path);

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_TESTING_SIM_DISK_H_
