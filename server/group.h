// server/group.h
//
// Group is what a replica may do and when: the stages of docs/semantics.md section 1 around one storage::Replica, its latched
// errors, the one write stream that may be attached to it, and who may attach.
//
// Threads  all methods from any thread. Start, a planned Stop, Remove and the second half of a handshake go through a Gate, one
//          at a time, each held across the replica's I/O. A failover takes no gate and waits for the index only, never for a
//          stream or another call that is stuck in file I/O; whom it overtakes finds the new stage. Getters never wait.
// Errors   texts and codes of docs/semantics.md; kDeadlineExceeded when another control call is stuck; reason FENCED with
//          the current term for a wrong incarnation, term or agent.
// Durable  what the replica promises for each call. Latched errors are in their file within a second; counters live in memory.
#ifndef UNDERSTUDY_SERVER_GROUP_H_
#define UNDERSTUDY_SERVER_GROUP_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "server/group_status.h"
#include "server/stage_table.h"
#include "server/stats.h"
#include "server/stream_types.h"
#include "storage/base/clock.h"
#include "storage/base/deadline.h"
#include "storage/base/error_file.h"
#include "storage/base/error_log.h"
#include "storage/base/event_journal.h"
#include "storage/base/gate.h"
#include "storage/base/mutex.h"
#include "storage/base/operation.h"
#include "storage/base/worker_pool.h"
#include "storage/replica.h"

namespace understudy::server {

class StreamSession;

// What the caller believes the pairing to be; a delayed call must not hit a re-paired group.
struct Expected {
  Incarnation incarnation;  // none(): not checked
  Term term;                // 0: not checked
};

struct StartOutcome {
  Stage stage = Stage::kNone;
  bool ignored = false;
  Incarnation incarnation;
  Term term;
  std::string warning = {};  // it has started, and nothing will come of it: why. Empty: none
};

struct CheckpointAnswer {
  Stage stage = Stage::kNone;
  bool ignored = false;
  storage::CheckpointResult result;  // all zero when ignored
};

struct ErrorReport {
  Stage stage = Stage::kNone;
  std::vector<base::LatchedError> errors;
  absl::Duration disconnected;  // GroupStatus::disconnected()
};

struct StopCommand {
  bool failover = false;
  bool received = false;
  std::optional<Epoch> epoch;   // absent: the newest; excludes `received`
  bool force = false;           // an older epoch also while a VM is connected
  bool after_handover = false;  // a failover only if the primary has handed over
  Expected expected;
};

struct StopOutcome {
  Stage stage = Stage::kNone;
  bool ignored = false;
  Epoch epoch;  // the newest committed one after the call
  Term term;
};

struct HistoryReport {
  Stage stage = Stage::kNone;
  std::vector<storage::EpochInfo> epochs;  // newest first
};

class Group final : public storage::ReplicaListener, public std::enable_shared_from_this<Group> {
 public:
  // Listens to the replica from now on, until Detach(). `clock`, `service_stats` and `journal`, which is told what happens, outlive
  // the group; `stop_pool` is used by Stop() only, one thread for each planned stop at work. `error_file` may be null: then a
  // restart forgets what was latched.
  static std::shared_ptr<Group> Make(std::shared_ptr<storage::Replica> replica,
                                     const base::Clock& clock, ServiceStats& service_stats,
                                     base::EventJournal& journal, base::WorkerPool& stop_pool,
                                     std::shared_ptr<base::ErrorFile> error_file = nullptr);
  ~Group() override;

  const std::string& name() const { return replica_->name(); }
  const std::vector<storage::VolumeInfo>& volumes() const { return replica_->volumes(); }
  storage::Replica& replica() const { return *replica_; }

  // ---- control calls; may block until `deadline` ----------------------------------------------------------------------

