// storage/base/within.h
//
// EndsWithin() is for what may wait for a disk that stands still, in a process that is to end.
#ifndef UNDERSTUDY_STORAGE_BASE_WITHIN_H_
#define UNDERSTUDY_STORAGE_BASE_WITHIN_H_

#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <utility>

#include "absl/functional/any_invocable.h"

namespace understudy::base {

// Runs `task` on a thread of its own. False: it has not ended after `timeout`, and goes on as long
// as it takes, so what it uses must stay.
inline bool EndsWithin(std::chrono::milliseconds timeout, absl::AnyInvocable<void()> task) {
  const auto done = std::make_shared<std::promise<void>>();
  const std::future<void> ended = done->get_future();
  std::thread([done, task = std::move(task)]() mutable {
    std::move(task)();
    task = nullptr;
    done->set_value();
  }).detach();
  return ended.wait_for(timeout) == std::future_status::ready;
}

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_WITHIN_H_
