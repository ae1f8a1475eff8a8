// storage/base/range_lock.h
//
// Exclusive locks on byte ranges of one volume. Two requests that overlap run one after the other, in the order they
// asked; requests that do not overlap never wait for each other.
//
// Use      Keeps two places that take the same writes (local disk and stream; log and secondary disk) in the same order,
//          and lets a job hold writes to a window while it copies it.
// Threads  all methods from any thread. A thread holds at most one range of a lock.
// Cost     linear in the ranges held or awaited at the moment, at most the requests in flight.
#ifndef UNDERSTUDY_STORAGE_BASE_RANGE_LOCK_H_
#define UNDERSTUDY_STORAGE_BASE_RANGE_LOCK_H_

#include <list>

#include "storage/base/byte_range.h"
#include "storage/base/mutex.h"

namespace understudy::base {

class RangeLock {
 public:
  // Holds its range until it is destroyed.
  class Hold {
   public:
    Hold(RangeLock& lock, ByteRange range);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    friend class RangeLock;
    RangeLock& lock_;
    std::list<ByteRange>::iterator entry_;
  };

 private:
  bool OverlapsEarlier(std::list<ByteRange>::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  CondVar released_;
  std::list<ByteRange> entries_
      ABSL_GUARDED_BY(mutex_);  // held and awaited, in the order they asked
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
};

inline bool RangeLock::OverlapsEarlier(std::list<ByteRange>::iterator entry) {
  for (auto earlier = entries_.begin(); earlier != entry; ++earlier) {
    if (earlier->Overlaps(*entry)) return true;
  }
  return false;
}

inline RangeLock::Hold::Hold(RangeLock& lock, ByteRange range) : lock_(lock) {
  MutexLock guard(lock_.mutex_);
  entry_ = lock_.entries_.insert(lock_.entries_.end(), range);
  ++lock_.waiting_;
  while (lock_.OverlapsEarlier(entry_)) lock_.released_.Wait(lock_.mutex_);
  --lock_.waiting_;
}

inline RangeLock::Hold::~Hold() {
  MutexLock guard(lock_.mutex_);
  lock_.entries_.erase(entry_);
  if (lock_.waiting_ > 0) lock_.released_.NotifyAll();
}

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_RANGE_LOCK_H_
