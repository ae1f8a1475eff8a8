// storage/replica_impl.h
//
// The Replica over segment logs and the index. Its parts, one file each:
//   replica_control.cc   Start, Stop, Failover, terms             replica_stream.cc  Append, checkpoints, the index mirror
//   replica_disk.cc      the secondary VM's reads and writes      replica_jobs.cc    apply and commit
//   replica_room.cc      limits and compaction            replica_prepare.cc  epochs that wait to be committed
//   replica_history.cc   kept epochs and clones           replica_recovery.cc  from index and log to where it was
//   replica_scrub.cc     verification in the background      replica_state.cc  looking at it
//   replica_handover.cc  the primary gives up writing      replica_received.cc  the primary's disk as known here
//   replica_failback.cc  what differs after a failover     replica_markers.cc   beside the disks
//
// Who owns what
//   hidden_turn_    the open hidden overlay and the hidden log: Append, checkpoint marks, Start, AttachStream
//   flush_turn_     syncing the logs and moving pending_ to the index
//   commit_turn_    every index batch that changes the group, and every new chain; never held across segment or disk I/O,
//                   so that Failover() waits for the index only
//   mutex_          memory, no I/O;  view_mutex_  chain_ and the order of changes to the active overlay, no I/O
// Taken in this order: range locks, control_turn_, attach_turn_, hidden_turn_, flush_turn_, commit_turn_, view_mutex_, mutex_.
//
// The way of a frame   log (one vectored write) -> extent map -> pending_ -> [sync of the log] -> index batch.
// A checkpoint         seals hidden in passing and queues behind the frames it covers; when its batch is durable the chain is
//                      published. With --durability=none the chain is published first; the log's marker redoes the batch.
#ifndef UNDERSTUDY_STORAGE_REPLICA_IMPL_H_
#define UNDERSTUDY_STORAGE_REPLICA_IMPL_H_

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"

#include "storage/base/clock.h"
#include "storage/base/file_system.h"
#include "storage/base/mutex.h"
#include "storage/base/range_lock.h"
#include "storage/base/rate_limit.h"
#include "storage/base/turn.h"
#include "storage/base/unflushed.h"
#include "storage/base/worker_pool.h"
#include "storage/chain.h"
#include "storage/clone.h"
#include "storage/compactor.h"
#include "storage/copier.h"
#include "storage/extent_memory.h"
#include "storage/failback_map.h"
#include "storage/index.h"
#include "storage/overlay.h"
#include "storage/read_gate.h"
#include "storage/replica.h"
#include "storage/secondary_disk.h"
#include "storage/segment_log.h"
#include "storage/store.h"
#include "storage/view_cache.h"

namespace understudy::storage {

// What the replicas of a store share. Everything outlives them.
struct StoreContext {
  const StoreOptions& options;
  base::FileSystem& file_system;
  const base::Clock& clock;
  Index& index;
  SegmentPool& segments;
  ExtentMemory& extent_memory;
  base::WorkerPool& write_back;  // at most one immediate and two delayed tasks per replica
  base::WorkerPool& jobs;        // at most one task per replica
  base::WorkerPool& scrubs;      // at most one task per replica
  base::RateLimit& apply_rate;   // of data that the jobs copy
  absl::AnyInvocable<uint64_t()>& random;  // any thread
};

class ReplicaImpl : public Replica, public std::enable_shared_from_this<ReplicaImpl> {
 public:
  ReplicaImpl(StoreContext context, GroupRecord record);
  ~ReplicaImpl() override;

  // What the store found of the group at open. `damage`: a record of it that does not decode.
  struct Remains {
    std::vector<std::pair<OverlayId, OverlayRecord>> overlays;
    std::vector<std::shared_ptr<Segment>> hidden_segments;
    std::vector<std::shared_ptr<Segment>> active_segments;
    std::vector<OverlayId> damaged;  // overlays whose records do not decode
    absl::Status damage;
  };
  // Brings the group to where its index record and its logs say it was; stage NONE needs no more. Called once, first. What
  // cannot be read isolates the group (damage_, failed_); an error is of the index as a whole.
  absl::Status Recover(Remains remains);
  // The lines of the store's recovery report about this group.
  void LogRecovery() const;
  // As Store::Remove().
  absl::Status Retire(std::optional<uint64_t> failback_mark);
  // Stops jobs at their next window and makes durable what was received.
  void Close();
  GroupRecord record() const;
  // What its disks on the file system of `beside` may still grow by.
  uint64_t HoleBytes(const base::FileIdentity& beside) const;
  const absl::Status& damage() const { return damage_; }
  // All that the index says it has is there; its disks may not be.
  bool whole() const {
    base::MutexLock lock(mutex_);
    return damage_.ok() && without_disks_.value_or(failed_).ok();
  }

