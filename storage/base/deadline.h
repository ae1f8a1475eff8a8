// storage/base/deadline.h
//
// Deadline is how long a caller waits: until a point in time, and no longer than the caller is there. A plain absl::Time is one
// whose caller never goes away.
#ifndef UNDERSTUDY_STORAGE_BASE_DEADLINE_H_
#define UNDERSTUDY_STORAGE_BASE_DEADLINE_H_

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

#include "storage/base/mutex.h"

namespace understudy::base {

class Deadline {
 public:
  Deadline(absl::Time time) : time_(time) {}  // NOLINT(google-explicit-constructor): see above
  // `gone` says whether the caller has given up; cheap, from any thread, looked at ten times a second.
  Deadline(absl::Time time, std::function<bool()> gone) : time_(time), gone_(std::move(gone)) {}

  absl::Time time() const { return time_; }
  bool gone() const { return gone_ != nullptr && gone_(); }
  // As CondVar::WaitUntil(); false, too, when the caller has gone.
  bool Wait(CondVar& condition, Mutex& mutex) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (gone_ == nullptr && time_ == absl::InfiniteFuture()) {
      condition.Wait(mutex);
      return true;
    }
    if (gone()) return false;
    const absl::Time look = gone_ == nullptr ? time_ : std::min(time_, absl::Now() + kLook);
    return condition.WaitUntil(mutex, look) || (absl::Now() < time_ && !gone());
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

  absl::Time time_;
  std::function<bool()> gone_;
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_DEADLINE_H_
