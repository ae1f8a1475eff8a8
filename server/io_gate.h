// server/io_gate.h
//
// IoGate lets any number of I/O requests through until it is closed; closing waits for those inside. It stands between the
// NBD exports and the store, so that the store can be closed while clients are still connected.
// Cost     one atomic add each way; a mutex only while closing.
#ifndef UNDERSTUDY_SERVER_IO_GATE_H_
#define UNDERSTUDY_SERVER_IO_GATE_H_

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"

#include "storage/base/mutex.h"

namespace understudy::server {

class IoGate {
 public:
  class Pass {
   public:
    explicit Pass(IoGate& gate) : gate_(gate), open_(gate.Enter()) {}
    ~Pass() { gate_.Leave(); }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    bool open() const { return open_; }  // false: the gate is closed, do nothing

   private:
    IoGate& gate_;
    const bool open_;
  };

  // Lets nobody in from now on; false when requests are still inside after `timeout`.
  bool Close(absl::Duration timeout) {
    state_.fetch_or(kClosed);
    base::MutexLock lock(mutex_);
    while (state_.load() != kClosed) {
      if (!empty_.WaitFor(mutex_, timeout) && state_.load() != kClosed) return false;
    }
    return true;
  }

 private:
  static constexpr uint64_t kClosed = 1ULL << 63;

  bool Enter() { return (state_.fetch_add(1) & kClosed) == 0; }
  void Leave() {
    if (state_.fetch_sub(1) != kClosed + 1) return;
    base::MutexLock lock(mutex_);
    empty_.NotifyAll();
  }

  std::atomic<uint64_t> state_{0};  // requests inside, and kClosed
  base::Mutex mutex_;
  base::CondVar empty_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_IO_GATE_H_
