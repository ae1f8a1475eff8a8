// storage/extent_memory.h
//
// ExtentMemory is the budget for what a store keeps of its index in memory: it counts the bytes of all extent maps and, when they
// are over the limit, lets their holders give some back, the oldest first.
//
// Who evicts  whoever added: Trim() runs on the threads that write and load. What is not in the index yet cannot go, so the
//          limit may be passed by what a durable point covers (index_batch_bytes of data) and what a request under way needs.
// Threads  any. Trim() takes the holders' locks: REQUIRES none of them held.
#ifndef UNDERSTUDY_STORAGE_EXTENT_MEMORY_H_
#define UNDERSTUDY_STORAGE_EXTENT_MEMORY_H_

#include <atomic>
#include <cstdint>
#include <set>
#include <utility>

#include "storage/base/mutex.h"

namespace understudy::storage {

class ExtentMemory {
 public:
  class Holder {
   public:
    virtual ~Holder() = default;
    // Gives about `bytes` back if it can; returns how many, and sets `*done` when it has looked at everything it holds since the
    // last time it was done. Looks at a bounded number of things at a time. What was used since it was last looked at stays.
    virtual uint64_t Evict(uint64_t bytes, bool* done) = 0;
  };

  explicit ExtentMemory(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // Lower `age` is older. An entered holder leaves before it ends.
  void Enter(uint64_t age, Holder& holder);
  void Leave(uint64_t age, Holder& holder);

  uint64_t limit_bytes() const { return limit_bytes_; }
  void Add(int64_t bytes) { resident_bytes_.fetch_add(bytes, std::memory_order_relaxed); }
  uint64_t resident_bytes() const {
    return static_cast<uint64_t>(resident_bytes_.load(std::memory_order_relaxed));
  }
  // For the metrics: a range was looked up in the index because it was not in memory.
  void CountColdRead() { cold_reads_.fetch_add(1, std::memory_order_relaxed); }
  uint64_t cold_reads() const { return cold_reads_.load(std::memory_order_relaxed); }

  // Evicts until an eighth below the limit when over it. After it found nothing more to evict it does nothing until memory
  // has grown by another sixteenth, or Retry().
  void Trim() {
    if (resident_bytes() > trim_above_.load(std::memory_order_relaxed)) TrimNow();
  }
  // More may be evicted now: changes reached the index.
  void Retry() { trim_above_.store(limit_bytes_, std::memory_order_relaxed); }

 private:
  void TrimNow();
  bool Sweep(uint64_t target_bytes);

  const uint64_t limit_bytes_;
  std::atomic<int64_t> resident_bytes_ = 0;
  std::atomic<uint64_t> cold_reads_ = 0;
  std::atomic<uint64_t> trim_above_ = limit_bytes_;
  std::atomic<bool> trimming_ = false;  // one thread at a time; the others go on
  base::Mutex mutex_;  // held while a holder evicts a step, so that it cannot end meanwhile
  std::set<std::pair<uint64_t, Holder*>> holders_ ABSL_GUARDED_BY(mutex_);  // by age
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_EXTENT_MEMORY_H_
