// storage/base/gate.h
//
// A Gate lets one control call through at a time, as base::Turn, but a caller waits no longer than its deadline: a call that
// is stuck on a dead disk must not take the callers behind it along. May be held across I/O; never taken under a Mutex.
#ifndef UNDERSTUDY_STORAGE_BASE_GATE_H_
#define UNDERSTUDY_STORAGE_BASE_GATE_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/deadline.h"
#include "storage/base/mutex.h"

namespace understudy::base {

class Gate {
 public:
  class Pass {
   public:
    explicit Pass(Gate* gate) : gate_(gate) {}
    Pass(Pass&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Pass& operator=(Pass&&) = delete;
    ~Pass() {
      if (gate_ != nullptr) gate_->Leave();
    }

   private:
    Gate* gate_;
  };

  // kDeadlineExceeded when another call is still inside at `deadline`; kCancelled when the caller has gone. Whoever had to wait for
  // longer than that does not get in: nobody waits for its answer.
  absl::StatusOr<Pass> Enter(const Deadline& deadline) {
    MutexLock lock(mutex_);
    bool late = false;
    while (taken_ && !late) {
      deadline.Wait(left_, mutex_);
      late = deadline.over();
    }
    if (late) {
      if (!taken_) left_.NotifyOne();
      return deadline.Passed(
          "another control call has not ended yet; look at the disks it works on, then try again");
    }
    taken_ = true;
    return Pass(this);
  }

 private:
  void Leave() {
    MutexLock lock(mutex_);
    taken_ = false;
    left_.NotifyOne();
  }

  Mutex mutex_;
  CondVar left_;
  bool taken_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_GATE_H_