  absl::StatusOr<StartOutcome> Start(bool secondary, const Expected& expected,
                                     const base::Deadline& deadline);
  // With a stream attached: asks the agent for a marker and waits for its commit; when the stream goes away before the marker
  // has come, or without one, commits what was received.
  // What was begun when the deadline passes goes on; the next call of the same `request_id` waits for it, not for another one.
  absl::StatusOr<CheckpointAnswer> Checkpoint(const Expected& expected,
                                              const base::Deadline& deadline,
                                              const std::string& request_id = "");
  // Whether a call of this id has begun a checkpoint and not waited for its end.
  bool CheckpointAtWork(const std::string& request_id) const;
  // The second step of a lock-step checkpoint, and the way out of it. The first is the agent's: a PREPARE in the stream.
  absl::StatusOr<CheckpointAnswer> CommitPrepared(Epoch epoch, const Expected& expected);
  absl::StatusOr<CheckpointAnswer> AbandonPrepared(const Expected& expected);
  absl::StatusOr<ErrorReport> GetError() const;
  // Acknowledges the latched errors; returns those it has cleared, durably. kFailedPrecondition,
  // and none is, while the cause of one lasts. Of the file system: they are cleared, but a restart
  // brings them back unless they are stored before; calling again tries to.
  absl::StatusOr<ErrorReport> ClearError(const Expected& expected);
  // Begins one, or finds one running; its number. When it ends clean, DATA_LOSS errors from before it are cleared.
  absl::StatusOr<uint64_t> Scrub(const storage::ScrubOptions& options, const Expected& expected);
  // A planned stop that is not done at `deadline` goes on, kDeadlineExceeded says so; calling again waits for the same one.
  absl::StatusOr<StopOutcome> Stop(const StopCommand& command, const base::Deadline& deadline);
  // Of the secondary disks' failback map; kFailedPrecondition unless DONE.
  absl::StatusOr<storage::FailbackRegions> Failback() const { return replica_->Failback(); }
  // Whether the group may go, once the call that is at work on it has ended: for who must not wait for that in Remove().
  absl::Status AwaitRemovable(bool force, const Expected& expected, const base::Deadline& deadline);
  // Checks that the group may go, ends its stream, calls `forget` (the store's half) and, when that succeeds, detaches.
  absl::Status Remove(bool force, const Expected& expected, const base::Deadline& deadline,
                      const std::function<absl::Status()>& forget);
  // What an earlier process knew: silence and lag are counted from there. Nothing else is known of
  // a group that was bound to an agent than that it has been silent since this process started.
  // Before the first stream.
  void RestoreContact(absl::Time last_contact);
  GroupStatus Status() const;

  // ---- the hand-over: server/group_handover.cc -------------------------------------------------------------------------

  // Asks the attached agent to write no more, to drain and to end its stream with a HANDOVER. OK: that is committed, durably, and
  // the standby can take over without loss; also when it was so before. kUnavailable without an agent, kAborted while INCOMPLETE;
  // after kDeadlineExceeded or a stream that was lost on the way it may still come, and the repeated call says so.
  absl::Status HandOver(const base::Deadline& deadline);
  // The agent that has handed over may write again. OK when none has.
  absl::Status TakeBackHandover(const base::Deadline& deadline);

  // ---- point in time: server/group_history.cc --------------------------------------------------------------------------

  HistoryReport History() const;
  // Epoch 0 in `spec`: the newest checkpoint. Returns the clone as it was made.
  absl::StatusOr<storage::CloneInfo> CreateClone(storage::CloneSpec spec, const Expected& expected);
  absl::Status RemoveClone(const std::string& clone, const Expected& expected);
  // A client has opened one of the group's own exports: waits while a failover goes back to an older epoch, so that nobody
  // sees both. And has closed it.
  void OnConnect();
  void OnDisconnect();

  // Files that are open: of VMs, one for each volume at most, and of the stream.
  uint64_t ConnectionFiles() const;

  // Ends the stream with `status`, waits until its storage thread is out of the replica, and listens no more. For Remove and
  // shutdown. False when a stream is stuck in the replica, at `deadline` at the latest.
  bool Detach(const absl::Status& status, const base::Deadline& deadline);
  // Waits for a planned stop that is at work; false when it is not done at `deadline`.
  bool AwaitPlannedStop(const base::Deadline& deadline);

