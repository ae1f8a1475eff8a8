// storage/replica_impl.h
//
// The Replica over segment logs and the index. Its parts, one file each:
//   replica_control.cc   Start, Stop, Failover, terms, state      replica_stream.cc  Append, checkpoints, the index mirror
//   replica_disk.cc      the secondary VM's reads and writes      replica_jobs.cc    apply and commit
//   replica_recovery.cc  from index and log to where it was
//
// Who owns what
//   hidden_turn_    the open hidden overlay and the hidden log: Append, checkpoint marks, Start, AttachStream
//   flush_turn_     syncing the logs and moving pending_ to the index
//   commit_turn_    every index batch that changes the group, and every new chain; never held across segment or disk I/O,
//                   so that Failover() waits for the index only
//   mutex_          memory, no I/O;  view_mutex_  chain_ and the maps of the active overlay, no I/O
// Taken in this order: range locks, control_turn_, hidden_turn_, flush_turn_, commit_turn_, view_mutex_, mutex_.
//
// The way of a frame   log (one vectored write) -> extent map -> pending_ -> [sync of the log] -> index batch.
// A checkpoint         seals hidden in passing and queues behind the frames it covers; when its batch is durable the chain is
//                      published. With --durability=none the chain is published first; the log's marker redoes the batch.
#ifndef UNDERSTUDY_STORAGE_REPLICA_IMPL_H_
#define UNDERSTUDY_STORAGE_REPLICA_IMPL_H_

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "storage/base/clock.h"
#include "storage/base/file_system.h"
#include "storage/base/mutex.h"
#include "storage/base/range_lock.h"
#include "storage/base/turn.h"
#include "storage/base/worker_pool.h"
#include "storage/chain.h"
#include "storage/index.h"
#include "storage/read_gate.h"
#include "storage/replica.h"
#include "storage/segment_log.h"
#include "storage/store.h"

namespace understudy::storage {

// What the replicas of a store share. Everything outlives them.
struct StoreContext {
  const StoreOptions& options;
  base::FileSystem& file_system;
  const base::Clock& clock;
  Index& index;
  SegmentPool& segments;
  base::WorkerPool& write_back;            // at most one immediate and one delayed task per replica
  base::WorkerPool& jobs;                  // at most one task per replica
  absl::AnyInvocable<uint64_t()>& random;  // any thread
};

class ReplicaImpl : public Replica, public std::enable_shared_from_this<ReplicaImpl> {
 public:
  ReplicaImpl(StoreContext context, GroupRecord record);
  ~ReplicaImpl() override;

  // Brings the group to where its index record and its logs say it was; stage NONE needs no more. Called once, first.
  absl::Status Recover(const std::vector<std::pair<OverlayId, OverlayRecord>>& overlays,
                       std::vector<std::shared_ptr<Segment>> hidden_segments,
                       std::vector<std::shared_ptr<Segment>> active_segments);
  // Forgets the group durably and refuses everything from now on.
  absl::Status Retire();
  // Stops jobs at their next window and makes durable what was received.
  void Close();
  GroupRecord record() const;

  const std::string& name() const override { return name_; }
  const std::vector<VolumeInfo>& volumes() const override { return volumes_; }
  ReplicaState state() const override;
  void SetListener(ReplicaListener* listener) override;

  absl::Status Start() override;
  absl::Status BindAgent(const std::string& agent_id, bool takeover) override;
  absl::Status AttachStream(uint64_t stream_id) override;
  absl::Status Stop() override;
  absl::Status Failover(const FailoverOptions& options) override;

  absl::Status Append(const IncomingFrame& frame, CheckpointCallback on_checkpoint) override;
  void RequestCheckpoint(CheckpointCallback done) override;
  void RequestDurablePoint() override;

  absl::Status Read(VolumeId volume, uint64_t offset, std::span<char> out) override;
  absl::Status Write(VolumeId volume, uint64_t offset, std::span<const char> data,
                     bool fua) override;
  absl::Status WriteZeroes(VolumeId volume, ByteRange range, bool fua) override;
  absl::Status Flush(VolumeId volume) override;
  absl::StatusOr<std::vector<MapRun>> Map(VolumeId volume, ByteRange range) override;
  absl::Status WaitForJobs(absl::Time deadline) override;