  const std::string& name() const override { return name_; }
  const std::vector<VolumeInfo>& volumes() const override { return volumes_; }
  ReplicaState state() const override;
  void SetListener(ReplicaListener* listener) override;

  absl::Status Start() override;
  absl::Status BindAgent(const std::string& agent_id, bool takeover) override;
  absl::Status AttachStream(uint64_t stream_id, bool may_checkpoint) override;
  absl::Status Stop() override;
  absl::Status Failover(const FailoverOptions& options) override;

  absl::Status Append(const IncomingFrame& frame, CheckpointCallback on_checkpoint) override;
  void RequestCheckpoint(CheckpointCallback done) override;
  absl::StatusOr<CheckpointResult> CommitPrepared(Epoch epoch) override;
  absl::StatusOr<Epoch> AbandonPrepared() override;
  absl::Status TakeBackHandover() override;
  void RequestDurablePoint() override;

  absl::Status Read(VolumeId volume, uint64_t offset, std::span<char> out) override;
  absl::Status Write(VolumeId volume, uint64_t offset, std::span<const char> data,
                     bool fua) override;
  void WriteAll(VolumeId volume, std::span<const BlockWrite> writes,
                std::span<absl::Status> results) override;
  absl::Status WriteZeroes(VolumeId volume, ByteRange range, ZeroedSpace space, bool fua) override;
  absl::Status Flush(VolumeId volume) override;
  absl::StatusOr<std::vector<BlockRun>> Map(VolumeId volume, ByteRange range,
                                            size_t runs_max) override;

  absl::Status ReadReceived(VolumeId volume, uint64_t offset, std::span<char> out) override;
  absl::StatusOr<uint64_t> ReceivedZeroesEnd(VolumeId volume, ByteRange range) override;

  absl::StatusOr<FailbackRegions> Failback() const override;

  std::vector<EpochInfo> History() const override;
  absl::Status CreateClone(const CloneSpec& spec) override;
  absl::Status RemoveClone(const std::string& name) override;
  absl::StatusOr<std::shared_ptr<BlockView>> FindClone(const std::string& name) const override;
  std::vector<CloneInfo> clones() const override;

  absl::StatusOr<uint64_t> Scrub(const ScrubOptions& options) override;
  absl::Status WaitForJobs(const base::Deadline& deadline) override;

 private:
  // An epoch that is sealed and not committed.
  struct PreparedOverlay {
    std::shared_ptr<Overlay> overlay;
    LogPosition end;  // in the hidden log
  };
  // A sealed epoch on its way to being committed.
  struct PendingCheckpoint {
    bool prepare = false;  // only seals: no new active overlay, nothing is published
    // Made by a HANDOVER of this term, which counts while the term does: nothing is taken after it, and it is published only when
    // it is durable. 0: by another marker.
    Term handover;
    std::shared_ptr<Overlay> sealed;
    LogPosition end;  // of sealed, in the hidden log
    // Prepared and never committed on their own, newest first: they are committed with `sealed`, over which they lie.
    std::vector<PreparedOverlay> before;
    std::shared_ptr<Overlay> next_hidden;
    std::shared_ptr<Overlay> next_active;
    std::shared_ptr<Overlay> old_active;  // held until its drop is durable; set when published
    CheckpointResult result;
    uint64_t stream_id = 0;
    int64_t unix_micros = 0;
    absl::Duration arrived;                   // monotonic
    std::optional<uint64_t> duration_micros;  // as the index keeps it; 0: not known
    bool published = false;                   // or, when it only prepares, durable
    // Of a first sync that has not ended: nothing that the primary's disks were like, and nothing that anybody sees.
    bool first_sync_step() const { return unix_micros == 0; }
    std::vector<CheckpointCallback> done;
  };
  // What the index does not know yet of one frame.
  struct PendingFrame {
    std::shared_ptr<Overlay> overlay;
    OverlayChange change;
    IndexedPosition reached;
    std::vector<uint32_t> emptied;  // segments that overlay needs no more once this is durable
    std::shared_ptr<PendingCheckpoint> checkpoint;
  };
  // The newest published checkpoint.
  struct Committed {
    Epoch epoch;
    uint64_t sequence = 0;
    uint64_t stream_id = 0;
    int64_t unix_micros = 0;
    uint64_t bytes = 0;
    uint64_t duration_micros = 0;
  };
  // A change of the secondary VM, one frame's data at most.
  struct VmChange {
    Operation operation;
    std::span<const char> data;
    absl::Status* result = nullptr;
    bool done = false;  // in active's queue
  };
  struct CommitWindow {
    VolumeId volume;
    ByteRange range;
    std::vector<ByteRange> touched;  // written while the window was being copied
  };

