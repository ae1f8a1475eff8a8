// storage/replica.h
//
// Replica is one group on the secondary host: its overlays, its logs, its secondary disks, and the order in which they
// change. It knows nothing of RPCs, streams or who may call what; server/group does.
//
//     VM reads     active -> committed overlays, newest first -> secondary disk
//     VM writes    active (RUNNING); what an overlay holds to active, else the disk (FAILOVER); the disk (DONE)
//     primary      hidden, never visible before the checkpoint
//
// Durability   Append() is in the page cache when it returns (kill -9 loses nothing) and durable at the next durable point
//              (durable_sequence()). Start, Stop, Failover, terms and, unless checkpoint_durable is off, checkpoints are
//              durable when they answer. After a crash at any instant a Replica shows the old checkpoint or the new one.
// Threads      Append(), RequestCheckpoint() and the control calls serialize among themselves as written beside each;
//              Read(), Write(), WriteZeroes(), Flush(), Map() and the getters may be called from any thread at any time
//              and never wait for Append(), for a checkpoint or for the apply job.
// Errors       kFailedPrecondition wrong stage; with reason FENCED for a writer whose incarnation or term is not the
//              current one; kDataLoss checksum mismatch, named by volume, epoch and range; file errors with the path.
// Source       the roles of the overlays: QEMU block/replication.c; redo instead of undo: docs/architecture.md.
#ifndef UNDERSTUDY_STORAGE_REPLICA_H_
#define UNDERSTUDY_STORAGE_REPLICA_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "storage/base/block_runs.h"
#include "storage/base/block_write.h"
#include "storage/base/byte_range.h"
#include "storage/base/deadline.h"
#include "storage/base/ids.h"
#include "storage/base/operation.h"

