#include "proto/nbd/outbox.h"

#include <algorithm>
#include <cerrno>
#include <sys/socket.h>

namespace understudy::nbd {
namespace {

constexpr size_t kPiecesMax = 256;           // of one sendmsg()
constexpr size_t kHeadBytesKept = 64 << 10;  // of memory, for the next batch

// Takes away what was sent; false: nothing is left.
bool Advance(std::vector<iovec>& pieces, size_t& first, size_t sent) {
  while (first < pieces.size() && sent >= pieces[first].iov_len) sent -= pieces[first++].iov_len;
  if (first == pieces.size()) return false;
  pieces[first].iov_base = static_cast<char*>(pieces[first].iov_base) + sent;
  pieces[first].iov_len -= sent;
  return true;
}

}  // namespace

void Replies::Clear() {
  if (head_.capacity() > kHeadBytesKept) {
    head_ = std::string();
  } else {
    head_.clear();
  }
  payloads_.clear();
  buffers_.clear();
  answered_.clear();
}

bool Outbox::Write(absl::FunctionRef<void(Replies&)> write) {
  base::MutexLock lock(mutex_);
  write(waiting_);
  if (sending_ || waiting_.empty()) return false;
  sending_ = true;
  std::swap(waiting_, batch_);
  return true;
}

void Outbox::Add(absl::FunctionRef<void(Replies&)> write) {
  if (Write(write)) Send(/*once=*/false);
}

void Outbox::AddShort(absl::FunctionRef<void(Replies&)> write) {
  if (Write(write)) Send(/*once=*/true);
}

void Outbox::Send(bool once) {
  while (true) {
    sending_since_.store(absl::ToInt64Nanoseconds(SteadyNow()), std::memory_order_relaxed);
    SendBatch();
    sending_since_.store(0, std::memory_order_relaxed);
    for (const Answered& answered : batch_.answered()) sent_(answered);
    batch_.Clear();
    {
      base::MutexLock lock(mutex_);
      if (waiting_.empty()) {
        sending_ = false;
        return;
      }
      std::swap(waiting_, batch_);
    }
    if (once && go_on_()) return;
  }
}

// After a part of a reply nothing else would be understood, so a failure is the end.
void Outbox::SendBatch() {
  if (failed()) return;
  pieces_.clear();
  size_t at = 0;
  const auto head = [&](size_t until) {
    if (until > at)
      pieces_.push_back({.iov_base = batch_.head_.data() + at, .iov_len = until - at});
    at = until;
  };
  for (const Replies::Piece& payload : batch_.payloads_) {
    head(payload.after);
    pieces_.push_back({.iov_base = const_cast<char*>(payload.data), .iov_len = payload.bytes});
  }
  head(batch_.head_.size());
  size_t first = 0;
  bool more = !pieces_.empty();
  while (more) {
    msghdr message = {};
    message.msg_iov = &pieces_[first];
    message.msg_iovlen = std::min(pieces_.size() - first, kPiecesMax);
    const ssize_t sent = sendmsg(fd_, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno != EINTR) {
      failed_.store(true, std::memory_order_relaxed);
      shutdown(fd_, SHUT_RDWR);
      return;
    }
    more = sent < 0 || Advance(pieces_, first, static_cast<size_t>(sent));
  }
}

}  // namespace understudy::nbd
