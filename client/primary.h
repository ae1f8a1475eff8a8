// client/primary.h
//
// Primary is one group on the primary host: its stage, its volumes and the forwarder they share. It is what the agent's
// control service and its NBD exports stand on; it knows neither gRPC nor NBD.
//
// Stages   NONE, RUNNING, DONE; what each call does in each: docs/semantics.md section 2. The stage and the grant are stored in
//          the agent's state before they are used.
// Threads  all methods from any thread. Start, Stop and Remove run one at a time; what waits for another one gives up at its deadline, and
//          a drain under way gives way to a Stop with failover and to Shutdown.
// Errors   of replication are latched, see errors(); fenced: kFailedPrecondition with reason FENCED.
#ifndef UNDERSTUDY_CLIENT_PRIMARY_H_
#define UNDERSTUDY_CLIENT_PRIMARY_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "client/agent_state.h"
#include "client/checksum_source.h"
#include "client/failback.h"
#include "client/forwarder.h"
#include "client/resync.h"
#include "client/volume.h"
#include "storage/base/clock.h"
#include "storage/base/event_journal.h"
#include "storage/base/gate.h"
#include "storage/base/io_gate.h"
#include "storage/base/mutex.h"
#include "storage/base/request_log.h"
#include "storage/base/worker_pool.h"

namespace understudy::client {

class Differences;
class IntentCleaner;
class IntentLog;

struct PrimaryVolumeOptions {
  std::string name;
  std::string disk_path;    // empty: forward mode
  uint64_t size_bytes = 0;  // required in forward mode; 0 with a disk: its length
};

struct PrimaryOptions {
  ForwarderOptions forwarder;  // volumes and agent_id are filled in
  std::vector<PrimaryVolumeOptions> volumes;
  bool report_forward_errors = false;
  bool stop_when_fenced = true;
  // Of bitmaps of what is missing at the standby and of what is to be compared, for all volumes, half for each; beyond that it is known in
  // steps of 4 MiB. 16 MiB is enough for 256 GiB that were written everywhere.
  uint64_t dirty_map_bytes = 16 << 20;
  // Regions of 4 MiB in the write-intent log before it is cleaned under pressure: what has to be compared after a crash, at most, while
  // the standby keeps up. 16 GiB.
  uint64_t intent_regions = 4096;
  // See ForwarderOptions; where all volumes have a local disk. 48 bytes each.
  uint64_t remembered_ranges_max = 1 << 18;
  uint64_t resync_bytes_per_second = 0;  // of what is compared or sent; 0: no limit
  // Of the two ends of a pair that has ended, when this is the way back: what is compared with the standby, which is the old primary. For
  // a state directory that has seen nothing since; taken once.
  std::vector<FailbackMap> failback;
};

// As understudy.v1.SyncMode.
enum class SyncMode : uint8_t { kMissing = 1, kFull, kDeclareComplete };

class Primary : private ForwarderListener {
 public:
  // Opens the disks. `file_system`, `transport`, `checksums` (null: nothing can be compared) and `clock` outlive this.
  static absl::StatusOr<std::unique_ptr<Primary>> Create(
      PrimaryOptions options, base::FileSystem& file_system, std::unique_ptr<AgentState> state,
      Transport* transport, ChecksumSource* checksums = nullptr,
      const base::Clock& clock = base::Clock::Real());
  ~Primary() override;

  // Goes on in the stage that the state directory says. Once, before anything else.
  absl::Status Resume();
  // Lets no request of the VM in any more and waits for those under way, drains, ends the stream, and stores where it can go on:
  // in this order, so that no write can be answered that a stored resume point does not cover. All within `grace`; when that
  // is not enough a restart begins a new stream. The stage stays. Nothing may be called afterwards.
  void Shutdown(absl::Duration grace);

