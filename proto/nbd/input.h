// proto/nbd/input.h
//
// Input is what a client sends in transmission, cut into requests. One recvmsg() takes in all that
// the socket holds; the payload of a large write goes to the memory that the caller gives for it.
//
// Threads  none of its own: one reader at a time.
#ifndef UNDERSTUDY_PROTO_NBD_INPUT_H_
#define UNDERSTUDY_PROTO_NBD_INPUT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <sys/socket.h>
#include <sys/types.h>
#include <utility>

#include "proto/nbd/budget.h"
#include "proto/nbd/wire.h"

namespace understudy::nbd {

class Input {
 public:
  static constexpr size_t kBytes = 256 << 10;           // that are taken in at once
  static constexpr size_t kSmallPayloadMax = 64 << 10;  // beyond it a payload has memory of its own
  // More than any client sends: it is not passed over, but ends the connection.
  static constexpr uint64_t kPayloadPassedOverMax = 64 << 20;

  struct Request {
    RequestHeader header;
    std::span<const char> payload;  // of a small one: there until Receive()
    Buffer large;                   // of a large one
    bool passed_over = false;       // its payload was, as PassOver() has asked for
  };

  enum class Next : uint8_t {
    kRequest,  // here it is
    kLarge,    // its header; now Fill() or PassOver(), and it comes later
    kNothing,  // Receive() first
    kBroken,   // no request: why_broken()
  };

  Input(int fd, bool extended) : fd_(fd), extended_(extended), bytes_(new char[kBytes]) {}

  Next Take(Request& out);
  // REQUIRES: Take() said kLarge; `payload` is as long as the request's.
  void Fill(Buffer payload);
  void PassOver();

  // Blocks. What recvmsg() returned: 0 at the end, else -1 with errno.
  ssize_t Receive();

  bool inside_request() const { return begin_ != end_ || state_ != State::kHeader; }
  const std::string& why_broken() const { return why_broken_; }

 private:
  enum class State : uint8_t { kHeader, kFilling, kPassingOver };

  Next Broken(std::string why);
  uint64_t PayloadBytes() const;

  const int fd_;
  const bool extended_;
  const std::unique_ptr<char[]> bytes_;
  size_t begin_ = 0;  // [begin, end) has come and is not taken
  size_t end_ = 0;
  State state_ = State::kHeader;
  RequestHeader header_;  // of the large one
  Buffer large_;
  size_t filled_ = 0;
  uint64_t pass_over_ = 0;     // bytes still to come
  bool large_before_ = false;  // the newest request was: another one may follow
  std::string why_broken_;
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_INPUT_H_
