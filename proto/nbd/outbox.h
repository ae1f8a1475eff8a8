// proto/nbd/outbox.h
//
// Outbox is the way of a connection's replies to its socket. Whoever adds one while nobody sends
// sends it, and what others have added meanwhile, all in one sendmsg(); the others wait for
// nothing.
//
// Bound    of what waits: the requests in flight that the connection allows.
// Threads  all methods from any thread. Add() blocks in a caller that sends to a client that does
//          not read, until the socket is shut down: such a caller is a thread of this connection.
//          AddShort() does so for its own replies only.
#ifndef UNDERSTUDY_PROTO_NBD_OUTBOX_H_
#define UNDERSTUDY_PROTO_NBD_OUTBOX_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <sys/uio.h>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "proto/nbd/budget.h"
#include "proto/nbd/figures.h"
#include "storage/base/mutex.h"

namespace understudy::nbd {

// `count` replies that are ready, and what their requests hold until they are sent.
struct Answered {
  std::optional<Kind> kind;  // nothing: no command that anybody knows
  uint32_t count = 1;
  uint32_t failed = 0;  // of these
  uint64_t bytes = 0;   // of those that did not
  uint64_t held_bytes = 0;
  absl::Duration came;    // on the steady clock, as the next two: the request,
  absl::Duration began;   // the work on it,
  absl::Duration ready;   // the reply
  absl::Duration window;  // of the work, what it was in the window
};

// Replies in the order in which they leave.
class Replies {
 public:
  // Bytes of headers: written into, at the end.
  std::string& head() { return head_; }
  // A buffer, kept until everything is sent; what of it is sent is said by Payload().
  void Keep(Buffer buffer) { buffers_.push_back(std::move(buffer)); }
  // Goes after what is in head() now.
  void Payload(const char* data, size_t bytes) {
    payloads_.push_back({.after = head_.size(), .data = data, .bytes = bytes});
  }
  void Done(const Answered& answered) { answered_.push_back(answered); }

  bool empty() const { return answered_.empty(); }
  void Clear();
  const std::vector<Answered>& answered() const { return answered_; }

 private:
  friend class Outbox;
  struct Piece {
    size_t after = 0;  // bytes of head_
    const char* data = nullptr;
    size_t bytes = 0;
  };

  std::string head_;
  std::vector<Piece> payloads_;
  std::vector<Buffer> buffers_;
  std::vector<Answered> answered_;
};

class Outbox {
 public:
  // `sent`: called for each that has been answered, or whose answer nobody takes any more.
  // `go_on`: has another thread call GoOn(); false: there is none. The socket outlives this.
  Outbox(int fd, std::function<void(const Answered&)> sent, std::function<bool()> go_on)
      : fd_(fd), sent_(std::move(sent)), go_on_(std::move(go_on)) {}

  // `write` adds replies; under the lock: no I/O in it.
  void Add(absl::FunctionRef<void(Replies&)> write);
  // From the reader, who must not be kept by what others have added: without payload.
  void AddShort(absl::FunctionRef<void(Replies&)> write);
  void GoOn() { Send(/*once=*/false); }

  // Something could not be sent: the client has gone.
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  // Since when, on the steady clock, the client has not taken all of what is being sent; nothing is
  // sent when absent.
  std::optional<absl::Duration> sending_since() const {
    const int64_t nanos = sending_since_.load(std::memory_order_relaxed);
    return nanos == 0 ? std::nullopt : std::optional(absl::Nanoseconds(nanos));
  }

 private:
  // Whether nobody sends: then the caller does, what has been written into batch_.
  bool Write(absl::FunctionRef<void(Replies&)> write);
  void Send(bool once);
  void SendBatch();

  const int fd_;
  const std::function<void(const Answered&)> sent_;
  const std::function<bool()> go_on_;
  base::Mutex mutex_;
  Replies waiting_ ABSL_GUARDED_BY(mutex_);
  bool sending_ ABSL_GUARDED_BY(mutex_) = false;
  Replies batch_;  // these two: of whoever has set sending_
  std::vector<iovec> pieces_;
  std::atomic<int64_t> sending_since_{0};
  std::atomic<bool> failed_{false};
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_OUTBOX_H_