  // ---- the write stream -----------------------------------------------------------------------------------------------

  struct Joined {
    HandshakeReply reply;
    uint64_t committed_bytes = 0;  // of reply.committed_epoch, when known
    uint64_t committed_duration_micros = 0;
  };
  // Checks the handshake, binds the agent, ends an older stream and waits until it is out of the replica, then makes `session`
  // the group's stream. Called on the session's storage thread.
  absl::StatusOr<Joined> Join(const Handshake& handshake,
                              const std::shared_ptr<StreamSession>& session);
  // The session's storage thread has left the replica; `joined`: its Join() succeeded.
  void Leave(StreamSession& session, bool joined, const absl::Status& status);

  // Whether somebody with this grant is still the primary: kFailedPrecondition with reason NOT_RUNNING or FENCED, as a handshake.
  absl::Status CheckPrimary(const Incarnation& incarnation, Term term);

  // The callback for Append() of a frame that ends in a CHECKPOINT, or a HANDOVER, with this sequence.
  storage::CheckpointCallback BeginMarker(uint64_t stream_id, uint64_t sequence,
                                          bool handover = false);
  // The same for a PREPARE; that it is prepared is told from the replica's state.
  storage::CheckpointCallback BeginPrepare(uint64_t stream_id, uint64_t sequence);
  void OnFrameTaken(uint64_t payload_bytes, uint64_t operations);
  void OnResyncComplete();
  // A frame was not taken: counts, and latches what docs/semantics.md says latches. `operations`: of the frame, when they could be
  // read.
  void OnWriteRefused(uint64_t first_sequence, const absl::Status& status,
                      std::span<const Operation> operations = {});
  // An INCOMPLETE operation was taken: the primary has skipped writes, first of all the one that it names.
  void OnWriteSkipped(const Operation& incomplete);

  // ---- from the disk side and the background --------------------------------------------------------------------------

  void Latch(std::optional<VolumeId> volume, const std::string& operation, ByteRange range,
             const absl::Status& status);
  void OnBackgroundError(const storage::BackgroundError& error) override;
  void OnChange() override;
  void OnScrubEnded(const storage::ScrubState& result) override;
  void OnStage(Stage stage, Term term) override;
  void OnCommitted(const storage::CheckpointResult& result) override;
  void OnIncomplete(bool incomplete) override;
  void OnHandover(bool handed_over) override;
  void OnJob(absl::string_view kind, const std::optional<absl::Status>& ended) override;
  // Brings what was latched to its file now; for shutdown.
  void StoreErrors();

  const GroupStats& stats() const { return stats_; }
  GroupStats& stats() { return stats_; }
  IoStats& io_stats(VolumeId volume) { return *io_stats_[volume.value()]; }

 private:
  static constexpr absl::Duration kEvictTimeout = absl::Seconds(10);

  // One Checkpoint call that waits for a marker.
  struct MarkerWaiter {
    uint64_t first_marker =
        0;  // any marker from this one on answers it; 0: a checkpoint of what was received
    bool handover = false;  // any HANDOVER answers it, and nothing else
    bool stream_lost = false;
    std::optional<absl::StatusOr<storage::CheckpointResult>> result;
  };
  struct Marker {
    uint64_t number = 0;  // 0: RequestCheckpoint, without a marker
    uint64_t stream_id = 0;
    uint64_t sequence = 0;
    bool handover = false;
  };
  class MarkerTicket;
  struct PlannedStop {
    std::optional<absl::StatusOr<StopOutcome>> outcome;
  };

  Group(std::shared_ptr<storage::Replica> replica, const base::Clock& clock,
        ServiceStats& service_stats, base::EventJournal& journal, base::WorkerPool& stop_pool,
        std::shared_ptr<base::ErrorFile> error_file);