  // replica_control.cc
  absl::Status StoreStart(GroupRecord* record, const Overlay& hidden, const Overlay& active);
  void ResetForStart(Epoch epoch, std::shared_ptr<Overlay> hidden, bool incomplete);
  absl::Status CheckValid(const GroupRecord& record) const;
  absl::StatusOr<EpochInfo> ChooseEpoch(const FailoverOptions& options,
                                        const GroupRecord& record) const;
  absl::Status FailoverFromRunning(const FailoverOptions& options);
  absl::Status RetryFailover();
  absl::Status CommitReceived();
  using RangeHolds = std::vector<std::unique_ptr<base::RangeLock::Hold>>;
  RangeHolds HoldAllWrites();
  absl::Status FinishDone(bool drop_hidden);
  void ForgetOverlays();
  absl::Status WriteGroup(const GroupRecord& record, Index::Batch batch);
  absl::Status StoreAgent(const std::string& agent_id, bool takeover);
  void Publish(std::shared_ptr<const Chain> chain);
  std::shared_ptr<const Chain> chain() const;
  absl::StatusOr<std::shared_ptr<Overlay>> NewOverlay(LogRole role, Epoch epoch, LogPosition start);
  std::shared_ptr<Overlay> MakeOverlay(OverlayId id, OverlayRecord record,
                                       Overlay::Origin origin = Overlay::Origin::kNew) const;
  void CallListener(absl::FunctionRef<void(ReplicaListener&)> call);
  void Report(const BackgroundError& error);
  void NotifyChange();
  void TellIncomplete(bool was, bool is);
  void TellJob(const std::string& kind, const std::optional<absl::Status>& ended);
  OverlayRecord NewOverlayRecord(LogRole role, Epoch epoch, LogPosition start) const;
  absl::Status CheckVolume(VolumeId volume) const;

  // replica_history.cc
  size_t KeptEpochs(const OverlayList& committed) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateBacklog();
  absl::StatusOr<OverlayList> BeginApply();
  absl::StatusOr<EpochInfo> FindEpoch(Epoch epoch) const;
  absl::Status GoBackTo(const EpochInfo& target, bool in_use, Chain* next, GroupRecord* record,
                        Index::Batch* batch, OverlayList* dropped);
  Epoch CommittedEpoch() const;
  bool HiddenFailed() const;
  void EndClone(const std::shared_ptr<Clone>& clone, absl::string_view why);
  void EndClones(absl::string_view why);