  struct Outcome {
    Stage stage = Stage::kNone;
    bool ignored = false;
    CheckpointResult checkpoint;  // of Checkpoint() and not ignored
  };
  // Succeeds when the secondary cannot be reached, and goes on trying; refused with FENCED it leaves the stage as it was. While
  // fenced or handed over in RUNNING, a takeover is accepted and starts anew; the VM's writes are refused until it is granted.
  absl::StatusOr<Outcome> Start(bool takeover, const base::Deadline& deadline);
  absl::StatusOr<Outcome> Checkpoint(const base::Deadline& deadline);
  // Seals the epoch at the secondary, where the orchestrator commits or abandons it.
  absl::StatusOr<Outcome> Prepare(const base::Deadline& deadline);
  // `failover`: drops what is queued, otherwise drains it; kAborted reason INCOMPLETE when the standby misses writes.
  absl::StatusOr<Outcome> Stop(bool failover, const base::Deadline& deadline);
  absl::StatusOr<Outcome> Remove(const base::Deadline& deadline);
  // See understudy.v1.Replication.Sync. Ignored when there is nothing to do. kFailedPrecondition reason NOT_RUNNING, FENCED, and for a
  // mode that the volumes cannot do; kAborted when writes were missed since the copy began that is declared complete.
  absl::StatusOr<Outcome> Sync(SyncMode mode, const base::Deadline& deadline);
  // Acknowledges the latched errors: returns those it has cleared. kFailedPrecondition, and none
  // is, while the cause of one lasts, and with reason NOT_RUNNING in stage NONE.
  absl::StatusOr<std::vector<base::LatchedError>> ClearError();
  // Begins to compare everything; returns the verify's number. Errors as Resync::StartVerify().
  absl::StatusOr<uint64_t> Verify(uint64_t bytes_per_second);

  Stage stage() const { return stage_.load(std::memory_order_acquire); }
  bool fenced() const { return fenced_.load(std::memory_order_acquire); }
  // The VM's writes are refused, in every stage, until a handshake is accepted again: the standby gave it back, or a start.
  bool handed_over() const { return handed_over_.load(std::memory_order_acquire); }
  const std::string& group() const { return forwarder_->options().group; }
  const std::string& agent_id() const { return forwarder_->options().agent_id; }
  Grant grant() const;  // none: not granted yet
  // The forwarder's, as far as it is known better.
  SyncState sync_state() const;
  const Differences& differences() const { return *differences_; }
  const Resync& resync() const { return *resync_; }
  const IntentLog* intents() const { return intents_.get(); }  // null: none is kept
  base::RequestLog& requests() { return *requests_; }
  Forwarder& forwarder() { return *forwarder_; }
  base::EventJournal& journal() { return journal_; }
  std::vector<base::LatchedError> errors() const { return forwarder_->errors().errors(); }
  const std::vector<std::unique_ptr<Volume>>& volumes() const { return volumes_; }
  // By export name `GROUP/VOLUME`; "" when there is exactly one volume. Null: none.
  Volume* FindExport(const std::string& export_name) const;
  std::string ExportName(const Volume& volume) const {
    return group() + "/" + volume.options().name;
  }