  void NoteFenced(const absl::Status& status);
  absl::Status CheckExpected(const Expected& expected) const;
  // What the stage table says: whether the call is ignored; or its refusal, in QEMU's words, with
  // the group and what to do behind them.
  absl::StatusOr<bool> Decide(Verb verb, Stage stage) const;
  // The same of the stage as it is, for who expects this pairing.
  absl::StatusOr<bool> Ask(Verb verb, const Expected& expected) const;
  uint64_t MarkErrors();
  void ClearErrorsBefore(uint64_t mark);
  // Why `error` is not over; empty: it is, as far as anybody can know.
  std::string CauseOf(const base::LatchedError& error, const storage::ReplicaState& state) const;
  // Of which run of the group the errors are: a Start or Stop begins another.
  std::string ErrorEra() const;
  void RestoreErrors();
  void ForgetErrors();  // with the group, which another one of that name may follow
  void ErrorsChanged();
  // The volume of an operation that came over the wire, when it has one and lies in it.
  std::optional<VolumeId> VolumeOf(const Operation& operation) const;
  // Why no checkpoint can commit: says which extents are missing, as far as it is known here.
  absl::Status IncompleteError() const;
  // `status`, or IncompleteError() if that is what it says.
  absl::Status Explain(const absl::Status& status) const;
  StopOutcome StopOutcomeNow(bool ignored) const;
  absl::StatusOr<StopOutcome> Failover(const StopCommand& command);
  // Holds off new connections until the counterpart is called, when the command names an epoch.
  storage::FailoverOptions BeginFailover(const StopCommand& command);
  void EndFailover(const storage::FailoverOptions& options);
  // The planned stop to wait for; nullptr: ignored.
  absl::StatusOr<std::shared_ptr<PlannedStop>> BeginStop(const Expected& expected,
                                                         const base::Deadline& deadline);
  absl::StatusOr<StopOutcome> RunStop();
  // The replica takes no more writes: tells the streams.
  StopOutcome EndReplication(absl::string_view why);

  // Begins a checkpoint at the stream's next marker, or of what was received.
  std::shared_ptr<MarkerWaiter> AwaitMarker(StreamSession& session);
  std::shared_ptr<MarkerWaiter> RequestCommit();
  // Its result; nothing when the stream was lost before its marker came. An error when the wait ended in vain: `waiter` goes on.
  absl::StatusOr<std::optional<storage::CheckpointResult>> Await(
      const std::shared_ptr<MarkerWaiter>& waiter, const base::Deadline& deadline);
  std::shared_ptr<MarkerWaiter> TakeGivenUp(const std::string& request_id);
  void KeepGivenUp(const std::string& request_id, const std::shared_ptr<MarkerWaiter>& waiter);
  absl::Status AwaitHandover(const std::shared_ptr<StreamSession>& stream,
                             const base::Deadline& deadline);
  void FailHandoverWaiters(const absl::Status& status);
  void OnCheckpointDone(const Marker& marker,
                        const absl::StatusOr<storage::CheckpointResult>& result);
  // To the stream, and to whoever looks.
  void TellCommitted(const Marker& marker, const storage::CheckpointResult& result);
  // The marker's frame was not taken: there will be no outcome.
  void OnMarkerDropped(const Marker& marker);
  // Whether a marker that would answer `waiter` has come and has no outcome yet.
  bool MarkerPendingLocked(const MarkerWaiter& waiter) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Status HandedOverError() const;
  absl::Status CheckTakesWrites(const storage::ReplicaState& state) const;
  // `caller` is what the error begins with, behind the group: "agent a writes".
  absl::Status CheckGrant(const std::string& caller, const Incarnation& incarnation, Term term,
                          const storage::ReplicaState& state) const;
  void CountFenced(const absl::Status& status);
  absl::Status CheckHandshake(const Handshake& handshake, const storage::ReplicaState& state) const;
  absl::StatusOr<std::vector<uint32_t>> MatchVolumes(const Handshake& handshake) const;
  absl::StatusOr<Joined> TryJoin(const Handshake& handshake,
                                 const std::shared_ptr<StreamSession>& session);
  // Checks the handshake and binds the agent; the reply's volume ids are set.
  absl::StatusOr<HandshakeReply> Admit(const Handshake& handshake);
  // Ends the group's stream, and waits for every earlier one to be out of the replica. kUnavailable
  // when one is stuck at `deadline`. `successor`: the agent that makes room for itself; a stream of
  // any other is fenced instead of being told `status`.
  absl::Status EvictStreams(const absl::Status& status, const base::Deadline& deadline,
                            const std::string& successor = "");
  // Nothing: another stream joined meanwhile, evict it first.
  absl::StatusOr<std::optional<Joined>> Attach(const Handshake& handshake, HandshakeReply reply,
                                               const std::shared_ptr<StreamSession>& session);

