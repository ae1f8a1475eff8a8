#include "tests/proto/nbd/peer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/strings/match.h"

#include "storage/base/deadline.h"
#include "storage/base/log.h"

namespace understudy::nbd::script {
namespace {

constexpr size_t kByteByByteMax = 1024;

int Connect(const std::string& path) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  UNDERSTUDY_CHECK(fd >= 0 && path.size() < sizeof(address.sun_path), path);
  std::memcpy(address.sun_path, path.data(), path.size());
  UNDERSTUDY_CHECK(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0,
                   path);
  const timeval minute = {.tv_sec = 60, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &minute, sizeof(minute));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &minute, sizeof(minute));
  return fd;
}

base::UnixListener Listen(const std::string& path) {
  auto listener = base::UnixListener::Listen(path, {});
  UNDERSTUDY_CHECK(listener.ok(), listener.status().ToString());
  return *std::move(listener);
}

}  // namespace

Rig::Rig(std::vector<MemoryDisk*> disks)
    : catalog_(std::move(disks)), server_(Server::Start(Listen(socket_path()), &catalog_)) {}

Peer::Peer(const std::string& socket_path) : fd_(Connect(socket_path)) {}

Peer::~Peer() { close(fd_); }

bool Peer::Send(absl::string_view bytes, Pace pace) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const bool slow = pace == Pace::kByteByByte && sent < kByteByByteMax;
    const ssize_t count =
        send(fd_, bytes.data() + sent, slow ? 1 : bytes.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    UNDERSTUDY_CHECK(count >= 0 || errno != EAGAIN, "the server does not read");
    if (count < 0) return false;
    sent += static_cast<size_t>(count);
    if (slow) WaitUntilTaken();
  }
  return true;
}

void Peer::WaitUntilTaken() {
  const auto deadline = base::Deadline::After(absl::Minutes(1));
  int left = 0;
  while (ioctl(fd_, SIOCOUTQ, &left) == 0 && left > 0) {
    UNDERSTUDY_CHECK(!deadline.over(), "the server does not read");
    usleep(10);
  }
}

void Peer::EndSending() { shutdown(fd_, SHUT_WR); }

std::string Peer::Receive(size_t bytes) {
  std::string received(bytes, '\0');
  size_t have = 0;
  while (have < bytes) {
    const ssize_t count = recv(fd_, received.data() + have, bytes - have, 0);
    if (count < 0 && errno == EINTR) continue;  // libFuzzer's timer
    UNDERSTUDY_CHECK(count >= 0 || errno == ECONNRESET, "the server does not answer");
    if (count <= 0) break;
    have += static_cast<size_t>(count);
  }
  received.resize(have);
  return received;
}

std::string Peer::ReceiveAll() {
  constexpr size_t kPart = 64 << 10;
  std::string all = Receive(kPart);
  for (size_t part = all.size(); part == kPart;) {
    const std::string more = Receive(kPart);
    part = more.size();
    all += more;
  }
  return all;
}

std::string Peer::ReceiveMessage(size_t other) {
  std::string header = Receive(std::min<size_t>(other, 4));
  if (header.size() < 4) return header;
  const auto magic = BigAt<uint32_t>(header, 0);
  if (magic == kOptionReplyMagic >> 32) return ReceiveOptionReply(header);
  if (magic == kChunkMagic || magic == kExtendedChunkMagic) return ReceiveChunk(header);
  return header + Receive(other - 4);
}

std::string Peer::ReceiveMessages(size_t bytes) {
  std::string messages;
  while (messages.size() < bytes) {
    const std::string message = ReceiveMessage(bytes - messages.size());
    if (message.empty()) break;
    messages += message;
  }
  return messages;
}

std::string Peer::ReceiveOptionReply(std::string header) {
  header += Receive(16);
  const std::string data = Receive(BigAt<uint32_t>(header, 16));
  if (BigAt<uint32_t>(header, 12) < 1U << 31) return header + data;
  UNDERSTUDY_CHECK(!data.empty(), "an error without a text");
  return header.substr(0, 16) + U32(0);
}

