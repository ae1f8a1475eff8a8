// server/service.h
//
// Service is every group of a store, the exports of their volumes, and the threads that streams and timers run on. It is what
// the RPC handlers, the NBD exports and the metrics share.
//
// Threads  all methods from any thread. Open, Start with volumes and Remove go through a Gate; nothing else waits for them.
// Order    the store outlives the service. Shutdown() first, then the store may go; exports may outlive both but answer
//          kCancelled.
#ifndef UNDERSTUDY_SERVER_SERVICE_H_
#define UNDERSTUDY_SERVER_SERVICE_H_

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "server/contacts.h"
#include "server/export.h"
#include "server/group.h"
#include "server/refusal_log.h"
#include "server/stats.h"
#include "storage/base/clock.h"
#include "storage/base/event_journal.h"
#include "storage/base/file_system.h"
#include "storage/base/gate.h"
#include "storage/base/io_gate.h"
#include "storage/base/mutex.h"
#include "storage/base/request_log.h"
#include "storage/base/turn.h"
#include "storage/base/worker_pool.h"
#include "storage/store.h"

namespace understudy::server {

// As on the wire: absent and unknown are errors of their own.
enum class Mode { kMissing, kPrimary, kSecondary, kUnknown };

struct OpenOutcome {
  std::shared_ptr<Group> group;
  bool ignored = false;  // it was open already
};

class Service {
 public:
  // Takes over the groups that the store knows. `store` and `clock` outlive the service.
  // `file_system` is where a failed Start() takes back the disks that it had made, and where `state_dir` is: what is latched, and
  // the answers to request ids, outlive the process there; empty: nowhere.
  Service(storage::Store& store, const base::Clock& clock,
          base::FileSystem& file_system = base::FileSystem::Posix(), std::string state_dir = "");
  ~Service();  // Shutdown()

  // The checks of docs/semantics.md section 3, each leaving nothing behind.
  absl::StatusOr<OpenOutcome> Open(Mode mode, const storage::GroupSpec& spec,
                                   const base::Deadline& deadline);
  // With volumes in `spec`: opens the group first; when it cannot be started, forgets it again and deletes the disks that this
  // very call has created.
  // When there is no room to receive anything, it starts and warns of it.
  // kResourceExhausted when it would take so many files that the groups and clones which exist
  // could not open theirs: the connections and segments to come.
  absl::StatusOr<StartOutcome> Start(Mode mode, const storage::GroupSpec& spec,
                                     const Expected& expected, const base::Deadline& deadline);
  // `failback_mark`: as Store::Remove().
  absl::Status Remove(const std::string& group, bool force, const Expected& expected,
                      const base::Deadline& deadline,
                      std::optional<uint64_t> failback_mark = std::nullopt);

  absl::StatusOr<std::shared_ptr<Group>> FindGroup(const std::string& name) const;
  std::vector<std::shared_ptr<Group>> groups() const;  // sorted by name

  // By GROUP/VOLUME, top-id or, of a clone, GROUP@CLONE/VOLUME; kNotFound.
  absl::StatusOr<std::shared_ptr<Export>> FindExport(const std::string& name);
  // GROUP/VOLUME and top-id of every volume, sorted, then GROUP@CLONE/VOLUME of those of clones.
  std::vector<std::string> ExportNames() const;
  // What a client without an export name gets: the only volume there is, clones apart, else "".
  std::string DefaultExportName() const;

  absl::StatusOr<storage::StoreSpace> Space() const { return store_.Space(); }
  // As Group::CreateClone(). kResourceExhausted as Start().
  absl::StatusOr<storage::CloneInfo> CreateClone(Group& group, const storage::CloneSpec& spec,
                                                 const Expected& expected);

  // Ends all streams, lets running I/O of the exports end and refuses more. False when something is still at work in the
  // store, or in the state directory, after a few seconds for each of the three, such as a planned
  // stop or a request on a dead disk: the store must then not be closed.
  // Idempotent; a second call says true.
  bool Shutdown();