  // replica_room.cc
  bool OverSoftMark() const;
  absl::Status CheckLimits(uint64_t more_bytes) const;
  void KeepBelowSoftMark();
  bool CheckpointPending() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MayCommitItself() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CommitItself();
  bool InFirstSync() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status StepFirstSync();
  bool AwaitApply();
  absl::Status FreeRoom(const absl::Status& full);
  absl::Status MakeRoom(uint64_t bytes);
  // After each job: looks again until nothing was appended between two looks.
  void LetLogsGoWhenIdle();
  void LetLogsGo();
  void Compact(Compactor& compactor, const std::shared_ptr<Overlay>& overlay, uint64_t bytes);
  absl::StatusOr<bool> CompactStep(Compactor& compactor, const std::shared_ptr<Overlay>& overlay);
  static absl::StatusOr<AppendedFrame> AppendAgain(SegmentLog& log, OverlayId overlay,
                                                   const Compactor::Step& step,
                                                   FrameContent content);
  absl::Status MoveInHidden(const std::shared_ptr<Overlay>& hidden, Compactor::Step step);
  absl::Status MoveInActive(const std::shared_ptr<Overlay>& active, Compactor::Step step);
  static OverlayChange Moved(Overlay& overlay, const Compactor::Step& step,
                             const AppendedFrame& frame);

  // replica_stream.cc
  absl::Status CheckWriter(const IncomingFrame& frame) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckOperations(const IncomingFrame& frame) const;
  absl::Status MadeNothing(const Operation& marker) const;
  bool AnswerReplay(const IncomingFrame& frame, CheckpointCallback& on_checkpoint);
  absl::StatusOr<std::shared_ptr<PendingCheckpoint>> NewCheckpoint(
      OperationKind marker = OperationKind::kCheckpoint);
  absl::Status AppendWithRoom(const FrameContent& content,
                              const std::shared_ptr<PendingCheckpoint>& checkpoint);
  absl::Status AppendToHidden(FrameContent content, std::shared_ptr<PendingCheckpoint> checkpoint);
  absl::Status CommitHere(const std::shared_ptr<PendingCheckpoint>& checkpoint);
  // What a change needs in memory. A failure is reported.
  absl::Status Load(Overlay::Hold& hold);
  std::shared_ptr<Overlay> OpenHidden() const;
  void SealHidden(PendingCheckpoint& checkpoint, LogPosition end)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PublishCheckpoint(const std::shared_ptr<PendingCheckpoint>& checkpoint);
  void ScheduleFlush(bool now);
  void FlushInBackground();
  // Makes everything that is pending when it begins durable, and commits the checkpoints in it.
  absl::Status FlushIndex(bool sync);
  // With --durability=none a published checkpoint may still be on its way to the index, or have failed to get there.
  bool CommittedDurable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ActiveGivenUp() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status NothingGivenUp() const;
  absl::Status MakeCommittedDurable();
  absl::Status FlushPending(size_t hidden_count, size_t active_count, bool sync,
                            std::vector<std::shared_ptr<PendingCheckpoint>>* committed);
  void FailPending(const absl::Status& status);
  void Answer(PendingCheckpoint& checkpoint, const absl::StatusOr<CheckpointResult>& result);

