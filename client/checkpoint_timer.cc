#include "client/checkpoint_timer.h"

#include "client/primary.h"
#include "storage/base/deadline.h"
#include "storage/base/log.h"

namespace understudy::client {

CheckpointTimer::CheckpointTimer(Primary* primary, absl::Duration interval)
    : primary_(primary), interval_(interval), thread_([this] { Run(); }) {}

CheckpointTimer::~CheckpointTimer() {
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  thread_.join();
}

void CheckpointTimer::Run() {
  bool failing = false;  // said once per spell, not once per interval
  base::Deadline next = base::Deadline::After(interval_);
  while (true) {
    {
      base::MutexLock lock(mutex_);
      while (!stopping_ && next.Wait(wake_, mutex_)) {
      }
      if (stopping_) return;
    }
    next = base::Deadline::After(interval_);
    if (primary_->stage() != Stage::kRunning || primary_->fenced()) continue;
    if (primary_->handed_over()) continue;
    const auto outcome = primary_->Checkpoint(next);
    if (!outcome.ok() && !failing) {
      base::LogWarning("interval_checkpoint_failed")
          .With("group", primary_->group())
          .With("status", outcome.status());
    }
    failing = !outcome.ok();
  }
}

}  // namespace understudy::client
