#include "storage/base/worker_pool.h"

#include <pthread.h>

#include "storage/base/clock.h"

namespace understudy::base {
namespace {
absl::Duration SteadyNow() { return Clock::Real().Monotonic(); }
}  // namespace

WorkerPool::WorkerPool(std::string name, int threads_max)
    : name_(std::move(name)), threads_max_(static_cast<size_t>(threads_max)) {}

WorkerPool::~WorkerPool() { Shutdown(); }

void WorkerPool::Submit(Task task) {
  MutexLock lock(mutex_);
  if (!stopping_) Enqueue(std::move(task));
}

void WorkerPool::SubmitAfter(absl::Duration delay, Task task) {
  MutexLock lock(mutex_);
  if (stopping_) return;
  delayed_.emplace(SteadyNow() + delay, std::move(task));
  AddThreadIfNeeded();
  wake_.NotifyOne();
}

void WorkerPool::Enqueue(Task task) {
  ready_.push_back(std::move(task));
  AddThreadIfNeeded();
  wake_.NotifyOne();
}

void WorkerPool::AddThreadIfNeeded() {
  // A delayed task needs a thread to watch the clock, a ready one a thread of its own.
  const size_t wanted = ready_.size() + (delayed_.empty() ? 0 : 1);
  if (idle_ >= wanted || threads_.size() >= threads_max_) return;
  threads_.emplace_back([this] { Run(); });
  pthread_setname_np(threads_.back().native_handle(), name_.substr(0, 15).c_str());
}

void WorkerPool::Shutdown() {
  std::vector<std::thread> threads;
  std::deque<Task> dropped_ready;
  std::multimap<absl::Duration, Task>
      dropped_delayed;  // destroyed outside the lock: captures may own anything
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    dropped_ready.swap(ready_);
    dropped_delayed.swap(delayed_);
    threads.swap(threads_);
    wake_.NotifyAll();
  }
  for (std::thread& thread : threads) thread.join();
}

absl::Duration WorkerPool::MoveDueTasks() {
  const absl::Duration now = SteadyNow();
  while (!delayed_.empty() && delayed_.begin()->first <= now) {
    auto due = delayed_.extract(delayed_.begin());
    Enqueue(std::move(due.mapped()));
  }
  return delayed_.empty() ? absl::InfiniteDuration() : delayed_.begin()->first;
}

void WorkerPool::Run() {
  mutex_.Lock();
  while (!stopping_) {
    const absl::Duration next_due = MoveDueTasks();
    if (ready_.empty()) {
      ++idle_;
      if (next_due == absl::InfiniteDuration()) {
        wake_.Wait(mutex_);
      } else {
        wake_.WaitFor(mutex_, next_due - SteadyNow());
      }
      --idle_;
      continue;
    }
    Task task = std::move(ready_.front());
    ready_.pop_front();
    mutex_.Unlock();
    std::move(task)();
    task = nullptr;
    mutex_.Lock();
  }
  mutex_.Unlock();
}

}  // namespace understudy::base
