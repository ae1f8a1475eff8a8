// tests/testing/scripted_clock.h
//
// A clock that stands still until the test moves it: time goes by, somebody sets the wall clock,
// the host boots.
#ifndef UNDERSTUDY_TESTS_TESTING_SCRIPTED_CLOCK_H_
#define UNDERSTUDY_TESTS_TESTING_SCRIPTED_CLOCK_H_

#include <atomic>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

#include "storage/base/clock.h"

namespace understudy::testing {

class ScriptedClock : public base::Clock {
 public:
  absl::Time Now() const override {
    return absl::FromUnixSeconds(1'699'999'000) + absl::Microseconds(micros_ + set_micros_);
  }
  absl::Duration Monotonic() const override { return absl::Microseconds(micros_.load()); }
  base::BootTime SinceBoot() const override {
    return {.boot_id = absl::StrCat("boot-", boots_.load()), .since_boot = Monotonic()};
  }

  void Advance(absl::Duration by) { micros_ += absl::ToInt64Microseconds(by); }
  // Sets the wall clock, forward or back.
  void Jump(absl::Duration by) { set_micros_ += absl::ToInt64Microseconds(by); }
  void Reboot() { ++boots_; }

 private:
  std::atomic<int64_t> micros_ = 1'000'000'000;
  std::atomic<int64_t> set_micros_ = 0;
  std::atomic<int> boots_ = 1;
};

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_TESTING_SCRIPTED_CLOCK_H_