namespace understudy::storage {

struct VolumeSpec {
  std::string name;
  std::string top_id;
  std::string disk_path;
  uint64_t size_bytes = 0;  // 0: take the disk's length
  bool create = false;
  Initial initial = Initial::kEqual;
};

struct GroupSpec {
  std::string name;
  std::vector<VolumeSpec> volumes;
};

struct VolumeInfo {
  VolumeId id;
  std::string name;
  std::string top_id;
  std::string disk_path;
  uint64_t size_bytes = 0;
};

// A frame of the write stream as it came in: `operations` and `payload` point into memory that lives at least until
// Append() returns. Already checked against the wire CRC; ranges and sequences are checked here.
struct IncomingFrame {
  Incarnation incarnation;
  Term term;
  uint64_t stream_id = 0;
  uint64_t first_sequence = 0;
  std::span<const Operation> operations;
  std::span<const std::span<const char>> payload;  // slices, back to back
};

struct CheckpointResult {
  Epoch epoch;              // the one this checkpoint committed
  uint64_t sequence = 0;    // the stream is committed through here: its marker's, when it has one
  uint64_t bytes = 0;       // of volume ranges the epoch changed
  absl::Duration duration;  // from the marker's arrival to the commit
};
using CheckpointCallback = absl::AnyInvocable<void(absl::StatusOr<CheckpointResult>)>;

struct VolumeUsage {
  uint64_t hidden_bytes = 0;
  uint64_t active_bytes = 0;
  uint64_t committed_bytes = 0;  // committed, on its way to the secondary disk
  uint64_t history_bytes = 0;    // committed and kept on purpose
  uint64_t failback_bytes = 0;   // after a failover or Stop(): of the failback map
};

// Where the disks may differ from those of the primary that the group had.
struct FailbackRegions {
  Incarnation incarnation;  // of the pair that has ended
  std::string agent_id;     // of its primary; empty: it never had one
  // Grows when something is marked: who finds it unchanged has seen all. Never 0.
  uint64_t mark = 0;
  std::vector<std::vector<ByteRange>> runs;  // by VolumeId, in order
};

// A checkpoint that a failover or a clone may go back to.
struct EpochInfo {
  Epoch epoch;
  absl::Time time;              // of its checkpoint; UnixEpoch() when it is not known any more
  bool on_disk = false;         // applied in full: the secondary disk holds exactly this
  std::vector<uint64_t> bytes;  // of volume ranges it changed, by VolumeId; empty when on_disk
};

// A writable, throw-away view of a checkpoint. It shares everything it does not write with the group, costs nothing while it
// is idle, and is gone without trace when it ends: removed, out of time, at a failover, Stop or Remove of the group, at a restart, or
// when the group needs the room.
struct CloneSpec {
  std::string name;                 // as a volume's name
  Epoch epoch;                      // one of History()
  uint64_t bytes_max = 1ULL << 30;  // of its own writes, overwritten ones counted again
  absl::Duration time_to_live = absl::Hours(1);
};

struct CloneInfo {
  CloneSpec spec;
  uint64_t written_bytes = 0;
  absl::Time expires;
};

struct JobProgress {
  std::string kind;  // "apply", "commit" or "scrub"
  uint64_t done_bytes = 0;
  uint64_t total_bytes = 0;
};

struct ScrubOptions {
  uint64_t bytes_per_second = 0;  // of the volumes; 0: no limit
};

enum class ScrubOutcome { kNone, kRunning, kClean, kDamaged, kStopped };
absl::string_view ScrubOutcomeName(ScrubOutcome outcome);  // "CLEAN"

// The newest scrub since the process began.
struct ScrubState {
  ScrubOutcome outcome = ScrubOutcome::kNone;
  uint64_t number = 0;  // from 1
  absl::Time started = absl::InfinitePast();
  absl::Time ended = absl::InfinitePast();
  absl::Time last_clean = absl::InfinitePast();   // end of the last clean one
  absl::Time last_damage = absl::InfinitePast();  // when one last found some
  uint64_t extents = 0;
  uint64_t bytes = 0;          // of the volumes
  uint64_t damages = 0;        // each one was reported, too
  uint64_t damages_total = 0;  // of all scrubs
  std::string message;         // kStopped: why
};

// One consistent look at a replica.
struct ReplicaState {
  Stage stage = Stage::kNone;
  Incarnation incarnation;
  Term term;
  std::string agent_id;             // whom the primaryship is bound to; empty: nobody yet
  Epoch epoch;                      // the open one
  Epoch committed_epoch;            // 0: no checkpoint yet
  uint64_t committed_sequence = 0;  // stream_id is committed through here; 0: nothing of it
  absl::Time committed_time = absl::UnixEpoch();
  // Of committed_epoch, over a restart too; 0: not known. How long it took from the marker's arrival until it was durable in the
  // log; until it was published, if that came first.
  uint64_t checkpoint_bytes = 0;
  absl::Duration checkpoint_duration;
  bool valid =
      false;  // the VM's view is a state the primary had (false: before a first sync has ended)
  bool incomplete = false;
  uint64_t stream_id = 0;          // of the newest stream that wrote; 0: none since Start
  uint64_t received_sequence = 0;  // in stream_id
  uint64_t durable_sequence = 0;   // in stream_id
  // The sealed epoch that CommitPrepared() would commit, and its marker's sequence when it is of stream_id; 0: none.
  Epoch prepared_epoch;
  uint64_t prepared_sequence = 0;
  // The primary's HANDOVER has come: no more frames are taken. handed_over: it is committed, durably; until the next Start(), or
  // until it is taken back.
  bool handing_over = false;
  bool handed_over = false;
  uint64_t backlog_epochs = 0;     // committed, to be applied
  uint64_t history_epochs = 0;     // committed, kept on purpose
  uint64_t overlay_bytes = 0;      // written to the group's segments and not given back yet
  uint64_t overlay_bytes_max = 0;  // the limit; 0: none
  bool overlay_soft_mark = false;  // over 80 % of it, or of --overlay-bytes-total
  uint64_t open_segments = 0;      // that its two logs go on in, and have ready: four at most
  std::vector<VolumeUsage> usage;  // by VolumeId
  std::vector<JobProgress> jobs;   // running ones
  absl::Status job_failure;  // why the last apply or commit job failed, until it is tried again
  // Why it takes or serves less than its stage says, until something is done about it: a disk or an
  // overlay that is missing or damaged, an index that failed, writes of the VM that were lost in a
  // sync.
  absl::Status failure;
  ScrubState scrub;
};

// What goes wrong in the background. Called from a storage thread; must not block or call back into the Replica.
struct BackgroundError {
  std::string operation;  // apply, commit, failback, index, open, read, scrub, write
  std::optional<VolumeId> volume;
  ByteRange range;
  absl::Status status;
};

class ReplicaListener {
 public:
  virtual ~ReplicaListener() = default;
  virtual void OnBackgroundError(const BackgroundError& error) = 0;
  // stage, epoch or durable_sequence changed; coalescing is the listener's business.
  virtual void OnChange() = 0;
  virtual void OnScrubEnded(const ScrubState& /*result*/) {}

