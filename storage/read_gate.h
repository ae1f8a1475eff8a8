// storage/read_gate.h
//
// ReadGate tells when the reads that may have seen an older chain have ended. A read that began before a checkpoint may still be
// on its way to the secondary disk: the apply job must not touch a range before that read is over.
//
// Use      reader: Enter() before it looks at the chain, Leave() after its I/O. Writer: publish the new chain, then
//          Advance(); WaitOlder() of what it returned waits for every reader that may hold the chain before.
// Source   QEMU's version of this race: the copy into the hidden disk waits for overlapping reads.
#ifndef UNDERSTUDY_STORAGE_READ_GATE_H_
#define UNDERSTUDY_STORAGE_READ_GATE_H_

#include <cstdint>
#include <map>

#include "storage/base/mutex.h"

namespace understudy::storage {

class ReadGate {
 public:
  class Visit {
   public:
    explicit Visit(ReadGate& gate) : gate_(gate) {
      base::MutexLock lock(gate_.mutex_);
      generation_ = gate_.generation_;
      ++gate_.readers_[generation_];
    }
    ~Visit() {
      base::MutexLock lock(gate_.mutex_);
      const auto it = gate_.readers_.find(generation_);
      if (--it->second > 0) return;
      gate_.readers_.erase(it);
      gate_.left_.NotifyAll();
    }
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;

   private:
    ReadGate& gate_;
    uint64_t generation_ = 0;
  };

  uint64_t Advance() {
    base::MutexLock lock(mutex_);
    return ++generation_;
  }
  void WaitOlder(uint64_t generation) {
    base::MutexLock lock(mutex_);
    while (!readers_.empty() && readers_.begin()->first < generation) left_.Wait(mutex_);
  }

 private:
  base::Mutex mutex_;
  base::CondVar left_;
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, int> readers_ ABSL_GUARDED_BY(mutex_);  // by the generation they entered in
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_READ_GATE_H_
