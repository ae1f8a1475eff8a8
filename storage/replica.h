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
#include "absl/time/time.h"

#include "storage/base/byte_range.h"
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
  uint64_t committed_bytes = 0;  // committed and not yet on the secondary disk
};

struct JobProgress {
  std::string kind;  // "apply" or "commit"
  uint64_t done_bytes = 0;
  uint64_t total_bytes = 0;
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
  bool valid =
      false;  // the VM's view is a state the primary had (false: before a first sync has ended)
  bool incomplete = false;
  uint64_t stream_id = 0;          // of the newest stream that wrote; 0: none since Start
  uint64_t received_sequence = 0;  // in stream_id
  uint64_t durable_sequence = 0;   // in stream_id
  uint64_t backlog_epochs = 0;     // committed, not yet applied
  std::vector<VolumeUsage> usage;  // by VolumeId
  std::vector<JobProgress> jobs;   // running ones
};

// Where a run of a volume's bytes comes from, for NBD's block status.
struct MapRun {
  ByteRange range;
  bool zero = false;  // reads as zeroes
  bool hole = false;  // no space is allocated for it
};

// What goes wrong in the background. Called from a storage thread; must not block or call back into the Replica.
struct BackgroundError {
  std::string operation;  // apply, commit, index, read, write
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
};

struct FailoverOptions {
  bool received = false;       // commit the received prefix first
  std::optional<Epoch> epoch;  // kUnimplemented unless absent or the newest committed one
};

class Replica {
 public:
  virtual ~Replica() = default;

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
  // the term. Durable when it answers.
  virtual absl::Status BindAgent(const std::string& agent_id, bool takeover) = 0;
  // A new stream begins (sequences start at 1) or the known one goes on. A new stream id after another one has written
  // since Start makes the group incomplete, durably. Frames of any other stream id are refused with FENCED from now on.
  virtual absl::Status AttachStream(uint64_t stream_id) = 0;
  // A last checkpoint of all that was received, applied to the secondary disk; active dropped; RUNNING -> DONE. Blocks
  // until the disk has everything. kAborted with reason INCOMPLETE while incomplete.
  virtual absl::Status Stop() = 0;
  // RUNNING -> FAILOVER: hidden dropped, term raised, one synced batch; the commit job starts behind it. Waits for the index
  // only, never for segment or disk I/O (except with options.received). FAILOVER_FAILED -> FAILOVER: the job again.
  virtual absl::Status Failover(const FailoverOptions& options) = 0;

  // ---- the primary's stream; one caller at a time ---------------------------------------------------------------------

  // Takes the frame's operations into hidden: one vectored write, then the extent maps. Operations at or below
  // received_sequence are skipped as a replay. A CHECKPOINT operation at the end seals the epoch exactly there and calls
  // `on_checkpoint` (required then) once it is committed, from another thread, or with kAborted/INCOMPLETE. All or nothing:
  // on error nothing of the frame is visible or counted.
  virtual absl::Status Append(const IncomingFrame& frame, CheckpointCallback on_checkpoint) = 0;

  // ---- checkpoint without a marker: commits what was received. Waits for a running Append, not for its durability. -----
  virtual void RequestCheckpoint(CheckpointCallback done) = 0;
  // Makes all that was received durable soon; durable_sequence() tells when.
  virtual void RequestDurablePoint() = 0;

  // ---- the secondary VM's disk; any thread ------------------------------------------------------------------------------

  virtual absl::Status Read(VolumeId volume, uint64_t offset, std::span<char> out) = 0;
  // `fua`: durable when it answers.
  virtual absl::Status Write(VolumeId volume, uint64_t offset, std::span<const char> data,
                             bool fua) = 0;
  virtual absl::Status WriteZeroes(VolumeId volume, ByteRange range, bool fua) = 0;
  virtual absl::Status Flush(VolumeId volume) = 0;
  // Runs that cover `range` in order.
  virtual absl::StatusOr<std::vector<MapRun>> Map(VolumeId volume, ByteRange range) = 0;

  // Waits until no apply or commit job runs and nothing committed is left to apply. For Stop, orderly shutdown and tests.
  virtual absl::Status WaitForJobs(absl::Time deadline) = 0;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_REPLICA_H_
