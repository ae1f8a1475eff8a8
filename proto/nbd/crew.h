// proto/nbd/crew.h
//
// Threads for tasks that may block for as long as they like. A task never waits for another one: it
// gets the thread that was idle last, or a new one. An idle thread ends after kIdleMax.
//
// Bound    whoever gives tasks bounds how many there are at a time, and `threads_max` bounds the
//          threads, so that others in the process get some, too.
// Threads  all methods from any thread. The destructor waits for the tasks that run.
#ifndef UNDERSTUDY_PROTO_NBD_CREW_H_
#define UNDERSTUDY_PROTO_NBD_CREW_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"

#include "storage/base/mutex.h"

namespace understudy::nbd {

class Crew {
 public:
  using Task = absl::AnyInvocable<void()>;
  static constexpr absl::Duration kIdleMax = absl::Seconds(10);

  explicit Crew(size_t threads_max) : threads_max_(threads_max) {}
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // 12,000, or half of what the system gives this process or its user, if that is less.
  static size_t ThreadsMax();

  // False, and the task is dropped: there are as many as may be, or the system gives no more.
  bool Run(Task task);

 private:
  struct Member {
    base::CondVar wake;
    Task task;
  };
  void Work(std::shared_ptr<Member> member);
  bool AwaitTask(const std::shared_ptr<Member>& member) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t threads_max_;
  base::Mutex mutex_;
  base::CondVar gone_;
  std::vector<std::shared_ptr<Member>> idle_ ABSL_GUARDED_BY(mutex_);
  size_t threads_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_CREW_H_
