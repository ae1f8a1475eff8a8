// proto/nbd/budget.h
//
// Budget bounds the bytes that all connections of a server hold together, so that none can take
// them from the others for long: whoever waits has clients that do not take what they asked for
// ended. A connection's first kBytesOfEach are its own and are not asked for here.
//
// Threads  all methods from any thread.
#ifndef UNDERSTUDY_PROTO_NBD_BUDGET_H_
#define UNDERSTUDY_PROTO_NBD_BUDGET_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <utility>

#include "absl/time/time.h"

#include "proto/nbd/figures.h"
#include "storage/base/log.h"
#include "storage/base/mutex.h"

namespace understudy::nbd {

// Memory of a request: what is to be written, or what was read.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size) : bytes_(new char[size]), size_(size) {}

  char* data() const { return bytes_.get(); }
  size_t size() const { return size_; }
  std::span<char> span() const { return {bytes_.get(), size_}; }

 private:
  std::unique_ptr<char[]> bytes_;  // not initialized
  size_t size_ = 0;
};

class Budget {
 public:
  // Between two looks of who waits.
  static constexpr absl::Duration kLook = absl::Seconds(1);

  // `make_room`: called by the first of those that wait, every kLook, without the lock.
  Budget(uint64_t bytes_max, std::function<void()> make_room)
      : bytes_max_(bytes_max), make_room_(std::move(make_room)) {}

  // Waits until they are there and everybody has them who came before. False: `given_up` said so;
  // looked at when Wake() is called. REQUIRES: bytes <= bytes_max.
  bool Take(uint64_t bytes, const std::function<bool()>& given_up) {
    if (bytes == 0) return true;
    mutex_.Lock();
    const auto place = waiting_.insert(waiting_.end(), bytes);
    absl::Duration look = SteadyNow() + kLook;
    bool taken = true;
    while (place != waiting_.begin() || held_ + bytes > bytes_max_) {
      taken = !given_up();
      if (!taken) break;
      const absl::Duration now = SteadyNow();
      if (now < look) {
        changed_.WaitFor(mutex_, look - now);
        continue;
      }
      look = now + kLook;
      if (place != waiting_.begin()) continue;
      mutex_.Unlock();
      make_room_();
      mutex_.Lock();
    }
    if (taken) held_ += bytes;
    waiting_.erase(place);
    if (!waiting_.empty()) changed_.NotifyAll();  // the next one may fit
    mutex_.Unlock();
    return taken;
  }

  void Give(uint64_t bytes) {
    if (bytes == 0) return;
    base::MutexLock lock(mutex_);
    UNDERSTUDY_CHECK(held_ >= bytes, held_, " held, ", bytes, " given back");
    held_ -= bytes;
    changed_.NotifyAll();
  }

  void Wake() {
    base::MutexLock lock(mutex_);
    changed_.NotifyAll();
  }

 private:
  const uint64_t bytes_max_;
  const std::function<void()> make_room_;
  base::Mutex mutex_;
  base::CondVar changed_;
  uint64_t held_ ABSL_GUARDED_BY(mutex_) = 0;
  std::list<uint64_t> waiting_ ABSL_GUARDED_BY(mutex_);  // the bytes of each, in their order
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_BUDGET_H_
