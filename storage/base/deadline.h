// storage/base/deadline.h
//
// Deadline is how long a caller waits: so long from now on, and no longer than the caller is there.
// It is counted on the steady clock, so a host's clock that is set meanwhile changes nothing.
#ifndef UNDERSTUDY_STORAGE_BASE_DEADLINE_H_
#define UNDERSTUDY_STORAGE_BASE_DEADLINE_H_

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "storage/base/clock.h"
#include "storage/base/mutex.h"

namespace understudy::base {

class Deadline {
 public:
  // `gone` says whether the caller has given up; cheap, from any thread, looked at ten times a second.
  static Deadline After(absl::Duration timeout, std::function<bool()> gone = nullptr) {
    return {Clock::Real().Monotonic() + timeout, std::move(gone)};
  }
  static Deadline Never() { return After(absl::InfiniteDuration()); }

  // Zero when it has passed or the caller has gone.
  absl::Duration left() const {
    if (gone()) return absl::ZeroDuration();
    return std::max(until_ - Clock::Real().Monotonic(), absl::ZeroDuration());
  }
  bool over() const { return left() == absl::ZeroDuration(); }
  bool gone() const { return gone_ != nullptr && gone_(); }
  // As CondVar::WaitFor() what is left; false, too, when the caller has gone.
  bool Wait(CondVar& condition, Mutex& mutex) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const absl::Duration left = this->left();
    if (left == absl::ZeroDuration()) return false;
    return condition.WaitFor(mutex, Slice(left)) || !over();
  }
  // How long to wait before the next look, of the time that is `left`.
  absl::Duration Slice(absl::Duration left) const {
    return std::min(left, gone_ == nullptr ? absl::Hours(1) : kLook);
  }
  // The error of a wait that ended in vain: `text`, kCancelled when the caller has gone, else kDeadlineExceeded.
  absl::Status Passed(absl::string_view text) const {
    return gone() ? absl::CancelledError(text) : absl::DeadlineExceededError(text);
  }

 private:
  static constexpr absl::Duration kLook = absl::Milliseconds(100);

  Deadline(absl::Duration until, std::function<bool()> gone)
      : until_(until), gone_(std::move(gone)) {}

  absl::Duration until_;  // as Clock::Monotonic()
  std::function<bool()> gone_;
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_DEADLINE_H_
