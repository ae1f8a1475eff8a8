// storage/base/range_lock.h
//
// Exclusive locks on byte ranges of one volume. Two requests that overlap run one after the other,
// in the order they asked. A request waits for those before it that it overlaps, and so for those
// that these wait for; one that overlaps none before it does not wait.
//
// Several  a request may ask for several ranges. It stands in the queue once, with all of them, and
//          waits for nobody but those that asked before it: so there is no deadlock, in whatever
//          order its ranges are. They may overlap each other.
//
// Use      Keeps two places that take the same writes (local disk and stream; log and secondary disk) in the same order,
//          and lets a job hold writes to a window while it copies it.
// Threads  all methods from any thread. A thread has at most one Hold of a lock.
// Cost     for each of its ranges linear in the ranges held or awaited at the moment, at most the
//          requests in flight.
#ifndef UNDERSTUDY_STORAGE_BASE_RANGE_LOCK_H_
#define UNDERSTUDY_STORAGE_BASE_RANGE_LOCK_H_

#include <list>
#include <span>

#include "storage/base/byte_range.h"
#include "storage/base/mutex.h"

namespace understudy::base {

class RangeLock {
  using Entries = std::list<std::span<const ByteRange>>;

 public:
  // Holds its ranges until it is destroyed.
  class Hold {
   public:
    Hold(RangeLock& lock, ByteRange range);
    // `ranges` outlive this.
    Hold(RangeLock& lock, std::span<const ByteRange> ranges);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    friend class RangeLock;
    void Await(std::span<const ByteRange> ranges);

    RangeLock& lock_;
    const ByteRange range_;  // when it is one
    Entries::iterator entry_;
  };

 private:
  bool OverlapsEarlier(Entries::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  CondVar released_;
  Entries entries_ ABSL_GUARDED_BY(mutex_);  // held and awaited, in the order they asked
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
};

inline bool RangeLock::OverlapsEarlier(Entries::iterator entry) {
  for (auto earlier = entries_.begin(); earlier != entry; ++earlier) {
    for (const ByteRange& theirs : *earlier) {
      for (const ByteRange& ours : *entry) {
        if (theirs.Overlaps(ours)) return true;
      }
    }
  }
  return false;
}

inline void RangeLock::Hold::Await(std::span<const ByteRange> ranges) {
  MutexLock guard(lock_.mutex_);
  entry_ = lock_.entries_.insert(lock_.entries_.end(), ranges);
  ++lock_.waiting_;
  while (lock_.OverlapsEarlier(entry_)) lock_.released_.Wait(lock_.mutex_);
  --lock_.waiting_;
}

inline RangeLock::Hold::Hold(RangeLock& lock, ByteRange range) : lock_(lock), range_(range) {
  Await({&range_, 1});
}

inline RangeLock::Hold::Hold(RangeLock& lock, std::span<const ByteRange> ranges) : lock_(lock) {
  Await(ranges);
}

inline RangeLock::Hold::~Hold() {
  MutexLock guard(lock_.mutex_);
  lock_.entries_.erase(entry_);
  if (lock_.waiting_ > 0) lock_.released_.NotifyAll();
}

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_RANGE_LOCK_H_
