// storage/base/clock.h
//
// The only source of time. Now() is wall-clock time, for people and records; durations are measured with Monotonic().
#ifndef UNDERSTUDY_STORAGE_BASE_CLOCK_H_
#define UNDERSTUDY_STORAGE_BASE_CLOCK_H_

#include "absl/time/time.h"

namespace understudy::base {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
  virtual absl::Duration Monotonic() const = 0;  // since an arbitrary start; never goes back

  static const Clock& Real();
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_CLOCK_H_