  // replica_prepare.cc
  // Once, so that a restart changes nothing. REQUIRES: commit_turn_.
  void NoteDuration(PendingCheckpoint& checkpoint) const;
  void AddCheckpoint(PendingCheckpoint& checkpoint, GroupRecord* record, Index::Batch* batch);
  static OverlayRecord SealedRecord(const Overlay& overlay, LogPosition end, OverlayState state,
                                    int64_t unix_micros);
  void AddPrepared(const PendingCheckpoint& checkpoint, GroupRecord* record,
                   Index::Batch* batch) const;
  void AnswerPrepared(PendingCheckpoint& checkpoint);
  absl::StatusOr<std::shared_ptr<PendingCheckpoint>> TakePrepared(Epoch epoch);
  void ForgetPrepared(Epoch committed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // To be dropped with hidden: no longer in the index when `batch` is.
  std::vector<PreparedOverlay> DropPrepared(GroupRecord* record, Index::Batch* batch);

  // replica_handover.cc
  absl::Status CheckHandedOver(const GroupRecord& record) const;
  void ForgetHandover();
  static bool HandsOver(const PendingCheckpoint& checkpoint, const GroupRecord& record);

  // replica_failback.cc
  bool FailbackKnown() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TrustFailbackMap(const Chain& chain, const Incarnation& incarnation);
  void DistrustFailbackMap(const Chain& chain);
  absl::Status LoadFailbackMap();
  void RememberGivenUp(const std::shared_ptr<Overlay>& hidden, const OverlayList& dropped,
                       const std::deque<PendingFrame>& frames)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkGivenUp();
  void MarkForFailback(VolumeId volume, std::span<const ByteRange> ranges);
  void LoseFailbackMap(const absl::Status& cause);
  // With a mark: no write of the VM is under way, and none came since Failback() gave it.
  absl::StatusOr<RangeHolds> HoldUnlessWritten(std::optional<uint64_t> mark);

  // replica_markers.cc
  void MarkDisks();
  absl::Status MarkDisksFirst(const Chain& chain, Term term);
  void UnmarkDisks(const Chain& chain);
  absl::Status CheckMarkers() const;

  // replica_disk.cc
  // What a request of the VM reads or replaces; the pieces are readable as long as `chain` is held.
  struct View {
    std::shared_ptr<const Chain> chain;
    std::vector<Piece> pieces;
  };
  absl::StatusOr<View> Look(VolumeId volume, ByteRange range);
  absl::Status ReadError(VolumeId volume, ByteRange range, const absl::Status& error);
  // All of the same volume, and checked.
  void Modify(VolumeId volume, std::span<VmChange> changes);
  absl::Status ModifyPieces(VolumeId volume, const VmChange& change);
  bool MayWriteToDisk() const;
  absl::StatusOr<std::shared_ptr<const Chain>> ServingChain(VolumeId volume) const;
  absl::Status FlushChanges(VolumeId volume);
  absl::Status WriteToDisk(SecondaryDisk& disk, OperationKind kind, ByteRange range,
                           std::span<const char> data);
  void WriteToActive(std::span<VmChange> changes);
  absl::StatusOr<AppendedFrame> AppendToActiveLog(const FrameContent& content, uint64_t bytes);
  absl::Status AppendActiveBatch(const std::vector<VmChange*>& batch);

  // replica_received.cc
  // Everything that was received and not given up, at one moment.
  struct Received {
    std::shared_ptr<const Chain> chain;
    OverlayList overlays;  // what the chain does not have, newest first; the first one may be open
    absl::Status status;   // not OK: it is not all
  };
  struct ReceivedView {
    Received received;
    std::vector<Piece> pieces;  // readable as long as `received` is held
  };
  Received LookAtReceived() const;
  absl::Status CheckReceiving() const;
  absl::Status CheckReceivingLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<ReceivedView> LookReceived(VolumeId volume, ByteRange range);

  // replica_jobs.cc
  void ScheduleJob();
  void RunJob();
  absl::Status Apply();
  absl::Status ApplyVolume(Copier& copier, const OverlayList& run, VolumeId volume);
  absl::Status CommitJob();
  absl::StatusOr<bool> MergeVolume(Copier& copier, VolumeId volume);
  absl::Status MergeWindow(Copier& copier, VolumeId volume, ByteRange window);
  absl::Status CopyUnmerged(Copier& copier, VolumeId volume, ByteRange range);
  absl::Status EndWindow(VolumeId volume, ByteRange window);
  void SetWindowsDropped(bool dropped);
  absl::StatusOr<ByteRange> WindowFrom(VolumeId volume, uint64_t offset) const;
  absl::StatusOr<std::vector<Piece>> UnmergedPieces(VolumeId volume, ByteRange range) const;
  bool HasJob() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BeginJob(const std::string& kind, uint64_t total_bytes);
  void EndJob(const absl::Status& status);
  // What is damaged is reported and kept in job_damage_, and the rest is copied.
  absl::Status CopyPieces(Copier& copier, VolumeId volume, std::span<const Piece> pieces);
  bool Pace(Stage stage, uint64_t bytes);
  uint64_t JobStepBytes() const;
  void RetryJob() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // there is a new reason to try
  void FailJob(const absl::Status& status, Stage stage);
  void FailStage();
  bool HasNewReason(Stage stage, uint64_t reasons) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Annotates it with job_volume_ and `range`, for which it was.
  absl::Status JobError(ByteRange range, const absl::Status& error);
  absl::Status SyncForJob(const Chain& chain, VolumeId volume, ByteRange range);
  void NoteJobDamage(ByteRange range, const absl::Status& damage);
  // What was damaged is the index: what the overlays hold of the volume is not known.
  void NoteIndexDamage(const VolumeInfo& volume, const absl::Status& damage);
  bool JobMustStop() const;

  // What Recover() found and did, for the report.
  struct RecoveryReport {
    size_t overlays = 0;
    size_t segments = 0;
    Term newest_term;  // that a frame names
    absl::Duration took;
    absl::Status written;  // of the frames that were written again
  };

  // replica_scrub.cc
  OverlayList AllOverlays() const;
  ScrubState scrub_state() const;
  void RunScrub(const ScrubOptions& options);
  absl::Status ScrubOverlays(const ScrubOptions& options, Stage stage);
  absl::Status ScrubOverlay(const std::shared_ptr<Overlay>& overlay, const ScrubOptions& options,
                            Stage stage);
  void NoteScrubDamage(const BackgroundError& error);
  absl::Status PaceScrub(absl::Duration begun, uint64_t bytes, const ScrubOptions& options,
                         Stage stage);

  // replica_recovery.cc
  absl::Status RecoverView(const Remains& remains, std::vector<OverlayId>* stale);
  void Isolate(const absl::Status& damage, const Remains& remains);
  void FailHidden(const absl::Status& damage);
  absl::Status LoadOverlays(const std::vector<std::pair<OverlayId, OverlayRecord>>& overlays,
                            std::vector<OverlayId>* stale);
  static absl::Status CheckPreparedPresent(const GroupRecord& record,
                                           std::span<const PreparedOverlay> prepared);
  absl::Status CheckOverlaysPresent() const;
  absl::StatusOr<std::shared_ptr<Overlay>> LoadOverlay(OverlayId id, const OverlayRecord& record);
  absl::Status OpenDisks(std::vector<std::shared_ptr<SecondaryDisk>>* disks);
  // Puts what the disks are called now into `record`. Returns whether one was called otherwise.
  static bool TakeIdentities(const Chain& chain, GroupRecord* record);
  void StoreIdentities();
  void AttachDisks();
  // Disks that were missing, or other ones, at recovery may be back. OK: they are open, as they are when none was missing.
  absl::Status AttachDisksAgain();
  absl::Status RollHiddenForward();
  absl::Status EndFailoverRollForward();
  absl::Status ReplayHidden(const ReplayedFrame& frame);
  absl::Status RollActiveForward();

  const StoreContext context_;
  const std::string name_;
  std::vector<VolumeInfo> volumes_;
  std::vector<std::unique_ptr<base::RangeLock>> range_locks_;  // by VolumeId
  std::vector<std::unique_ptr<base::Unflushed>> unflushed_;    // likewise: what the VM has changed
  SegmentLog hidden_log_;
  SegmentLog active_log_;
  const std::shared_ptr<const SegmentUsage> overlay_usage_;
  ReadGate read_gate_;
  ViewCache view_cache_;  // of chain_'s committed overlays
  FailbackMap failback_map_;
  Compactor hidden_compactor_;  // under hidden_turn_
  Compactor active_compactor_;  // of the thread that appends to active

  base::Turn control_turn_;
  base::Turn attach_turn_;  // AttachDisksAgain()
  base::Turn hidden_turn_;
  base::Turn flush_turn_;
  base::Turn commit_turn_;
  base::Turn marker_turn_;  // the files beside the disks

  mutable base::SharedMutex view_mutex_;
  std::shared_ptr<const Chain> chain_ ABSL_GUARDED_BY(view_mutex_);
  std::optional<CommitWindow> commit_window_ ABSL_GUARDED_BY(view_mutex_);

  mutable base::Mutex mutex_;
  GroupRecord record_ ABSL_GUARDED_BY(mutex_);  // as durable; changed under commit_turn_
  Epoch open_epoch_ ABSL_GUARDED_BY(mutex_);
  Committed committed_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Overlay> hidden_ ABSL_GUARDED_BY(mutex_);  // the open one; nullptr unless RUNNING
  // Sealed since the last checkpoint and not committed, newest first; only the first one may be on its own.
  std::vector<PreparedOverlay> prepared_ ABSL_GUARDED_BY(mutex_);
  bool incomplete_ ABSL_GUARDED_BY(mutex_) = false;
  bool refusing_ ABSL_GUARDED_BY(mutex_) = false;      // Stop() has begun: no more frames
  bool handing_over_ ABSL_GUARDED_BY(mutex_) = false;  // a HANDOVER has come: no more frames
  uint64_t stream_id_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t received_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t durable_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t active_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  IndexedPosition active_reached_ ABSL_GUARDED_BY(mutex_);  // of the newest frame in active's maps
  absl::Status failed_ ABSL_GUARDED_BY(
      mutex_);  // why the primary's writes are refused until a restart or a failover
  bool windows_dropped_ ABSL_GUARDED_BY(mutex_) = true;  // from the index, all that were merged
  // Set while disks that the stage needs are not open, which failed_ says: what failed_ is when they are.
  std::optional<absl::Status> without_disks_ ABSL_GUARDED_BY(mutex_);
  // What of the view could not be read at recovery: the group serves and takes nothing, and only Remove ends that. Set by
  // Recover(), never changed after.
  absl::Status damage_;
  std::vector<OverlayId> not_loaded_;  // overlays of the index, when damage_ is set
  RecoveryReport report_;
  bool may_checkpoint_ ABSL_GUARDED_BY(mutex_) = false;  // see AttachStream()
  std::deque<PendingFrame> hidden_pending_ ABSL_GUARDED_BY(mutex_);
  std::deque<PendingFrame> active_pending_ ABSL_GUARDED_BY(mutex_);
  // What a failed sync has cost. The index may still name its overlays, and so their segments, until they are dropped there.
  std::deque<PendingFrame> given_up_ ABSL_GUARDED_BY(mutex_);
  uint64_t pending_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  // What a failover of this run took from the primary's writes, until the failback map has it.
  std::optional<OverlayList> given_up_overlays_ ABSL_GUARDED_BY(mutex_);
  bool failback_lost_ ABSL_GUARDED_BY(mutex_) =
      false;  // the map lacks something, whatever record_ says
  bool flush_queued_ ABSL_GUARDED_BY(mutex_) = false;   // an immediate one
  bool flush_delayed_ ABSL_GUARDED_BY(mutex_) = false;  // a delayed one
  bool idle_queued_ ABSL_GUARDED_BY(mutex_) = false;    // LetLogsGo(), delayed
  base::CondVar changed_;                               // jobs began, ended or must stop
  bool job_running_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  JobProgress job_ ABSL_GUARDED_BY(mutex_);
  // Of the committed overlays in chain_: the oldest are to be applied, the newest are kept.
  uint64_t backlog_epochs_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t history_epochs_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, std::shared_ptr<Clone>> clones_ ABSL_GUARDED_BY(mutex_);  // by name
  uint64_t apply_generation_ ABSL_GUARDED_BY(mutex_) =
      0;  // readers below it may not know the newest committed epoch
  absl::Status job_status_ ABSL_GUARDED_BY(mutex_);  // of the last job
  uint64_t job_reasons_ ABSL_GUARDED_BY(mutex_) = 0;
  ScrubState scrub_ ABSL_GUARDED_BY(mutex_);
  JobProgress scrub_progress_ ABSL_GUARDED_BY(mutex_);
  bool scrub_working_ ABSL_GUARDED_BY(mutex_) =
      false;  // on its thread; not yet so while it is queued
  // The job's own: what it was copying last, for its error.
  VolumeId job_volume_;
  ByteRange job_range_;
  absl::Status job_damage_;  // the first that it met; what is not damaged is copied all the same

  base::Mutex listener_mutex_;
  base::CondVar listener_idle_;
  ReplicaListener* listener_ ABSL_GUARDED_BY(listener_mutex_) = nullptr;
  int listener_calls_ ABSL_GUARDED_BY(listener_mutex_) = 0;

  base::Mutex active_mutex_;
  base::CondVar active_done_;
  std::deque<VmChange*> active_queue_ ABSL_GUARDED_BY(active_mutex_);
  bool active_leader_ ABSL_GUARDED_BY(active_mutex_) = false;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_REPLICA_IMPL_H_