  const base::Clock& clock() const { return clock_; }
  base::RequestLog& requests() { return requests_; }
  // Who does I/O on a replica outside a stream and an export is inside it, so that Shutdown() waits.
  base::IoGate& io_gate() { return io_gate_; }
  base::WorkerPool& stream_pool() { return stream_pool_; }
  base::WorkerPool& timer_pool() { return timer_pool_; }
  RefusalLog& refusals() { return refusals_; }
  ServiceStats& stats() { return stats_; }
  const ServiceStats& stats() const { return stats_; }
  base::EventJournal& journal() { return journal_; }

 private:
  // So many of files_held_.
  class FileHold;

  absl::StatusOr<std::shared_ptr<Export>> FindCloneExport(const std::string& name);
  std::vector<std::string> VolumeExportNames() const;
  absl::Status CheckTopIds(const storage::GroupSpec& spec) const;
  // What the groups that are started, and their clones, may open at any time beside what they have
  // open.
  uint64_t FilesToCome() const;
  // Keeps `needed` files for a start or a clone until it has ended: of two at once neither takes
  // those of the other.
  absl::StatusOr<FileHold> HoldFiles(absl::string_view what, uint64_t needed);
  absl::StatusOr<StartOutcome> StartGroup(Group& group, Mode mode, const Expected& expected,
                                          const base::Deadline& deadline);
  absl::StatusOr<OpenOutcome> OpenLocked(Mode mode, const storage::GroupSpec& spec);
  absl::StatusOr<StartOutcome> OpenAndStart(Mode mode, const storage::GroupSpec& spec,
                                            const Expected& expected,
                                            const base::Deadline& deadline);
  absl::Status RemoveLocked(const std::shared_ptr<Group>& group, bool force,
                            const Expected& expected, const base::Deadline& deadline,
                            std::optional<uint64_t> failback_mark = std::nullopt);
  // The paths in `spec` that opening it would create.
  std::vector<std::string> MissingDisks(const storage::GroupSpec& spec) const;
  void UndoOpen(const std::shared_ptr<Group>& group, const std::vector<std::string>& created);
  std::shared_ptr<Group> MakeGroup(std::shared_ptr<storage::Replica> replica);
  void Add(const std::shared_ptr<Group>& group);
  // Stores when each agent was last heard, when that has changed; once a minute from KeepContacts()
  // on until Shutdown(). With contacts_turn_ held.
  void StoreContacts();
  void KeepContacts();
  // What is in the state directory, at the end. False: it still stands still.
  bool StoreLast();
  bool shut_down() const;

  storage::Store& store_;
  const base::Clock& clock_;
  base::FileSystem& file_system_;
  const std::string state_dir_;
  base::WorkerPool state_pool_{
      "state", 1};  // at most one task for each group, and a sync; before those who submit
  base::RequestLog requests_;
  ServiceStats stats_;
  RefusalLog refusals_;
  base::EventJournal journal_;
  base::IoGate io_gate_;
  base::Gate open_gate_;
  base::Turn files_turn_;                // from the look at what is open to what is held
  std::atomic<uint64_t> files_held_{0};  // by starts and clones at work
  base::Turn contacts_turn_;             // guards the two below
  Contacts contacts_;                    // as stored
  bool contacts_failing_ = false;

  mutable base::Mutex mutex_;
  std::map<std::string, std::shared_ptr<Group>> groups_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<Export>> exports_
      ABSL_GUARDED_BY(mutex_);  // both names of each
  // Removed ones: a late callback from storage must not be the one to destroy a replica.
  std::vector<std::shared_ptr<Group>> retired_ ABSL_GUARDED_BY(mutex_);
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;

  // Last: their threads use everything above. One stream each; a stream that waits to join holds one for at most 10 s.
  base::WorkerPool timer_pool_{"stream-timer", 1};
  base::WorkerPool stream_pool_{"stream", 1024};
  // One planned stop each, as long as it takes; contacts.
  base::WorkerPool stop_pool_{"stop", 1025};
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_SERVICE_H_