  std::shared_ptr<StreamSession> session() const;
  // Takes the stream, and one that is being attached, away from the group; waiters for a marker learn of it.
  std::vector<std::shared_ptr<StreamSession>> TakeStreams(const absl::Status& why);
  void LoseStreamLocked(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string VolumeName(std::optional<VolumeId> volume) const;

  const std::shared_ptr<storage::Replica> replica_;
  const base::Clock& clock_;
  ServiceStats& service_stats_;
  base::EventJournal& journal_;
  base::WorkerPool& stop_pool_;
  const std::shared_ptr<base::ErrorFile> error_file_;  // may be null
  GroupStats stats_;
  std::vector<std::unique_ptr<IoStats>> io_stats_;  // by VolumeId

  base::Gate gate_;

  mutable base::Mutex mutex_;
  base::CondVar marker_done_;
  base::CondVar stop_done_;
  std::shared_ptr<PlannedStop> stopping_ ABSL_GUARDED_BY(mutex_);
  base::CondVar may_connect_;
  uint64_t connections_ ABSL_GUARDED_BY(mutex_) = 0;  // to the group's own exports
  int going_back_ ABSL_GUARDED_BY(mutex_) = 0;        // failovers to a named epoch under way
  std::shared_ptr<StreamSession> session_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<StreamSession> joining_ ABSL_GUARDED_BY(mutex_);  // in AttachStream()
  std::vector<std::weak_ptr<StreamSession>> earlier_
      ABSL_GUARDED_BY(mutex_);  // may still be in the replica
  bool detached_ ABSL_GUARDED_BY(mutex_) = false;
  base::ErrorLog errors_ ABSL_GUARDED_BY(mutex_);
  std::string last_fenced_ ABSL_GUARDED_BY(mutex_);  // who asks again and again is told of once
  std::string error_era_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, uint64_t> scrub_marks_ ABSL_GUARDED_BY(mutex_);  // of errors_, by scrub
  uint64_t markers_begun_ ABSL_GUARDED_BY(mutex_) = 0;
  std::set<uint64_t> markers_pending_ ABSL_GUARDED_BY(mutex_);  // their numbers
  std::vector<std::shared_ptr<MarkerWaiter>> waiters_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<MarkerWaiter>> given_up_
      ABSL_GUARDED_BY(mutex_);  // by request id; at most kGivenUpMax
  storage::CheckpointResult last_checkpoint_ ABSL_GUARDED_BY(mutex_);
  bool resync_complete_ ABSL_GUARDED_BY(mutex_) = false;  // COMPLETE came, its checkpoint not yet
  uint64_t bad_crc_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  int bad_crc_times_ ABSL_GUARDED_BY(mutex_) = 0;
  std::atomic<bool> write_refused_{false};  // the newest frame, and that was latched
  absl::Time last_contact_ ABSL_GUARDED_BY(mutex_) = absl::UnixEpoch();
  // Without a stream: when the last one said its last word, or Start.
  absl::Duration silent_since_ ABSL_GUARDED_BY(mutex_);
  absl::Duration committed_at_ ABSL_GUARDED_BY(mutex_);  // the newest, or Start
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_GROUP_H_
