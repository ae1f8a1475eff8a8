// storage/base/window_time.h
//
// How long a request has been in the forwarder: waiting for room in the window, or for an
// acknowledgement. Whoever serves the request asks, once it is done; the rest of its time is that
// of the local disk.
//
// Threads  each has its own.
#ifndef UNDERSTUDY_STORAGE_BASE_WINDOW_TIME_H_
#define UNDERSTUDY_STORAGE_BASE_WINDOW_TIME_H_

#include <utility>

#include "absl/time/time.h"

#include "storage/base/clock.h"

namespace understudy::base {

class WindowTime {
 public:
  // Counts from here to the end of the scope.
  class Scope {
   public:
    Scope() : began_(Clock::Real().Monotonic()) {}
    ~Scope() { spent += Clock::Real().Monotonic() - began_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    const absl::Duration began_;
  };

  // Of this thread, since it was asked last.
  static absl::Duration Take() { return std::exchange(spent, absl::ZeroDuration()); }

 private:
  inline static thread_local absl::Duration spent;
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_WINDOW_TIME_H_