  // Each exactly once and in the order in which it happened, from inside the turn that ordered it; state() shows it already. Must
  // not block; of the Replica it may call state().
  virtual void OnStage(Stage /*stage*/, Term /*term*/) {}
  virtual void OnCommitted(const CheckpointResult& /*result*/) {}
  virtual void OnIncomplete(bool /*incomplete*/) {}
  // The primary has handed over, behind the checkpoint that was committed with it; or that was taken back in stage RUNNING.
  virtual void OnHandover(bool /*handed_over*/) {}
  // Also of a scrub. `ended`: absent when it begins; OK too for one that was overtaken.
  virtual void OnJob(absl::string_view /*kind*/, const std::optional<absl::Status>& /*ended*/) {}
};

struct FailoverOptions {
  bool received = false;  // commit the received prefix first
  // One of History(); absent: the newest committed one. With an older one the active overlay is dropped.
  std::optional<Epoch> epoch;
  // A VM may be in the middle of using the disk: an older epoch is refused, kFailedPrecondition with reason IN_USE.
  bool in_use = false;
  // Refused, kFailedPrecondition, unless the primary has handed over.
  bool after_handover = false;
};

// Reads and writes of a group's volumes as a VM sees them. Any thread, without waiting for replication. Errors as Replica.
class BlockView {
 public:
  virtual ~BlockView() = default;
  virtual absl::Status Read(VolumeId volume, uint64_t offset, std::span<char> out) = 0;
  // `fua`: durable when it answers.
  virtual absl::Status Write(VolumeId volume, uint64_t offset, std::span<const char> data,
                             bool fua) = 0;
  // As so many Write(), in any order. `results`, as many as `writes`, are OK before.
  virtual void WriteAll(VolumeId volume, std::span<const BlockWrite> writes,
                        std::span<absl::Status> results) = 0;
  // `space` counts where the disk is written itself; what goes through an overlay is a hole once a
  // job has copied it.
  virtual absl::Status WriteZeroes(VolumeId volume, ByteRange range, ZeroedSpace space,
                                   bool fua) = 0;
  // With nothing changed since the last one that succeeded it is answered from memory.
  virtual absl::Status Flush(VolumeId volume) = 0;
  // The first `runs_max` runs of `range`, or fewer: it looks at BlockRuns::kPiecesMax pieces at
  // most, and ends where a change of the view overtakes it. Neighbours in it differ.
  virtual absl::StatusOr<std::vector<BlockRun>> Map(VolumeId volume, ByteRange range,
                                                    size_t runs_max) = 0;
};

// As a BlockView it is the secondary VM's disks.
class Replica : public BlockView {
 public:
  virtual const std::string& name() const = 0;
  virtual const std::vector<VolumeInfo>& volumes() const = 0;
  virtual ReplicaState state() const = 0;
  // At most one; nullptr takes it away and returns only when no call into the old one is under way.
  virtual void SetListener(ReplicaListener* listener) = 0;

  // ---- control; blocking. One at a time, except that Failover() may run beside any of them: it waits for the index only, and
  //      what it overtakes fails (Stop() with kAborted) ---------------------------------------------------------------------

  // NONE -> RUNNING: empty overlays, new incarnation, term raised, agent unbound. Checks that each disk is the one that was
  // declared (WRONG_DISK) and takes its lock.
  virtual absl::Status Start() = 0;
  // Binds the primaryship to `agent_id` (or confirms it). Another id is refused with FENCED unless `takeover`, which raises
  // the term, and takes back a hand-over whoever asks. Durable when it answers.
  virtual absl::Status BindAgent(const std::string& agent_id, bool takeover) = 0;
  // A new stream begins (sequences start at 1) or the known one goes on. A new stream id after another one has written
  // since Start makes the group incomplete, durably. Frames of any other stream id are refused with FENCED from now on.
  // `may_checkpoint`: any prefix of the stream may be committed (the primary takes checkpoints by interval), so at the limit of
  // the overlay the replica commits what it has received instead of refusing more.
  virtual absl::Status AttachStream(uint64_t stream_id, bool may_checkpoint) = 0;
  // A last checkpoint of all that was received, applied to the secondary disk; active dropped; RUNNING -> DONE. Blocks
  // until the disk has everything. kAborted with reason INCOMPLETE while incomplete.
  virtual absl::Status Stop() = 0;
  // RUNNING -> FAILOVER: hidden dropped, term raised, one synced batch; the commit job starts behind it. Waits for the index
  // only, never for segment or disk I/O (except with options.received). FAILOVER_FAILED -> FAILOVER: the job again.
  virtual absl::Status Failover(const FailoverOptions& options) = 0;

