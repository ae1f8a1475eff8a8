// client/resync.h
//
// Resync brings the standby up to date while the VM writes: it compares what is suspect, sends what is missing behind the VM's own
// writes, and ends the INCOMPLETE with a checkpoint. What it sends goes into the standby's hidden overlay like any write, so the standby
// is at a complete checkpoint all the time. It begins by itself whenever the group is incomplete and connected, and begins anew where it
// was when the connection breaks.
//
// Verify compares everything the same way, and what seems to differ once more with the VM's writes held back, so that its verdict is
// exact; it changes nothing.
//
// A volume in forward mode has no disk to read: there the forwarder takes writes again as soon as it can, and whoever mirrors the disk
// says when it is complete (Primary::DeclareComplete()). In a group that has both, the others are brought up to date meanwhile, and the
// INCOMPLETE ends with whichever comes last.
//
// Threads  two of its own. All methods from any thread.
// Source   the order of compare and send: DRBD's checksum-based resync; the proof that comparing needs no locks: client/comparison.h.
#ifndef UNDERSTUDY_CLIENT_RESYNC_H_
#define UNDERSTUDY_CLIENT_RESYNC_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "client/checksum_source.h"
#include "client/client_types.h"
#include "storage/base/clock.h"
#include "storage/base/event_journal.h"
#include "storage/base/mutex.h"
#include "storage/base/rate_limit.h"

namespace understudy::client {

class Differences;
class Forwarder;
class Volume;
struct Comparison;

// What a verify found; see VerifyStatus in proto/understudy/v1/replication.proto. Same numbers as VerifyOutcome.
enum class VerifyOutcome : uint8_t { kNone = 0, kRunning, kEqual, kDifferent, kStopped };

struct VerifyState {
  VerifyOutcome outcome = VerifyOutcome::kNone;
  uint64_t number = 0;
  absl::Time started = absl::UnixEpoch();
  absl::Time ended = absl::UnixEpoch();
  absl::Time last_equal = absl::UnixEpoch();
  uint64_t bytes = 0;
  uint64_t different_bytes = 0;
  std::string message;
};

// Done and total in bytes of the volumes; the total may grow.
struct SyncJob {
  bool running = false;
  uint64_t done_bytes = 0;
  uint64_t total_bytes = 0;
};

class Resync {
 public:
  struct Parts {
    Forwarder* forwarder = nullptr;
    std::vector<Volume*> volumes;
    Differences* differences = nullptr;
    ChecksumSource* source = nullptr;  // may be null when no volume is tee
    base::EventJournal* journal = nullptr;
    const base::Clock* clock = nullptr;
    uint64_t bytes_per_second = 0;  // of what is compared or sent; 0: no limit
    // Brings `differences` to the disk: at times while a resync runs, and when it has ended.
    std::function<void()> store;
    // What it has proved or refuted. A refutation is told before it is said.
    std::function<void(Proof)> store_proof;
  };
  // All of `parts` outlive this.
  explicit Resync(Parts parts);
  ~Resync();  // Stop()

  void Interrupt();  // as Stop(), which has to follow, but does not wait
  void Stop();

  // kFailedPrecondition unless all volumes are tee; kUnavailable unless connected. Returns its number.
  absl::StatusOr<uint64_t> StartVerify(uint64_t bytes_per_second);
  VerifyState verify() const;
  SyncJob verify_job() const;
  SyncJob resync_job() const;
  uint64_t sent_bytes(uint32_t volume) const { return sent_bytes_[volume]; }
  uint64_t ended_ok() const { return ended_ok_; }  // resyncs
  uint64_t ended_failed() const { return ended_failed_; }
  Proof proof() const { return proof_.load(std::memory_order_acquire); }
  // The owner knows better: another pair, an earlier run's proof, or everything became suspect (kProved).
  void SetProof(Proof proof);

 private:
  void Run();
  void RunOnce();
  absl::Status BringUpToDate();
  absl::Status SendMissing();
  absl::StatusOr<bool> CompareNext();  // false: nothing is suspect
  absl::Status End();
  absl::Status Pace(base::RateLimit& limit, uint64_t bytes);
  void Prove();
  void StoreAtTimes(bool now);
  void RunVerify();
  absl::Status VerifyAll(base::RateLimit& limit);
  absl::Status Recheck(Volume& volume, ByteRange range);
  void EndVerify(const absl::Status& status);
  Comparison ComparisonOf(Volume& volume) const;
  void Tell(base::EventKind kind, const std::string& job, const absl::Status& status);
  bool stopping() const;
  void Sleep(absl::Duration duration);
  bool tee() const;  // all volumes
  // Missing and suspect, of the volumes that have a local disk.
  uint64_t Remaining() const;
  // Not the copy of volumes that have none.
  bool HasWork() const;

  const Parts parts_;
  base::RateLimit limit_;
  std::vector<std::atomic<uint64_t>> sent_bytes_;  // by volume
  std::atomic<uint64_t> ended_ok_{0};
  std::atomic<uint64_t> ended_failed_{0};
  std::atomic<Proof> proof_{Proof::kNone};
  // When all of the differences are made good, what a verify has found is, too.
  std::atomic<bool> everything_{false};
  absl::Duration stored_ = -absl::InfiniteDuration();  // likewise, of the resync's thread
  std::string last_failure_;                           // likewise

  mutable base::Mutex mutex_;
  base::CondVar wake_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  SyncJob job_ ABSL_GUARDED_BY(mutex_);
  VerifyState verify_ ABSL_GUARDED_BY(mutex_);
  uint64_t verify_rate_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread resync_thread_;  // last: they use the rest
  std::thread verify_thread_;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_RESYNC_H_
