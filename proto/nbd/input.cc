#include "proto/nbd/input.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/socket.h>
#include <sys/uio.h>

#include "absl/strings/str_cat.h"

namespace understudy::nbd {

Input::Next Input::Broken(std::string why) {
  why_broken_ = std::move(why);
  return Next::kBroken;
}

uint64_t Input::PayloadBytes() const {
  const bool payload = extended_ ? (header_.flags & kPayloadLength) != 0
                                 : header_.command == static_cast<uint16_t>(Command::kWrite);
  return payload ? header_.length : 0;
}

Input::Next Input::Take(Request& out) {
  if (state_ == State::kFilling) {
    if (filled_ < large_.size()) return Next::kNothing;
    state_ = State::kHeader;
    large_before_ = true;
    out = {.header = header_, .large = std::move(large_)};
    return Next::kRequest;
  }
  if (state_ == State::kPassingOver) {
    const uint64_t now = std::min<uint64_t>(end_ - begin_, pass_over_);
    begin_ += now;
    pass_over_ -= now;
    if (pass_over_ > 0) return Next::kNothing;
    state_ = State::kHeader;
    out = {.header = header_, .passed_over = true};
    return Next::kRequest;
  }
  const size_t header_bytes = extended_ ? kExtendedRequestBytes : kRequestBytes;
  if (end_ - begin_ < header_bytes) return Next::kNothing;
  header_ = RequestHeader::Parse(bytes_.get() + begin_, extended_);
  if (header_.magic != (extended_ ? kExtendedRequestMagic : kRequestMagic)) {
    return Broken(absl::StrCat("a request begins with 0x", absl::Hex(header_.magic)));
  }
  const uint64_t payload = PayloadBytes();
  if (payload > kPayloadPassedOverMax) {
    return Broken(absl::StrCat("a request with ", payload, " bytes of payload"));
  }
  if (payload > kSmallPayloadMax) {
    begin_ += header_bytes;
    out = {.header = header_};
    return Next::kLarge;
  }
  if (end_ - begin_ < header_bytes + payload) return Next::kNothing;
  out = {.header = header_, .payload = {bytes_.get() + begin_ + header_bytes, payload}};
  begin_ += header_bytes + payload;
  large_before_ = false;
  return Next::kRequest;
}

void Input::Fill(Buffer payload) {
  state_ = State::kFilling;
  large_ = std::move(payload);
  filled_ = std::min(large_.size(), end_ - begin_);
  std::memcpy(large_.data(), bytes_.get() + begin_, filled_);
  begin_ += filled_;
}

void Input::PassOver() {
  state_ = State::kPassingOver;
  large_before_ = false;  // else 32 bytes would be taken at a time
  pass_over_ = PayloadBytes();
}

ssize_t Input::Receive() {
  if (begin_ > 0) {
    std::memmove(bytes_.get(), bytes_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  iovec pieces[2];
  size_t count = 0;
  if (state_ == State::kFilling) {
    pieces[count++] = {.iov_base = large_.data() + filled_, .iov_len = large_.size() - filled_};
  }
  // Where large writes follow each other, only a header is taken along: a payload would be copied.
  const bool few = state_ == State::kFilling || (large_before_ && end_ == 0);
  pieces[count++] = {.iov_base = bytes_.get() + end_,
                     .iov_len = few ? kExtendedRequestBytes : kBytes - end_};
  msghdr message = {};
  message.msg_iov = pieces;
  message.msg_iovlen = count;
  ssize_t got = 0;
  do {
    got = recvmsg(fd_, &message, 0);
  } while (got < 0 && (errno == EINTR || errno == EAGAIN));
  if (got <= 0) return got;
  auto rest = static_cast<size_t>(got);
  if (state_ == State::kFilling) {
    const size_t taken = std::min(rest, large_.size() - filled_);
    filled_ += taken;
    rest -= taken;
  }
  end_ += rest;
  return got;
}

}  // namespace understudy::nbd
