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
#include <memory>
#include <span>
#include <utility>

#include "absl/time/time.h"

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
  // Between two looks of a waiter.
  static constexpr absl::Duration kLook = absl::Seconds(1);

  // `make_room`: called now and then by who waits, without the lock.
  Budget(uint64_t bytes_max, std::function<void()> make_room)
      : bytes_max_(bytes_max), make_room_(std::move(make_room)) {}

  // Waits until they are there. False: `given_up` said so; looked at when Wake() is called.
  bool Take(uint64_t bytes, const std::function<bool()>& given_up) {
    if (bytes == 0) return true;
    mutex_.Lock();
    while (held_ + bytes > bytes_max_) {
      if (given_up()) {
        mutex_.Unlock();
        return false;
      }
      if (!changed_.WaitFor(mutex_, kLook)) {
        mutex_.Unlock();
        make_room_();
        mutex_.Lock();
      }
    }
    held_ += bytes;
    mutex_.Unlock();
    return true;
  }

  void Give(uint64_t bytes) {
    if (bytes == 0) return;
    base::MutexLock lock(mutex_);
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
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_BUDGET_H_
