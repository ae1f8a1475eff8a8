// server/stats.h
//
// What a group and the service count, read by server/metrics at each scrape. Counters only go up; all may be touched from any
// thread without a lock.
#ifndef UNDERSTUDY_SERVER_STATS_H_
#define UNDERSTUDY_SERVER_STATS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "storage/base/error_reason.h"

namespace understudy::server {

class Counter {
 public:
  void Add(uint64_t amount = 1) { value_.fetch_add(amount, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Of one volume: guest I/O by operation, and what failed on its disk.
enum class IoKind : size_t { kRead, kWrite, kFlush, kDiscard, kWriteZeroes };
inline constexpr std::array<absl::string_view, 5> kIoKindNames = {"read", "write", "flush",
                                                                  "discard", "write_zeroes"};
struct IoStats {
  struct PerKind {
    Counter requests, bytes, errors;
  };
  std::array<PerKind, kIoKindNames.size()> kinds;
  Counter disk_checksum_failures;
  std::array<Counter, base::kErrorReasonNames.size()>
      replication_errors;  // of its apply or commit job
};

enum class CheckpointOutcome : size_t { kOk, kFailed, kAborted };
inline constexpr std::array<absl::string_view, 3> kCheckpointOutcomeNames = {"ok", "failed",
                                                                             "aborted"};

// What concerns a stream concerns every volume of its group, and is counted once.
struct GroupStats {
  Counter received_bytes, received_operations;
  Counter sessions_ok, sessions_failed;
  Counter fenced_requests;
  Counter wire_checksum_failures;
  Counter failovers_ok, failovers_failed;
  std::array<Counter, base::kErrorReasonNames.size()> errors;
  IoStats clone_io;  // of all its clones
  std::array<Counter, kCheckpointOutcomeNames.size()> checkpoints;
};

// A histogram of durations with the bounds of OPERATIONS: .0002 to 1 s.
class DurationHistogram {
 public:
  static constexpr std::array<double, 12> kBoundsSeconds = {.0002, .0005, .001, .002, .005, .01,
                                                            .02,   .05,   .1,   .25,  .5,   1};
  void Observe(absl::Duration duration);

  struct View {
    std::array<uint64_t, kBoundsSeconds.size() + 1> cumulative{};  // the last: all
    double sum_seconds = 0;
  };
  View view() const;

 private:
  std::array<Counter, kBoundsSeconds.size() + 1> buckets_;
  Counter nanoseconds_;
};

// Over all groups.
struct ServiceStats {
  DurationHistogram checkpoint_commit;  // marker's arrival to commit
  DurationHistogram checkpoint_total;   // Checkpoint call to its answer
  Counter sessions_refused;             // handshakes for groups that do not exist
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_STATS_H_
