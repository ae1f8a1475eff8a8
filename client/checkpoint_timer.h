// client/checkpoint_timer.h
//
// Takes a checkpoint of a running group every so often (--checkpoint-interval). One at a time: the next interval begins when
// the last checkpoint has been answered or given up, so no more than one marker is ever queued.
#ifndef UNDERSTUDY_CLIENT_CHECKPOINT_TIMER_H_
#define UNDERSTUDY_CLIENT_CHECKPOINT_TIMER_H_

#include <thread>

#include "absl/time/time.h"

#include "storage/base/mutex.h"

namespace understudy::client {

class Primary;

class CheckpointTimer {
 public:
  // `primary` outlives this. REQUIRES: interval > 0.
  CheckpointTimer(Primary* primary, absl::Duration interval);
  ~CheckpointTimer();  // waits for a checkpoint under way, at most its deadline of one interval

 private:
  void Run();

  Primary* const primary_;
  const absl::Duration interval_;
  base::Mutex mutex_;
  base::CondVar wake_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_CHECKPOINT_TIMER_H_
