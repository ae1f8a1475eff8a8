// storage/base/unflushed.h
//
// Unflushed knows whether anything has changed since the last flush that succeeded. A flush that
// has nothing to do is answered from memory: QEMU sends two at each stop and two at each migrate.
//
// Promise  what had been changed before Flush() was called, and was not under way any more, is
//          durable when it returns OK. A change that is under way meanwhile is nobody's yet: it
//          counts when it ends, and the next Flush() is a real one again. One that failed counts as
//          well, since any part of it may be there.
// First    of a process always real: an earlier process may have left what it did not flush.
// Errors   a flush that fails covers nothing, so all after it are real until one succeeds. That a
//          disk which has lost something never succeeds again is up to the caller's `flush`.
// Shared   one real flush at a time. Whoever waits for it is answered by the next one, together.
// Threads  all methods from any thread. No mutex is held while `flush` runs.
#ifndef UNDERSTUDY_STORAGE_BASE_UNFLUSHED_H_
#define UNDERSTUDY_STORAGE_BASE_UNFLUSHED_H_

#include <atomic>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

#include "storage/base/turn.h"

namespace understudy::base {

class Unflushed {
 public:
  // Something was changed, or may have been. Before that is answered.
  void NoteChange() { changes_.fetch_add(1); }

  // Runs `flush`, which makes durable all that was changed before it began, unless there is nothing
  // to do.
  absl::Status Flush(absl::FunctionRef<absl::Status()> flush) {
    const uint64_t wanted = changes_.load();
    if (flushed_.load() >= wanted) return absl::OkStatus();
    const Turn::Hold turn(turn_);
    if (flushed_.load() >= wanted) return absl::OkStatus();
    const uint64_t covered = changes_.load();
    absl::Status status = flush();
    if (status.ok()) flushed_.store(covered);
    return status;
  }

 private:
  std::atomic<uint64_t> changes_{1};  // so that the first flush is a real one
  std::atomic<uint64_t> flushed_{0};
  Turn turn_;  // of who flushes
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_UNFLUSHED_H_
