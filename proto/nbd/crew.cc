#include "proto/nbd/crew.h"

#include <algorithm>
#include <fstream>
#include <pthread.h>
#include <string>
#include <sys/resource.h>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "storage/base/deadline.h"

namespace understudy::nbd {

size_t Crew::ThreadsMax() {
  uint64_t most = 2 * 12'000;
  rlimit limit = {};
  if (getrlimit(RLIMIT_NPROC, &limit) == 0) most = std::min<uint64_t>(most, limit.rlim_cur);
  // Of the control group, version 2: "0::/its/path"; "max" is no number.
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    absl::string_view path = line;
    uint64_t tasks = 0;
    if (absl::ConsumePrefix(&path, "0::") &&
        std::ifstream(absl::StrCat("/sys/fs/cgroup", path, "/pids.max")) >> tasks) {
      most = std::min(most, tasks);
    }
  }
  return most / 2;
}

Crew::~Crew() {
  base::MutexLock lock(mutex_);
  ending_ = true;
  for (const auto& member : idle_) member->wake.NotifyOne();
  while (threads_ > 0) gone_.Wait(mutex_);
}

bool Crew::Run(Task task) {
  std::shared_ptr<Member> member;
  {
    base::MutexLock lock(mutex_);
    if (!idle_.empty()) {
      member = std::move(idle_.back());
      idle_.pop_back();
      member->task = std::move(task);
    } else if (threads_ >= threads_max_) {
      return false;
    } else {
      ++threads_;
    }
  }
  if (member != nullptr) {
    member->wake.NotifyOne();  // without the lock, which it would only wait for
    return true;
  }
  member = std::make_shared<Member>();
  member->task = std::move(task);
  try {
    std::thread([this, member] { Work(member); }).detach();
    return true;
  } catch (const std::system_error&) {
    base::MutexLock lock(mutex_);
    --threads_;
    gone_.NotifyAll();
    return false;
  }
}

// False: none came, and it is idle no more.
bool Crew::AwaitTask(const std::shared_ptr<Member>& member) {
  idle_.push_back(member);
  const base::Deadline deadline = base::Deadline::After(kIdleMax);
  while (member->task == nullptr && !ending_) {
    if (!deadline.Wait(member->wake, mutex_)) break;
  }
  if (member->task != nullptr) return true;
  idle_.erase(std::find(idle_.begin(), idle_.end(), member));
  return false;
}

void Crew::Work(std::shared_ptr<Member> member) {
  pthread_setname_np(pthread_self(), "nbd");
  mutex_.Lock();
  do {
    Task task = std::exchange(member->task, nullptr);
    mutex_.Unlock();
    std::move(task)();
    task = nullptr;
    mutex_.Lock();
  } while (!ending_ && AwaitTask(member));
  --threads_;
  gone_.NotifyAll();
  mutex_.Unlock();
}

}  // namespace understudy::nbd
