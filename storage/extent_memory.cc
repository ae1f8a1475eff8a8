#include "storage/extent_memory.h"

#include <algorithm>
#include <iterator>

#include "storage/base/log.h"

namespace understudy::storage {

void ExtentMemory::Enter(uint64_t age, Holder& holder) {
  base::MutexLock lock(mutex_);
  UNDERSTUDY_CHECK(holders_.emplace(age, &holder).second);
}

void ExtentMemory::Leave(uint64_t age, Holder& holder) {
  base::MutexLock lock(mutex_);
  UNDERSTUDY_CHECK(holders_.erase({age, &holder}) == 1);
}

void ExtentMemory::TrimNow() {
  if (trimming_.exchange(true)) return;
  const uint64_t target = limit_bytes_ - limit_bytes_ / 8;
  // The first sweep spares what was used since the last one.
  const bool reached = Sweep(target) || Sweep(target);
  trim_above_.store(
      reached ? limit_bytes_ : std::max(limit_bytes_, resident_bytes() + limit_bytes_ / 16),
      std::memory_order_relaxed);
  trimming_.store(false);
}

// False: every holder was asked and it was not enough.
bool ExtentMemory::Sweep(uint64_t target_bytes) {
  std::pair<uint64_t, Holder*> next;
  while (resident_bytes() > target_bytes) {
    base::MutexLock lock(mutex_);
    const auto holder = holders_.lower_bound(next);
    if (holder == holders_.end()) return false;
    const uint64_t resident = resident_bytes();
    if (resident <= target_bytes) break;
    bool done = false;
    holder->second->Evict(resident - target_bytes, &done);
    if (done && std::next(holder) == holders_.end()) break;
    next = done ? *std::next(holder) : *holder;
  }
  return resident_bytes() <= target_bytes;
}

}  // namespace understudy::storage