 private:
  // A sealed epoch on its way to being committed.
  struct PendingCheckpoint {
    std::shared_ptr<Overlay> sealed;
    LogPosition end;  // of sealed, in the hidden log
    std::shared_ptr<Overlay> next_hidden;
    std::shared_ptr<Overlay> next_active;
    std::shared_ptr<Overlay> old_active;  // held until its drop is durable; set when published
    CheckpointResult result;
    uint64_t stream_id = 0;
    int64_t unix_micros = 0;
    absl::Duration arrived;  // monotonic
    bool published = false;
    std::vector<CheckpointCallback> done;
  };
  // What the index does not know yet of one frame.
  struct PendingFrame {
    std::shared_ptr<Overlay> overlay;
    std::vector<ExtentMutation> mutations;
    IndexedPosition reached;
    std::shared_ptr<PendingCheckpoint> checkpoint;
  };
  // The newest published checkpoint.
  struct Committed {
    Epoch epoch;
    uint64_t sequence = 0;
    uint64_t stream_id = 0;
    int64_t unix_micros = 0;
  };
  struct ActiveWrite {
    Operation operation;
    std::span<const char> data;
    bool done = false;
    absl::Status status;
  };
  struct CommitWindow {
    VolumeId volume;
    ByteRange range;
    std::vector<ByteRange> touched;  // written while the window was being copied
  };

  // replica_control.cc
  absl::Status OpenDisks(std::vector<std::shared_ptr<SecondaryDisk>>* disks);
  absl::Status StoreStart(GroupRecord* record, const Overlay& hidden, const Overlay& active);
  void ResetForStart(Epoch epoch, std::shared_ptr<Overlay> hidden, bool incomplete);
  absl::Status FailoverFromRunning();
  absl::Status RetryFailover();
  absl::Status CommitReceived();
  using RangeHolds = std::vector<std::unique_ptr<base::RangeLock::Hold>>;
  RangeHolds HoldAllWrites();
  absl::Status FinishDone(bool drop_hidden);
  void ForgetOverlays();
  absl::Status WriteGroup(const GroupRecord& record, Index::Batch batch);
  void Publish(std::shared_ptr<const Chain> chain);
  std::shared_ptr<const Chain> chain() const;
  absl::StatusOr<std::shared_ptr<Overlay>> NewOverlay(LogRole role, Epoch epoch, LogPosition start);
  void Report(BackgroundError error);
  void NotifyChange();
  OverlayRecord NewOverlayRecord(LogRole role, Epoch epoch, LogPosition start) const;
  absl::Status CheckVolume(VolumeId volume) const;

  // replica_stream.cc
  absl::Status CheckWriter(const IncomingFrame& frame) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckOperations(const IncomingFrame& frame) const;
  bool AnswerReplay(const IncomingFrame& frame, CheckpointCallback& on_checkpoint);
  absl::StatusOr<std::shared_ptr<PendingCheckpoint>> PrepareCheckpoint();
  absl::Status AppendToHidden(FrameContent content, std::shared_ptr<PendingCheckpoint> checkpoint);
  void SealHidden(PendingCheckpoint& checkpoint, LogPosition end)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PublishCheckpoint(const std::shared_ptr<PendingCheckpoint>& checkpoint);
  void ScheduleFlush(bool now);
  void FlushInBackground();
  // Makes everything that is pending when it begins durable, and commits the checkpoints in it.
  absl::Status FlushIndex(bool sync);
  absl::Status FlushPending(size_t hidden_count, size_t active_count, bool sync,
                            std::vector<std::shared_ptr<PendingCheckpoint>>* committed);
  void AddCheckpoint(const PendingCheckpoint& checkpoint, GroupRecord* record, Index::Batch* batch);
  void FailPending(const absl::Status& status);
  void Answer(PendingCheckpoint& checkpoint, const absl::StatusOr<CheckpointResult>& result);

  // replica_disk.cc
  absl::Status Modify(VolumeId volume, OperationKind kind, ByteRange range,
                      std::span<const char> data);
  absl::Status WriteToDisk(SecondaryDisk& disk, OperationKind kind, ByteRange range,
                           std::span<const char> data);
  absl::Status WriteToActive(VolumeId volume, OperationKind kind, ByteRange range,
                             std::span<const char> data);
  absl::Status AppendActiveBatch(const std::vector<ActiveWrite*>& batch);

