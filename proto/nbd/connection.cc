// The reader of a connection: from the socket to what is done at once, and to the lanes.
#include "proto/nbd/connection.h"

#include <algorithm>
#include <cstring>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

#include "absl/strings/str_cat.h"

#include "proto/nbd/handshake.h"
#include "proto/nbd/reply.h"
#include "storage/base/window_time.h"

namespace understudy::nbd {
namespace {

// Writes that are taken at once by the reader, and by a worker.
constexpr size_t kWritesTogether = 64;
constexpr size_t kWritesOfTask = 16;

bool IsWrite(const RequestHeader& request) {
  return request.command == static_cast<uint16_t>(Command::kWrite);
}

}  // namespace

std::optional<Kind> KindOf(uint16_t command) {
  switch (static_cast<Command>(command)) {
    case Command::kRead:
      return Kind::kRead;
    case Command::kWrite:
      return Kind::kWrite;
    case Command::kFlush:
      return Kind::kFlush;
    case Command::kTrim:
      return Kind::kTrim;
    case Command::kCache:
      return Kind::kCache;
    case Command::kWriteZeroes:
      return Kind::kWriteZeroes;
    case Command::kBlockStatus:
      return Kind::kBlockStatus;
    default:
      return std::nullopt;
  }
}

Connection::Connection(int fd, Peer peer, const Shared& shared, std::function<void()> gone)
    : fd_(fd),
      peer_(peer),
      shared_(shared),
      gone_(std::move(gone)),
      outbox_(
          fd, [this](const Answered& answered) { OnSent(answered); },
          [this] {
            return shared_.crew->Run([self = shared_from_this()] { self->outbox_.GoOn(); });
          }) {
  shared_.figures->connections.fetch_add(1, std::memory_order_relaxed);
}

Connection::~Connection() {
  uint64_t held = 0;
  std::optional<nbd::End> why;
  {
    base::MutexLock lock(mutex_);
    held = held_bytes_;  // by requests that were never answered
    why = why_;
    if (!why.has_value() && in_flight_ > 0) cut_short_ = true;
  }
  if (!why.has_value() && (cut_short_ || outbox_.failed())) {
    why = nbd::End::kVanished;
    shared_.log->Ended(peer_, device_->name(), *why, "the client went with requests under way");
  }
  device_.reset();
  close(fd_);
  shared_.budget->Give(BeyondOwn(held));
  Figures& figures = *shared_.figures;
  figures.bytes_held.fetch_sub(held, std::memory_order_relaxed);
  figures.connections.fetch_sub(1, std::memory_order_relaxed);
  figures.ends[static_cast<size_t>(why.value_or(nbd::End::kOrderly))].fetch_add(
      1, std::memory_order_relaxed);
  gone_();
}

void Connection::End(nbd::End why, absl::string_view text) {
  bool first = false;
  std::string name;
  {
    base::MutexLock lock(mutex_);
    ended_.store(true);
    room_.NotifyAll();
    first = !why_.has_value();
    if (first) why_ = why;
    name = name_;
  }
  shutdown(fd_, SHUT_RDWR);
  shared_.budget->Wake();
  const bool of_course =
      why == nbd::End::kOrderly || why == nbd::End::kRefused || why == nbd::End::kClosed;
  if (first && !of_course) shared_.log->Ended(peer_, name, why, text);
}

absl::Duration Connection::stalled() const {
  if (ended_.load(std::memory_order_relaxed)) return absl::ZeroDuration();
  const int64_t filling = filling_since_.load(std::memory_order_relaxed);
  const absl::Duration now = SteadyNow();
  return std::max(filling == 0 ? absl::ZeroDuration() : now - absl::Nanoseconds(filling),
                  now - outbox_.sending_since().value_or(now));
}

void Connection::Serve() {
  if (!ShakeHands()) return;
  came_ = SteadyNow();
  Read(0);
}

bool Connection::ShakeHands() {
  absl::StatusOr<Handshake::Outcome> outcome = Handshake(fd_, shared_.catalog).Run();
  if (!outcome.ok()) {
    const absl::Status& status = outcome.status();
    End(absl::IsCancelled(status)          ? nbd::End::kOrderly
        : absl::IsInvalidArgument(status)  ? nbd::End::kProtocolError
        : absl::IsDeadlineExceeded(status) ? nbd::End::kSlow
                                           : nbd::End::kRefused,
        status.message());
    return false;
  }
  style_ = outcome->style;
  block_status_ = outcome->block_status;
  input_ = std::make_unique<Input>(fd_, style_ == ReplyStyle::kExtended);
  device_ = std::move(outcome->device);
  base::MutexLock lock(mutex_);
  name_ = device_->name();
  return true;
}

// Ends when there is nothing more to read, or when another thread has become the reader.
void Connection::Read(uint64_t reader) {
  while (TakeAll()) {
    if (!WorkAlone(reader)) return;
    if (const std::optional<Lane> lane = LaneToWorkOn(); lane.has_value()) {
      const bool passed_on =
          shared_.crew->Run([self = shared_from_this(), reader] { self->Read(reader); });
      Work(*lane);
      if (passed_on) return;
    }
    const ssize_t got = input_->Receive();
    if (got <= 0) {
      // What is under way ends, and its replies show whether somebody still takes them.
      cut_short_ = got < 0 || input_->inside_request();
      filling_since_.store(0, std::memory_order_relaxed);
      return;
    }
    came_ = SteadyNow();
  }
}

bool Connection::WorkAlone(uint64_t reader) {
  std::optional<Task> task = LoneTask();
  if (!task.has_value()) return true;
  const Lane lane = LaneOf(task->requests.front());
  alone_since_.store(absl::ToInt64Nanoseconds(came_), std::memory_order_relaxed);
  reader_.store(reader + 1);
  shared_.relief->Watch();
  Perform(*std::move(task));
  uint64_t still = reader + 1;
  const bool relieved = !reader_.compare_exchange_strong(still, reader);
  if (relieved) {
    Work(lane);
  } else {
    base::MutexLock lock(mutex_);
    --lanes_[lane].workers;
  }
  return !relieved;
}

bool Connection::Relieve() {
  uint64_t kept = reader_.load();
  if (kept % 2 == 0) return false;
  const absl::Duration since = absl::Nanoseconds(alone_since_.load(std::memory_order_relaxed));
  if (SteadyNow() - since < Relief::kLook) return true;
  // Without a thread to spare, it stays as it is until the next look.
  shared_.crew->Run([self = shared_from_this(), kept]() mutable {
    const uint64_t next = kept + 1;
    if (self->reader_.compare_exchange_strong(kept, next)) self->Read(next);
  });
  return true;
}

// What has come, to where it is worked on.
bool Connection::TakeAll() {
  while (!ended_.load(std::memory_order_relaxed)) {
    Input::Request request;
    switch (input_->Take(request)) {
      case Input::Next::kRequest:
        if (!Accept(std::move(request))) return false;
        break;
      case Input::Next::kLarge:
        if (!AcceptLarge(request.header)) return false;
        break;
      case Input::Next::kNothing:
        return SettleWrites();
      case Input::Next::kBroken:
        SettleWrites();
        End(nbd::End::kProtocolError, input_->why_broken());
        return false;
    }
  }
  return false;
}

bool Connection::Accept(Input::Request request) {
  const RequestHeader& header = request.header;
  if (header.command == static_cast<uint16_t>(Command::kDisconnect)) {
    SettleWrites();
    Rouse();
    base::MutexLock lock(mutex_);
    if (!why_.has_value()) why_ = nbd::End::kOrderly;
    return false;  // what is under way is answered; then the last one out closes the socket
  }
  Error error = Check(header);
  if (request.passed_over && error == Error::kNone) error = Error::kInvalid;
  if (error != Error::kNone) return Refuse(header, error);
  if (request.large.size() > 0) {
    FinishLarge(std::move(request));
    return true;
  }
  if (!IsWrite(header)) return AcceptOther(header);
  AddWrite(header, request.payload);
  return writes_.size() < kWritesTogether || SettleWrites();
}

void Connection::AddWrite(const RequestHeader& request, std::span<const char> data) {
  write_headers_.push_back(request);
  writes_.push_back({.offset = request.offset, .data = data, .fua = (request.flags & kFua) != 0});
}

bool Connection::AcceptLarge(const RequestHeader& request) {
  if (Check(request) != Error::kNone) {
    input_->PassOver();
    return true;
  }
  if (!SettleWrites() || !TakeRoom(1, request.length)) return false;
  filling_since_.store(absl::ToInt64Nanoseconds(SteadyNow()), std::memory_order_relaxed);
  input_->Fill(Buffer(request.length));
  return true;
}

void Connection::FinishLarge(Input::Request request) {
  filling_since_.store(0, std::memory_order_relaxed);
  const Write write{.offset = request.header.offset,
                    .data = request.large.span(),
                    .fua = (request.header.flags & kFua) != 0};
  const absl::Duration began = SteadyNow();
  const size_t taken = device_->TryWrite({&write, 1});
  const absl::Duration window = base::WindowTime::Take();
  if (taken == 0) {
    Queue(kChanges,
          {.requests = {request.header}, .data = std::move(request.large), .came = came_});
    return;
  }
  const Answered answered{.kind = Kind::kWrite,
                          .bytes = request.header.length,
                          .held_bytes = request.header.length,
                          .came = came_,
                          .began = began,
                          .ready = SteadyNow(),
                          .window = window};
  outbox_.AddShort([&](Replies& replies) {
    AppendDone(replies, style_, request.header);
    replies.Done(answered);
  });
}

bool Connection::AcceptOther(const RequestHeader& request) {
  const bool read = request.command == static_cast<uint16_t>(Command::kRead);
  if (!TakeRoom(1, read ? request.length : 0)) return false;
  Queue(LaneOf(request), {.requests = {request}, .data = {}, .came = came_});
  return true;
}

bool Connection::Refuse(const RequestHeader& request, Error error) {
  if (!TakeRoom(1, 0)) return false;
  const Answered answered{
      .kind = KindOf(request.command), .failed = 1, .came = came_, .began = came_, .ready = came_};
  outbox_.AddShort([&](Replies& replies) {
    AppendDone(replies, style_, request, error);
    replies.Done(answered);
  });
  return true;
}

bool Connection::SettleWrites() {
  if (writes_.empty()) return true;
  const auto count = static_cast<uint32_t>(writes_.size());
  bool going_on = TakeRoom(count, 0);
  const absl::Duration began = SteadyNow();
  const size_t taken = going_on ? device_->TryWrite(writes_) : 0;
  const absl::Duration window = base::WindowTime::Take();
  if (taken > 0) {
    Answered answered{.kind = Kind::kWrite,
                      .count = static_cast<uint32_t>(taken),
                      .came = came_,
                      .began = began,
                      .ready = SteadyNow(),
                      .window = window};
    for (size_t i = 0; i < taken; ++i) answered.bytes += writes_[i].data.size();
    outbox_.AddShort([&](Replies& replies) {
      for (size_t i = 0; i < taken; ++i) AppendDone(replies, style_, write_headers_[i]);
      replies.Done(answered);
    });
  }
  going_on = going_on && QueueWrites(taken);
  writes_.clear();
  write_headers_.clear();
  return going_on;
}

// What is to be durable goes apart: the others need not wait for it.
bool Connection::QueueWrites(size_t first) {
  while (first < writes_.size()) {
    size_t last = first;
    uint64_t bytes = 0;
    while (last < writes_.size() && last - first < kWritesOfTask &&
           writes_[last].fua == writes_[first].fua) {
      bytes += writes_[last++].data.size();
    }
    if (!TakeRoom(0, bytes)) return false;
    Task task{.requests = {write_headers_.begin() + static_cast<ptrdiff_t>(first),
                           write_headers_.begin() + static_cast<ptrdiff_t>(last)},
              .data = Buffer(bytes),
              .came = came_};
    char* to = task.data.data();
    for (; first < last; ++first) {
      std::memcpy(to, writes_[first].data.data(), writes_[first].data.size());
      to += writes_[first].data.size();
    }
    Queue(kChanges, std::move(task));
  }
  return true;
}

Connection::Lane Connection::LaneOf(const RequestHeader& request) {
  switch (static_cast<Command>(request.command)) {
    case Command::kRead:
    case Command::kCache:
    case Command::kBlockStatus:
      return kReads;
    default:
      return kChanges;
  }
}

void Connection::Queue(Lane lane, Task task) {
  base::MutexLock lock(mutex_);
  lanes_[lane].waiting.push_back(std::move(task));
}

uint16_t Connection::FlagsOf(Command command) const {
  switch (command) {
    case Command::kRead:
      return style_ == ReplyStyle::kSimple ? kFua : kFua | kDf;
    case Command::kWrite:
      return style_ == ReplyStyle::kExtended ? kFua | kPayloadLength : kFua;
    case Command::kWriteZeroes:
      return kFua | kNoHole;
    case Command::kBlockStatus:
      return kFua | kReqOne;
    default:
      return kFua;
  }
}

Error Connection::Check(const RequestHeader& request) const {
  const auto command = static_cast<Command>(request.command);
  if (!KindOf(request.command).has_value()) return Error::kInvalid;
  if ((request.flags & ~FlagsOf(command)) != 0) return Error::kInvalid;
  if (command == Command::kFlush) return Error::kNone;
  const bool writes = command == Command::kWrite || command == Command::kWriteZeroes;
  if (command == Command::kWrite && style_ == ReplyStyle::kExtended &&
      (request.flags & kPayloadLength) == 0) {
    return Error::kInvalid;
  }
  if (command == Command::kBlockStatus && !block_status_) return Error::kInvalid;
  if ((command == Command::kRead || command == Command::kWrite) &&
      request.length > kPayloadBytesMax) {
    return Error::kInvalid;
  }
  if (request.length == 0 || request.offset % kBlockBytesMin != 0 ||
      request.length % kBlockBytesMin != 0) {
    return Error::kInvalid;
  }
  const uint64_t size = device_->size_bytes();
  const bool inside = request.offset <= size && request.length <= size - request.offset;
  return inside ? Error::kNone : writes ? Error::kNoSpace : Error::kInvalid;
}

}  // namespace understudy::nbd