 private:
  Primary(std::unique_ptr<AgentState> state, std::vector<FailbackMap> failback,
          base::FileSystem& file_system, const base::Clock& clock);
  absl::Status OnGrant(const Grant& grant) override;
  void OnFenced(const absl::Status& status) override;
  void OnHandoverWanted() override;
  absl::Status OnHandoverTakenBack() override;
  Proof KnownOfDisks() const override;
  void OnMissed(uint32_t volume, ByteRange range) override;
  absl::Status OnUnknown() override;
  absl::Status OpenIntents(base::FileSystem& file_system, const PrimaryOptions& options);
  // Forgets what of the last end is good for one run only, and keeps the id of the write-intent
  // log.
  absl::Status BeginRun(const AgentRecord& record);
  absl::StatusOr<bool> TakeFailback();  // true: the differences are those of failback_
  absl::Status LoadDifferences(const AgentRecord& record);
  bool WasAway(const AgentRecord& record) const;
  void SuspectForward();
  void SuspectIntents(Stage stage);
  absl::Status StoreDifferences();
  absl::Status StoreDifferencesLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(store_mutex_);
  void StoreProgress();  // of the resync; what is stored already only says more
  // What the next start must know is stored, or the write-intent log removed: then nothing that is stored counts, and everything is
  // compared. An error: neither was possible.
  absl::Status KeepDifferences();
  absl::Status KeepRecord(const std::function<void(AgentRecord&)>& change);
  absl::Status BeforeWrite();
  absl::Status LoseTrackLocked(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(store_mutex_);
  // `gone`: the write-intent log; else it can be neither written nor removed.
  void LatchTrackLost(const absl::Status& why, bool gone);
  // When the write-intent log is lost or has failed: stores what is known, and makes it anew. Until
  // that can be done it is latched.
  absl::Status TakeUpTrack();
  absl::Status TakeUpTrackLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(store_mutex_);
  bool any(bool tee) const;  // volumes with, without a local disk
  // Of volumes with, without a local disk: whether any is known or suspected to differ.
  bool Differs(bool tee) const;
  // And then it is known what differs.
  absl::Status SuspectAll();
  absl::Status SuspectFormerForward(const AgentRecord& record);
  // Of another disk than that of the last run, or one that somebody has written to since, all may differ.
  absl::Status CheckDisks(const AgentRecord& record);
  std::string DisksText() const;
  // What is known of a pair that was just made.
  Proof FirstProof() const;
  void StoreProof(Proof proof);
  absl::Status SyncDisks();
  // Nothing is being written, and what differs is known: a restart needs to compare nothing.
  // `handed_over`: unless that was taken back meanwhile.
  absl::Status StoreCleanEnd(const ResumePoint& resume, bool handed_over = false);
  absl::Status DeclareComplete(const base::Deadline& deadline, Outcome& outcome);
  bool TakeCopy();
  void HandOver();
  bool BeginHandover();
  void EndHandover(const absl::StatusOr<ResumePoint>& outcome);
  void SetHandedOver(bool handed_over);
  absl::Status SetStage(Stage stage);
  void TellStage();
  void ClearErrors();
  // Why `error` is not over; empty: it is, as far as anybody can know.
  std::string CauseOf(const base::LatchedError& error) const;
  absl::Status Drain(const base::Deadline& deadline);
  absl::Status FencedError() const;
  // Drains, ends the stream and stores where it can go on, when no request was left inside.
  void EndForwarding(const base::Deadline& deadline, bool quiet);
  void SetFenced(bool fenced);

  base::FileSystem& file_system_;
  const std::unique_ptr<AgentState> state_;
  const std::vector<FailbackMap> failback_;
  base::EventJournal journal_;
  base::WorkerPool state_pool_{"state", 1};  // outlives those whose files it writes
  std::unique_ptr<base::RequestLog> requests_;
  base::IoGate gate_;  // every request of the VM passes it
  std::unique_ptr<Differences> differences_;
  // Of the volumes in forward mode: a copy was begun, and neither this agent nor its stream has begun anew since.
  std::atomic<bool> copy_begun_{false};
  std::unique_ptr<IntentLog> intents_;  // null: no tee volume
  base::Mutex
      store_mutex_;  // orders the writers of the differences' file, and what follows from one
  std::unique_ptr<Forwarder> forwarder_;
  std::vector<std::unique_ptr<Volume>> volumes_;
  base::Gate control_;          // orders Start, Stop and Remove; no request takes it
  std::atomic<int> urgent_{0};  // calls that a drain gives way to
  std::atomic<Stage> stage_{Stage::kNone};
  std::atomic<bool> fenced_{false};
  std::atomic<bool> handed_over_{false};
  std::atomic<bool> copying_{false};  // somebody mirrors the volumes in forward mode
  std::unique_ptr<Resync> resync_;
  std::unique_ptr<IntentCleaner> cleaner_;
  base::WorkerPool handover_pool_{"handover", 1};  // two tasks at most; last: they use the rest
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_PRIMARY_H_