std::string Peer::ReceiveChunk(std::string header) {
  const bool extended = BigAt<uint32_t>(header, 0) == kExtendedChunkMagic;
  header += Receive(extended ? 28 : 16);
  const uint64_t length = extended ? BigAt<uint64_t>(header, 24) : BigAt<uint32_t>(header, 16);
  std::string payload = Receive(length);
  if (BigAt<uint16_t>(header, 6) < 1U << 15) return header + payload;
  const size_t text = BigAt<uint16_t>(payload, 4);
  UNDERSTUDY_CHECK(6 + text <= payload.size(), "an error whose text is longer than it");
  payload = payload.substr(0, 4) + U16(0) + payload.substr(6 + text);
  header.resize(extended ? 24 : 16);
  return header + (extended ? U64(payload.size()) : U32(payload.size())) + payload;
}

Client::Client(const std::string& socket_path, Style style, const std::string& name)
    : peer_(socket_path), style_(style) {
  Negotiate(name);
}

void Client::Negotiate(const std::string& name) {
  UNDERSTUDY_CHECK(peer_.Receive(18) == Greeting());
  peer_.Send(U32(kFixedNewstyle | kNoZeroes));
  if (style_ != Style::kSimple) {
    const uint32_t option = style_ == Style::kExtended ? kExtendedHeaders : kStructuredReply;
    peer_.Send(Option(option));
    UNDERSTUDY_CHECK(peer_.ReceiveMessage(20) == OptionReply(option, kAck));
    peer_.Send(Option(kSetMetaContext, Queries(name, {"base:allocation"})));
    const std::string context = peer_.ReceiveMessage(20);
    if (context != OptionReply(kSetMetaContext, kAck)) {  // not for a disk without a map
      context_ = BigAt<uint32_t>(context, 20);
      UNDERSTUDY_CHECK(peer_.ReceiveMessage(20) == OptionReply(kSetMetaContext, kAck));
    }
  }
  peer_.Send(Option(kGo, Asked(name)));
  std::string message;
  while (message != OptionReply(kGo, kAck)) {
    message = peer_.ReceiveMessage(20);
    UNDERSTUDY_CHECK(BigAt<uint32_t>(message, 12) == kRepInfo || message.size() == 20,
                     "GO was refused");
  }
}

uint64_t Client::Send(Request request) {
  request.cookie = ++cookie_;
  if (style_ == Style::kExtended && request.command == kWrite) request.flags |= kPayloadLen;
  peer_.Send(request.In(style_));
  request.payload.clear();
  in_flight_[cookie_] = {.request = request};
  return cookie_;
}

std::pair<uint64_t, Reply> Client::Receive() {
  for (;;) {
    const std::string header = peer_.ReceiveMessage(16);
    UNDERSTUDY_CHECK(header.size() >= 16, "the server has ended the connection");
    const auto magic = BigAt<uint32_t>(header, 0);
    const auto cookie = BigAt<uint64_t>(header, 8);
    const auto found = in_flight_.find(cookie);
    UNDERSTUDY_CHECK(found != in_flight_.end(), "an answer to no request");
    InFlight& one = found->second;
    bool complete = true;
    if (magic == kSimpleReplyMagic) {
      TakeSimple(one, header);
    } else {
      UNDERSTUDY_CHECK(magic == (style_ == Style::kExtended ? kExtendedChunkMagic : kChunkMagic));
      UNDERSTUDY_CHECK(style_ != Style::kExtended ||
                       BigAt<uint64_t>(header, 16) == one.request.offset);
      complete = TakeChunk(one, BigAt<uint16_t>(header, 4), BigAt<uint16_t>(header, 6),
                           header.substr(style_ == Style::kExtended ? 32 : 20));
    }
    if (!complete) continue;
    std::pair<uint64_t, Reply> result(cookie, std::move(one.reply));
    in_flight_.erase(found);
    return result;
  }
}

void Client::TakeSimple(InFlight& one, const std::string& header) {
  const bool read = one.request.command == kRead;
  UNDERSTUDY_CHECK(style_ == Style::kSimple ||
                   (style_ == Style::kStructured && !read && one.request.command != kBlockStatus));
  one.reply.error = BigAt<uint32_t>(header, 4);
  if (read && one.reply.error == 0) one.reply.data = peer_.Receive(one.request.length);
}

