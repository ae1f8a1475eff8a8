// storage/base/rate_limit.h
//
// RateLimit hands out bytes at a rate that all its users share. A request is granted whole, however large, and paid for
// afterwards by the next one's wait; so over any time t no more than rate * (t + 100 ms) and one request are granted.
//
// Units    bytes per second; times are Clock::Monotonic().
// Threads  any.
#ifndef UNDERSTUDY_STORAGE_BASE_RATE_LIMIT_H_
#define UNDERSTUDY_STORAGE_BASE_RATE_LIMIT_H_

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

#include "storage/base/mutex.h"

namespace understudy::base {

class RateLimit {
 public:
  explicit RateLimit(uint64_t bytes_per_second) : bytes_per_second_(bytes_per_second) {}

  // Grants `bytes` and returns zero, or grants nothing and returns how long to wait before asking again.
  absl::Duration Take(uint64_t bytes, absl::Duration now) {
    if (bytes_per_second_ == 0) return absl::ZeroDuration();
    MutexLock lock(mutex_);
    if (paid_at_ > now) return paid_at_ - now;
    ChargeLocked(bytes, now);
    return absl::ZeroDuration();
  }

  // For bytes that cannot wait: the next ones do.
  void Charge(uint64_t bytes, absl::Duration now) {
    if (bytes_per_second_ == 0) return;
    MutexLock lock(mutex_);
    ChargeLocked(bytes, now);
  }

  // A request that keeps the traffic even: a quarter of a second's worth, from `least` to `most`.
  uint64_t StepBytes(uint64_t least, uint64_t most) const {
    return bytes_per_second_ == 0 ? most : std::clamp(bytes_per_second_ / 4, least, most);
  }

 private:
  void ChargeLocked(uint64_t bytes, absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    // What was not asked for in time is lost, but for what a late thread may make up.
    paid_at_ = std::max(paid_at_, now - absl::Milliseconds(100)) +
               absl::Seconds(static_cast<double>(bytes) / static_cast<double>(bytes_per_second_));
  }

  const uint64_t bytes_per_second_;  // 0: no limit
  Mutex mutex_;
  absl::Duration paid_at_ ABSL_GUARDED_BY(mutex_) =
      -absl::InfiniteDuration();  // all that was granted
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_RATE_LIMIT_H_
