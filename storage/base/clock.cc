#include "storage/base/clock.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>

#include "absl/time/clock.h"

namespace understudy::base {
namespace {

std::string BootId() {
  std::string id;
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::getline(file, id);
  return id;
}

class RealClock : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
  absl::Duration Monotonic() const override {
    return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
  }
};

}  // namespace

BootTime Clock::SinceBoot() const {
  static const std::string* const boot_id = new std::string(BootId());
  timespec now = {};
  if (clock_gettime(CLOCK_BOOTTIME, &now) != 0) return {};
  return {.boot_id = *boot_id,
          .since_boot = absl::Trunc(absl::DurationFromTimespec(now), absl::Microseconds(1))};
}

absl::Duration Clock::MonotonicOf(absl::Time time) const {
  return Monotonic() - std::max(Now() - time, absl::ZeroDuration());
}

absl::Time Clock::TimeOf(absl::Duration monotonic) const {
  return Now() - (Monotonic() - monotonic);
}

const Clock& Clock::Real() {
  static const RealClock* const clock = new RealClock;
  return *clock;
}

}  // namespace understudy::base