bool Client::TakeChunk(InFlight& one, uint16_t flags, uint16_t type, const std::string& payload) {
  const bool done = (flags & kDone) != 0;
  if (type == kError || type == kErrorOffset) {
    UNDERSTUDY_CHECK(payload.size() == (type == kError ? 6 : 14));
    one.reply.error = BigAt<uint32_t>(payload, 0);
    UNDERSTUDY_CHECK(one.reply.error != 0);
  } else if (type == kOffsetData || type == kOffsetHole) {
    TakeContent(one, type, payload);
  } else if (type == kStatus || type == kStatusExt) {
    TakeStatus(one, type, payload);
  } else {
    UNDERSTUDY_CHECK(type == kNone && done && payload.empty());
  }
  if (done && one.request.command == kRead && one.reply.error == 0) {
    UNDERSTUDY_CHECK(std::count(one.sectors_seen.begin(), one.sectors_seen.end(), true) * 512 ==
                         static_cast<ptrdiff_t>(one.request.length),
                     "a READ that is not answered in full");
  }
  return done;
}

void Client::TakeContent(InFlight& one, uint16_t type, const std::string& payload) {
  UNDERSTUDY_CHECK(one.request.command == kRead);
  const bool hole = type == kOffsetHole;
  UNDERSTUDY_CHECK(hole ? payload.size() == 12 : payload.size() > 8);
  const uint64_t start = BigAt<uint64_t>(payload, 0) - one.request.offset;
  const uint64_t length = hole ? BigAt<uint32_t>(payload, 8) : payload.size() - 8;
  UNDERSTUDY_CHECK(length > 0 && start % 512 == 0 && length % 512 == 0 &&
                   start < one.request.length && length <= one.request.length - start);
  UNDERSTUDY_CHECK((one.request.flags & kDf) == 0 || length == one.request.length,
                   "a READ with DF is answered in pieces");
  one.reply.data.resize(one.request.length);
  one.sectors_seen.resize(one.request.length / 512);
  for (uint64_t sector = start / 512; sector < (start + length) / 512; ++sector) {
    UNDERSTUDY_CHECK(!one.sectors_seen[sector], "a READ is answered twice");
    one.sectors_seen[sector] = true;
  }
  if (!hole) one.reply.data.replace(start, length, payload, 8, length);
}

void Client::TakeStatus(InFlight& one, uint16_t type, const std::string& payload) {
  const bool extended = type == kStatusExt;
  UNDERSTUDY_CHECK(one.request.command == kBlockStatus && one.reply.status.empty());
  UNDERSTUDY_CHECK(extended == (style_ == Style::kExtended));
  UNDERSTUDY_CHECK(BigAt<uint32_t>(payload, 0) == context_);
  const size_t begin = extended ? 8 : 4;
  const size_t size = extended ? 16 : 8;
  UNDERSTUDY_CHECK(payload.size() > begin && (payload.size() - begin) % size == 0);
  for (size_t at = begin; at < payload.size(); at += size) {
    one.reply.status.push_back(
        extended ? std::pair(BigAt<uint64_t>(payload, at), BigAt<uint64_t>(payload, at + 8))
                 : std::pair<uint64_t, uint64_t>(BigAt<uint32_t>(payload, at),
                                                 BigAt<uint32_t>(payload, at + 4)));
  }
  UNDERSTUDY_CHECK(!extended || BigAt<uint32_t>(payload, 4) == one.reply.status.size());
}

Reply Client::Do(Request request) {
  UNDERSTUDY_CHECK(in_flight_.empty());
  Send(std::move(request));
  return Receive().second;
}

void Client::Disconnect() {
  UNDERSTUDY_CHECK(in_flight_.empty());
  peer_.Send(Request{.command = kDisc}.In(style_));
  UNDERSTUDY_CHECK(peer_.ReceiveAll().empty());
}

}  // namespace understudy::nbd::script
