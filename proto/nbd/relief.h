// proto/nbd/relief.h
//
// Relief looks every kLook whether a reader that works on a request itself has been kept by it, and
// has another thread read on. So a lone request costs no second thread, and one that blocks delays
// what comes behind it by no more than that.
//
// Cost     a thread, which sleeps when nobody has worked for a while.
// Threads  Watch() from any thread.
#ifndef UNDERSTUDY_PROTO_NBD_RELIEF_H_
#define UNDERSTUDY_PROTO_NBD_RELIEF_H_

#include <atomic>
#include <functional>
#include <thread>
#include <utility>

#include "absl/time/time.h"

#include "storage/base/mutex.h"

namespace understudy::nbd {

class Relief {
 public:
  static constexpr absl::Duration kLook = absl::Milliseconds(2);

  // `relieve` relieves who needs it and says whether any reader works; the thread calls it.
  explicit Relief(std::function<bool()> relieve)
      : relieve_(std::move(relieve)), thread_([this] { Run(); }) {}
  ~Relief() {
    {
      base::MutexLock lock(mutex_);
      ending_ = true;
      wake_.NotifyAll();
    }
    thread_.join();
  }
  Relief(const Relief&) = delete;
  Relief& operator=(const Relief&) = delete;

  // A reader works from now on, which `relieve` sees.
  void Watch() {
    if (awake_.load()) return;
    base::MutexLock lock(mutex_);
    awake_ = true;
    wake_.NotifyAll();
  }

 private:
  static constexpr int kLooksInVain = 50;

  void Run() {
    int in_vain = 0;
    mutex_.Lock();
    while (!ending_) {
      if (!awake_) {
        wake_.Wait(mutex_);
        in_vain = 0;
        continue;
      }
      wake_.WaitFor(mutex_, kLook);
      mutex_.Unlock();
      // Asleep first, then a last look: who works since then has seen it asleep.
      if (in_vain >= kLooksInVain) awake_ = false;
      in_vain = relieve_() ? 0 : in_vain + 1;
      mutex_.Lock();
      if (in_vain == 0) awake_ = true;
    }
    mutex_.Unlock();
  }

  const std::function<bool()> relieve_;
  base::Mutex mutex_;
  base::CondVar wake_;
  std::atomic<bool> awake_{false};
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_RELIEF_H_
