// server/gate.h
//
// A Gate lets one control call through at a time, as base::Turn, but a caller waits no longer than its deadline: a call that
// is stuck on a dead disk must not take the callers behind it along. May be held across I/O; never taken under a Mutex.
#ifndef UNDERSTUDY_SERVER_GATE_H_
#define UNDERSTUDY_SERVER_GATE_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/deadline.h"
#include "storage/base/mutex.h"

namespace understudy::server {

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

  // kDeadlineExceeded when another call is still inside at `deadline`; kCancelled when the caller has gone.
  absl::StatusOr<Pass> Enter(const base::Deadline& deadline) {
    base::MutexLock lock(mutex_);
    while (taken_) {
      if (deadline.Wait(left_, mutex_) || !taken_) continue;
      return deadline.Passed(
          "another control call has not ended yet; look at the disks it works on, then try again");
    }
    taken_ = true;
    return Pass(this);
  }

 private:
  void Leave() {
    base::MutexLock lock(mutex_);
    taken_ = false;
    left_.NotifyOne();
  }

  base::Mutex mutex_;
  base::CondVar left_;
  bool taken_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_GATE_H_
