// storage/base/worker_pool.h
//
// A pool of threads for work that may block. Threads are made when a task finds no idle one, up to a bound, and stay.
//
// Order    tasks start in the order they were given (delayed ones when due); with more than one thread they overlap.
// Bound    the queue has none: every submitter keeps at most a fixed number of tasks outstanding and says so where it
//          submits.
// Threads  all methods from any thread. The destructor waits for running tasks, drops tasks that have not begun.
#ifndef UNDERSTUDY_STORAGE_BASE_WORKER_POOL_H_
#define UNDERSTUDY_STORAGE_BASE_WORKER_POOL_H_

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"

#include "storage/base/mutex.h"

namespace understudy::base {

class WorkerPool {
 public:
  using Task = absl::AnyInvocable<void()>;

  WorkerPool(std::string name, int threads_max);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  void Submit(Task task);
  void SubmitAfter(absl::Duration delay, Task task);

  // Drops what has not begun and waits for what has. Later submissions are dropped. Idempotent.
  void Shutdown();

 private:
  void Enqueue(Task task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddThreadIfNeeded() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Run();
  // Moves delayed tasks that are due to the queue; returns when the next one is due, as
  // Clock::Monotonic().
  absl::Duration MoveDueTasks() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string name_;
  const size_t threads_max_;
  Mutex mutex_;
  CondVar wake_;
  std::deque<Task> ready_ ABSL_GUARDED_BY(mutex_);
  std::multimap<absl::Duration, Task> delayed_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
  size_t idle_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_WORKER_POOL_H_
