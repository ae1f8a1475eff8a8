// storage/base/clock.h
//
// The only source of time. Now() is wall-clock time, for people and records: it jumps when somebody
// sets the clock. Durations, also how long to wait and when something is due, are measured with
// Monotonic(). A test (tidy_clocks) holds the sources to it.
#ifndef UNDERSTUDY_STORAGE_BASE_CLOCK_H_
#define UNDERSTUDY_STORAGE_BASE_CLOCK_H_

#include <string>

#include "absl/time/time.h"

namespace understudy::base {

// A time on this host that a later process of the same boot can measure from.
struct BootTime {
  std::string boot_id;        // another one after each boot of the host; empty: not known
  absl::Duration since_boot;  // while the host was suspended, too

  // InfiniteDuration() when the two are of different boots, or one is not known: then nobody can
  // say.
  static absl::Duration Between(const BootTime& earlier, const BootTime& later) {
    const bool same = !earlier.boot_id.empty() && earlier.boot_id == later.boot_id;
    return same ? later.since_boot - earlier.since_boot : absl::InfiniteDuration();
  }
  friend bool operator==(const BootTime& a, const BootTime& b) = default;
};

class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
  virtual absl::Duration Monotonic() const = 0;  // since an arbitrary start; never goes back
  virtual BootTime SinceBoot() const;            // unless a test says otherwise, the kernel's

  // What Monotonic() was at a `time` that an earlier process has recorded: by the wall clock, as
  // both know no other. Not later than now.
  absl::Duration MonotonicOf(absl::Time time) const;

  // The other way round, for people: what the wall clock, as it is set now, says of a moment of
  // Monotonic().
  absl::Time TimeOf(absl::Duration monotonic) const;

  static const Clock& Real();
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_CLOCK_H_
