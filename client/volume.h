// client/volume.h
//
// Volume is one disk as the primary VM sees it. It takes the VM's requests and puts them into the write stream.
//
//     forward   no local disk: takes writes only (the child of a QEMU quorum, or a mirror's target); reads fail with EIO
//     tee       a local disk: reads and writes it, and forwards the writes
//
// Order    a request that changes the disk holds its range in a RangeLock from before the local write until it has its place
//          in the stream, so overlapping concurrent writes have the same order on the local disk
//          and in the stream. TryWrite() needs none: there is no local disk, and its writes take
//          their place in one step, so nobody sees one half done.
// Intent   a region of the local disk is marked in the write-intent log before it is written, until the write has its place in the
//          stream.
// Errors   those of the local disk are the guest's, always. Those of forwarding are latched and never the guest's, except in
//          forward mode with report_forward_errors. Forward mode fails with kInternal (EIO) while replication is not running.
//          Once fenced, with stop_when_fenced, everything fails, reads too. Once handed over, what changes the disk fails, in every
//          stage, reason HANDED_OVER. kCancelled once the gate is closed: the agent is
//          shutting down and does nothing for the request; connect again.
// Threads  all methods from any thread.
#ifndef UNDERSTUDY_CLIENT_VOLUME_H_
#define UNDERSTUDY_CLIENT_VOLUME_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "client/primary_disk.h"
#include "storage/base/block_write.h"
#include "storage/base/io_gate.h"
#include "storage/base/range_lock.h"

namespace understudy::client {

class Differences;
class Forwarder;
class IntentLog;

enum class IoKind : uint8_t { kRead = 0, kWrite, kFlush, kDiscard, kWriteZeroes };
inline constexpr size_t kIoKinds = 5;

// Counters of one volume, read at scrape.
struct IoFigures {
  std::atomic<uint64_t> requests[kIoKinds] = {};
  std::atomic<uint64_t> bytes[kIoKinds] = {};
  std::atomic<uint64_t> local_errors[kIoKinds] = {};
  std::atomic<uint64_t> remote_errors[kIoKinds] = {};
  std::atomic<uint64_t> fenced_requests{0};
};

struct VolumeOptions {
  uint32_t index = 0;  // in the forwarder's list
  std::string name;
  uint64_t size_bytes = 0;
  bool report_forward_errors = false;  // forward mode: the guest sees what could not be forwarded
  bool stop_when_fenced = true;
};

// What must be stored before the disk changes.
struct BeforeChange {
  std::function<absl::Status()> store;  // an error fails the request; cheap while it is stored
  std::function<bool()> stored;         // store() would do nothing
};

class Volume {
 public:
  // `disk` null: forward mode. `forwarder`, `gate` and `intents` (null: none is kept) outlive this.
  Volume(VolumeOptions options, Forwarder* forwarder, base::IoGate* gate,
         std::unique_ptr<PrimaryDisk> disk, BeforeChange before_change,
         IntentLog* intents = nullptr);

  absl::Status Read(uint64_t offset, std::span<char> out);
  // `fua`: as if a Flush() of this range followed.
  absl::Status Write(uint64_t offset, std::span<const char> data, bool fua);
  // As so many Write(), but they have their ranges, their place in the stream and a sync together.
  // `results`, as many as `writes`, are OK before.
  void WriteAll(std::span<const BlockWrite> writes, std::span<absl::Status> results);
  // Takes as many of the first writes as need no waiting, neither for a disk nor for room nor for
  // anybody, and returns how many; these are done. None in tee mode; see Forwarder::TryWrite().
  size_t TryWrite(std::span<const BlockWrite> writes);
  // `space`: of the local disk. At the standby zeroes become holes in any case.
  absl::Status WriteZeroes(uint64_t offset, uint64_t length, ZeroedSpace space, bool fua);
  absl::Status Discard(uint64_t offset, uint64_t length, bool fua);
  absl::Status Flush();
  // Tee mode only. The first `runs_max` runs of `range`, or fewer: it looks at
  // BlockRuns::kPiecesMax pieces at most.
  absl::StatusOr<std::vector<BlockRun>> Map(ByteRange range, size_t runs_max);

  // ---- for the resync; tee mode only; not the VM's requests: neither gated nor counted --------------------------------

  absl::Status ReadDisk(uint64_t offset, std::span<char> out) const;
  absl::StatusOr<bool> IsHole(ByteRange range) const { return disk_->IsHole(range); }
  absl::Status SyncDisk() { return tee() ? disk_->Sync() : absl::OkStatus(); }
  // Takes what the disk holds of `range` out of the missing and into the stream; puts it back when that fails.
  absl::Status Resend(ByteRange range, Differences& differences);
  // While `run` runs, nobody changes `range`; what was written to it before has its place in the stream.
  absl::Status WhileHeld(ByteRange range, absl::FunctionRef<absl::Status()> run);

  const VolumeOptions& options() const { return options_; }
  bool tee() const { return disk_ != nullptr; }
  std::string disk_path() const { return tee() ? disk_->path() : ""; }
  const PrimaryDisk* disk() const { return disk_.get(); }  // null: forward mode
  const IoFigures& figures() const { return figures_; }
  // Called by the owner when the secondary has refused us for good.
  void SetFenced(bool fenced) { fenced_.store(fenced, std::memory_order_release); }
  // Likewise, once the primary is to write no more. What is under way goes on: see AwaitChanges().
  void SetHandedOver(bool handed_over) {
    handed_over_.store(handed_over, std::memory_order_release);
  }
  // Until every change that has begun has its place in the stream, or has failed.
  void AwaitChanges();

 private:
  absl::Status CheckRequest(const base::IoGate::Pass& pass, uint64_t offset, uint64_t length);
  // Reads, too: the service's exports refuse them, and a VM is to see the same at both ends.
  absl::Status CheckSectors(uint64_t offset, uint64_t length) const;
  // The checks of a request that changes the disk; counts it.
  absl::Status BeginChange(const base::IoGate::Pass& pass, IoKind kind, uint64_t offset,
                           uint64_t length);
  absl::Status Change(IoKind kind, uint64_t offset, uint64_t length, bool fua,
                      absl::FunctionRef<absl::Status()> locally,
                      absl::FunctionRef<absl::Status(uint64_t* ticket)> forward);
  // Changes whose result is not OK are passed over, here and by `forward`; their range is empty.
  void ChangeAll(
      IoKind kind, std::span<ByteRange> ranges, std::span<absl::Status> results,
      absl::FunctionRef<absl::Status(size_t index)> locally,
      absl::FunctionRef<void(std::span<absl::Status> results, uint64_t* ticket)> forward);
  // Latches nothing itself: the forwarder has. What the guest is told.
  absl::Status AfterForward(IoKind kind, const absl::Status& status);
  absl::Status CheckMayChange() const;
  absl::Status LocalResult(IoKind kind, ByteRange range, const absl::Status& status);
  void Count(IoKind kind, uint64_t requests, uint64_t bytes);

  const VolumeOptions options_;
  Forwarder* const forwarder_;
  base::IoGate* const gate_;
  const std::unique_ptr<PrimaryDisk> disk_;
  const BeforeChange before_change_;
  IntentLog* const intents_;
  base::RangeLock ranges_;
  std::atomic<bool> fenced_{false};
  std::atomic<bool> handed_over_{false};
  std::atomic<bool> read_refused_{false};  // said once
  IoFigures figures_;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_VOLUME_H_
