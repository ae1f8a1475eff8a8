// storage/base/io_gate.h
//
// IoGate lets any number of I/O requests through until it is closed; closing waits for those inside. It stands between NBD
// exports and what they serve, so that this can be brought to rest while clients are still connected.
//
// Cost     one compare-and-swap in, one atomic subtraction out; a mutex only while closing.
// Threads  all methods from any thread.
#ifndef UNDERSTUDY_STORAGE_BASE_IO_GATE_H_
#define UNDERSTUDY_STORAGE_BASE_IO_GATE_H_

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"

#include "storage/base/deadline.h"
#include "storage/base/mutex.h"

namespace understudy::base {

class IoGate {
 public:
  class Pass {
   public:
    explicit Pass(IoGate& gate) : gate_(gate), open_(gate.Enter()) {}
    ~Pass() {
      if (open_) gate_.Leave();
    }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    bool open() const { return open_; }  // false: the gate is closed, do nothing

   private:
    IoGate& gate_;
    const bool open_;
  };

  // Lets nobody in from now on; false when requests are still inside after `timeout`. May be repeated.
  bool Close(absl::Duration timeout) {
    state_.fetch_or(kClosed);
    const Deadline deadline = Deadline::After(timeout);
    MutexLock lock(mutex_);
    while (state_.load() != kClosed) {
      if (!deadline.Wait(empty_, mutex_) && state_.load() != kClosed) return false;
    }
    return true;
  }

 private:
  static constexpr uint64_t kClosed = 1ULL << 63;

  // Who is refused is not counted: a client that tries again and again cannot keep Close() waiting.
  bool Enter() {
    uint64_t state = state_.load();
    while ((state & kClosed) == 0) {
      if (state_.compare_exchange_weak(state, state + 1)) return true;
    }
    return false;
  }
  void Leave() {
    if (state_.fetch_sub(1) != kClosed + 1) return;
    MutexLock lock(mutex_);
    empty_.NotifyAll();
  }

  std::atomic<uint64_t> state_{0};  // requests inside, and kClosed
  Mutex mutex_;
  CondVar empty_;
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_IO_GATE_H_