  // replica_jobs.cc
  void ScheduleJob();
  void RunJob();
  absl::Status ApplyRun(const OverlayList& run);
  absl::Status ApplyVolume(const OverlayList& run, VolumeId volume);
  absl::Status CommitJob();
  absl::Status MergeWindow(VolumeId volume, ByteRange window);
  absl::Status EndWindow(VolumeId volume, ByteRange window);
  ByteRange WindowFrom(VolumeId volume, uint64_t offset) const;
  std::vector<Piece> UnmergedPieces(VolumeId volume, ByteRange range) const;
  bool HasJob() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BeginJob(const std::string& kind, uint64_t total_bytes);
  absl::Status CopyPieces(VolumeId volume, std::span<const Piece> pieces);
  absl::Status CopyRun(VolumeId volume, std::span<const Piece> run);
  absl::Status Pace(uint64_t bytes);
  void FailJob(const absl::Status& status);
  bool JobMustStop() const;

  // replica_recovery.cc
  absl::Status LoadOverlays(const std::vector<std::pair<OverlayId, OverlayRecord>>& overlays,
                            std::vector<OverlayId>* stale);
  absl::StatusOr<std::shared_ptr<Overlay>> LoadOverlay(OverlayId id, const OverlayRecord& record);
  void AttachDisks();
  absl::Status RollHiddenForward();
  absl::Status ReplayHidden(const ReplayedFrame& frame);
  absl::Status RollActiveForward();

  const StoreContext context_;
  const std::string name_;
  std::vector<VolumeInfo> volumes_;
  std::vector<std::unique_ptr<base::RangeLock>> range_locks_;  // by VolumeId
  SegmentLog hidden_log_;
  SegmentLog active_log_;
  ReadGate read_gate_;

  base::Turn control_turn_;
  base::Turn hidden_turn_;
  base::Turn flush_turn_;
  base::Turn commit_turn_;

  mutable base::SharedMutex view_mutex_;
  std::shared_ptr<const Chain> chain_ ABSL_GUARDED_BY(view_mutex_);
  std::optional<CommitWindow> commit_window_ ABSL_GUARDED_BY(view_mutex_);

  mutable base::Mutex mutex_;
  GroupRecord record_ ABSL_GUARDED_BY(mutex_);  // as durable; changed under commit_turn_
  Epoch open_epoch_ ABSL_GUARDED_BY(mutex_);
  Committed committed_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Overlay> hidden_ ABSL_GUARDED_BY(mutex_);  // the open one; nullptr unless RUNNING
  bool incomplete_ ABSL_GUARDED_BY(mutex_) = false;
  bool refusing_ ABSL_GUARDED_BY(mutex_) = false;  // Stop() has begun: no more frames
  uint64_t stream_id_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t received_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t durable_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t active_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  IndexedPosition active_reached_ ABSL_GUARDED_BY(mutex_);  // of the newest frame in active's maps
  absl::Status failed_ ABSL_GUARDED_BY(
      mutex_);  // why the primary's writes are refused until a restart or a failover
  std::deque<PendingFrame> hidden_pending_ ABSL_GUARDED_BY(mutex_);
  std::deque<PendingFrame> active_pending_ ABSL_GUARDED_BY(mutex_);
  uint64_t pending_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool flush_queued_ ABSL_GUARDED_BY(mutex_) = false;   // an immediate one
  bool flush_delayed_ ABSL_GUARDED_BY(mutex_) = false;  // a delayed one
  base::CondVar changed_;                               // jobs began, ended or must stop
  bool job_running_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  JobProgress job_ ABSL_GUARDED_BY(mutex_);
  uint64_t backlog_epochs_ ABSL_GUARDED_BY(mutex_) = 0;  // committed overlays in chain_
  uint64_t apply_generation_ ABSL_GUARDED_BY(mutex_) =
      0;  // readers below it may not know the newest committed epoch
  absl::Status job_status_ ABSL_GUARDED_BY(mutex_);  // of the last job
  // The job's own: what it was copying last, for its error.
  VolumeId job_volume_;
  ByteRange job_range_;

  base::Mutex listener_mutex_;
  base::CondVar listener_idle_;
  ReplicaListener* listener_ ABSL_GUARDED_BY(listener_mutex_) = nullptr;
  int listener_calls_ ABSL_GUARDED_BY(listener_mutex_) = 0;

  base::Mutex active_mutex_;
  base::CondVar active_done_;
  std::deque<ActiveWrite*> active_queue_ ABSL_GUARDED_BY(active_mutex_);
  bool active_leader_ ABSL_GUARDED_BY(active_mutex_) = false;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_REPLICA_IMPL_H_