  // ---- the primary's stream; one caller at a time ---------------------------------------------------------------------

  // Takes the frame's operations into hidden: one vectored write, then the extent maps. Operations at or below
  // received_sequence are skipped as a replay. A CHECKPOINT operation at the end seals the epoch exactly there and calls
  // `on_checkpoint` (required then) once it is committed, from another thread, or with kAborted/INCOMPLETE; a PREPARE likewise,
  // once it is durable. A HANDOVER is a CHECKPOINT after which nothing is taken any more, kFailedPrecondition reason HANDED_OVER:
  // one batch commits both, synced whatever checkpoint_durable says. All or nothing:
  // on error nothing of the frame is visible or counted.
  virtual absl::Status Append(const IncomingFrame& frame, CheckpointCallback on_checkpoint) = 0;

  // ---- checkpoint without a marker: commits what was received. Waits for a running Append, not for its durability. -----
  virtual void RequestCheckpoint(CheckpointCallback done) = 0;
  // ---- the three steps of a lock-step checkpoint: a PREPARE operation, as a CHECKPOINT, seals the epoch and calls back once it
  //      is durable, and changes no view. What becomes of it is decided here, and survives a restart. What is not committed
  //      is part of the next epoch that is; a later PREPARE or CHECKPOINT takes the choice away. ------------------------------

  // Makes `epoch` what the VM sees; the same as the newest committed one again: nothing to do. kFailedPrecondition with reason
  // NOT_PREPARED for any other epoch.
  virtual absl::StatusOr<CheckpointResult> CommitPrepared(Epoch epoch) = 0;
  // The epoch that was prepared; 0: none was.
  virtual absl::StatusOr<Epoch> AbandonPrepared() = 0;

  // The stream that was handed over may go on, as if it had not been; the same primary, the same term. Durable when it answers;
  // nothing to do when none was. kFailedPrecondition unless RUNNING.
  virtual absl::Status TakeBackHandover() = 0;

  // Makes all that was received durable soon; durable_sequence() tells when.
  virtual void RequestDurablePoint() = 0;

  // ---- what has been received: the primary's disk as far as it is known here, hidden over committed overlays over the secondary
  //      disk; never active. Also before the first sync has ended and while incomplete. Any thread, as a VM's reads. ------------

  // A byte is what the primary had written to it when the call began, or later. kFailedPrecondition unless RUNNING, or when the
  // primary's writes are refused for good: what was received is not whole then.
  virtual absl::Status ReadReceived(VolumeId volume, uint64_t offset, std::span<char> out) = 0;
  // Where the first byte of `range` lies of which it is not known, without reading it, that it is zero; the end: all of it is zero.
  virtual absl::StatusOr<uint64_t> ReceivedZeroesEnd(VolumeId volume, ByteRange range) = 0;

  // ---- the way back ---------------------------------------------------------------------------------------------------------

  // Every byte that the VM can have changed since the failover, and every one that the failover took back. DONE only:
  // kFailedPrecondition.
  virtual absl::StatusOr<FailbackRegions> Failback() const = 0;

  // ---- point in time ----------------------------------------------------------------------------------------------------

  // The checkpoints that a failover or a clone can choose, newest first. RUNNING only, else empty.
  virtual std::vector<EpochInfo> History() const = 0;
  // kFailedPrecondition unless RUNNING, kNotFound for an epoch that History() does not have, kAlreadyExists.
  virtual absl::Status CreateClone(const CloneSpec& spec) = 0;
  virtual absl::Status RemoveClone(const std::string& name) = 0;  // kNotFound
  virtual absl::StatusOr<std::shared_ptr<BlockView>> FindClone(const std::string& name) const = 0;
  virtual std::vector<CloneInfo> clones() const = 0;  // sorted by name

  // Begins to verify every extent of every overlay in the background, as written so far, and returns the scrub's number. One that
  // runs already goes on as it is. It stops when the group closes or changes its stage; nothing waits for it. Each damage is
  // reported as a BackgroundError "scrub".
  virtual absl::StatusOr<uint64_t> Scrub(const ScrubOptions& options) = 0;

  // Waits until no apply or commit job runs and nothing committed is left to apply. For Stop, orderly shutdown and tests.
  virtual absl::Status WaitForJobs(const base::Deadline& deadline) = 0;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_REPLICA_H_
