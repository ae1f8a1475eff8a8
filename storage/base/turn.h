// storage/base/turn.h
//
// A Turn is held by one thread at a time and, unlike a Mutex, may be held across I/O: it orders whole operations, not
// accesses to memory. Never take one while holding a Mutex.
#ifndef UNDERSTUDY_STORAGE_BASE_TURN_H_
#define UNDERSTUDY_STORAGE_BASE_TURN_H_

#include "storage/base/mutex.h"

namespace understudy::base {

class Turn {
 public:
  class Hold {
   public:
    explicit Hold(Turn& turn) : turn_(turn) {
      MutexLock lock(turn_.mutex_);
      while (turn_.taken_) turn_.released_.Wait(turn_.mutex_);
      turn_.taken_ = true;
    }
    ~Hold() {
      MutexLock lock(turn_.mutex_);
      turn_.taken_ = false;
      turn_.released_.NotifyOne();
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    Turn& turn_;
  };

 private:
  Mutex mutex_;
  CondVar released_;
  bool taken_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_TURN_H_
