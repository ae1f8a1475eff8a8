// The workers of a connection, and its bounds.
#include <algorithm>
#include <poll.h>
#include <utility>

#include "absl/strings/str_cat.h"

#include "proto/nbd/connection.h"
#include "proto/nbd/reply.h"
#include "storage/base/window_time.h"

namespace understudy::nbd {
namespace {

// Of one answer without REQ_ONE.
constexpr size_t kRunsMax = 512;
constexpr uint64_t kCacheBytes = 64 << 10;  // that are read at once

}  // namespace

// The only one that waits, where nobody works, and likely to take no longer than a change of
// threads; counted as worked on. What waits for the disk by its nature is none.
std::optional<Connection::Task> Connection::LoneTask() {
  base::MutexLock lock(mutex_);
  if (lanes_[kReads].waiting.size() + lanes_[kChanges].waiting.size() != 1) return std::nullopt;
  LaneState& state = lanes_[lanes_[kReads].waiting.empty() ? kChanges : kReads];
  const RequestHeader& request = state.waiting.front().requests.front();
  const auto command = static_cast<Command>(request.command);
  const bool short_work =
      command == Command::kRead || command == Command::kBlockStatus ||
      (command == Command::kWrite && (request.flags & kFua) == 0 && device_->has_short_writes());
  if (!short_work || state.workers > 0) return std::nullopt;
  Task task = std::move(state.waiting.front());
  state.waiting.pop_front();
  ++state.workers;
  return task;
}

std::optional<Connection::Lane> Connection::LaneToWorkOn() {
  std::optional<Lane> mine;
  std::optional<Lane> other;
  {
    base::MutexLock lock(mutex_);
    for (const Lane lane : {kReads, kChanges}) {
      LaneState& state = lanes_[lane];
      if (state.waiting.empty() || state.workers >= kWorkersMax) continue;
      ++state.workers;
      (mine.has_value() ? other : mine) = lane;
    }
  }
  if (other.has_value()) StartWorker(*other);
  return mine;
}

// The reader is about to wait for replies to leave: somebody must work on what it has queued.
void Connection::Rouse() {
  for (const Lane lane : {kReads, kChanges}) {
    {
      base::MutexLock lock(mutex_);
      LaneState& state = lanes_[lane];
      if (state.waiting.empty() || state.workers >= kWorkersMax) continue;
      ++state.workers;
    }
    StartWorker(lane);
  }
}

// Of a worker that is counted already.
void Connection::StartWorker(Lane lane) {
  if (shared_.crew->Run([self = shared_from_this(), lane] { self->Work(lane); })) return;
  // The system gives no thread: this one does it, unless another one works there.
  bool last = false;
  {
    base::MutexLock lock(mutex_);
    last = lanes_[lane].workers == 1;
    if (!last) --lanes_[lane].workers;
  }
  if (last) Work(lane);
}

void Connection::Work(Lane lane) {
  while (true) {
    Task task;
    bool help = false;
    {
      base::MutexLock lock(mutex_);
      LaneState& state = lanes_[lane];
      if (state.waiting.empty()) {
        --state.workers;
        return;
      }
      task = std::move(state.waiting.front());
      state.waiting.pop_front();
      help = !state.waiting.empty() && state.workers < kWorkersMax;
      if (help) ++state.workers;
    }
    if (help) StartWorker(lane);
    Perform(std::move(task));
  }
}

void Connection::Perform(Task task) {
  const RequestHeader& request = task.requests.front();
  const Kind kind = *KindOf(request.command);
  Answered answered{.kind = kind, .came = task.came, .began = SteadyNow()};
  switch (kind) {
    case Kind::kWrite:
      return PerformWrites(task, answered);
    case Kind::kRead:
      return PerformRead(request, answered);
    case Kind::kBlockStatus:
      return PerformBlockStatus(request, answered);
    default:
      answered.bytes = kind == Kind::kFlush ? 0 : request.length;
      return Answer(request, answered, PerformOther(request));
  }
}

void Connection::PerformWrites(Task& task, Answered answered) {
  std::vector<Write> writes;
  const char* data = task.data.data();
  for (const RequestHeader& request : task.requests) {
    writes.push_back({.offset = request.offset,
                      .data = {data, request.length},
                      .fua = (request.flags & kFua) != 0});
    data += request.length;
  }
  std::vector<absl::Status> results(writes.size());
  device_->WriteAll(writes, results);
  answered.count = 0;
  answered.window = base::WindowTime::Take();
  answered.ready = SteadyNow();
  outbox_.Add([&](Replies& replies) {
    for (size_t i = 0; i < results.size(); ++i) {
      if (absl::IsCancelled(results[i])) continue;
      ++answered.count;
      answered.held_bytes += task.requests[i].length;
      if (results[i].ok()) {
        answered.bytes += task.requests[i].length;
        AppendDone(replies, style_, task.requests[i]);
      } else {
        ++answered.failed;
        AppendDone(replies, style_, task.requests[i], nbd::ErrorOf(results[i]),
                   results[i].message());
      }
    }
    if (answered.count > 0) replies.Done(answered);
  });
}

void Connection::PerformRead(const RequestHeader& request, Answered answered) {
  Buffer data(request.length);
  const absl::Status status = device_->Read(request.offset, data.span());
  answered.bytes = answered.held_bytes = request.length;
  if (!status.ok()) return Answer(request, answered, status);
  answered.ready = SteadyNow();
  outbox_.Add([&](Replies& replies) {
    AppendRead(replies, style_, request, std::move(data));
    replies.Done(answered);
  });
}

void Connection::PerformBlockStatus(const RequestHeader& request, Answered answered) {
  const bool one = (request.flags & kReqOne) != 0;
  const auto range = ByteRange::OfLength(request.offset, request.length);
  const absl::StatusOr<std::vector<BlockRun>> runs = device_->Map(range, one ? 1 : kRunsMax);
  if (!runs.ok()) return Answer(request, answered, runs.status());
  answered.ready = SteadyNow();
  outbox_.Add([&](Replies& replies) {
    AppendRuns(replies, style_, request, *runs);
    replies.Done(answered);
  });
}

absl::Status Connection::PerformOther(const RequestHeader& request) {
  const auto range = ByteRange::OfLength(request.offset, request.length);
  const bool fua = (request.flags & kFua) != 0;
  switch (static_cast<Command>(request.command)) {
    case Command::kTrim:
      return device_->Trim(range, fua);
    case Command::kWriteZeroes:
      return device_->WriteZeroes(
          range, (request.flags & kNoHole) != 0 ? ZeroedSpace::kKept : ZeroedSpace::kGivenBack,
          fua);
    case Command::kCache:
      return Cache(range);
    default:
      return device_->Flush();
  }
}

// One that only sends no more is still there.
bool Connection::ClientGone() const {
  pollfd entry = {.fd = fd_, .events = 0, .revents = 0};
  return poll(&entry, 1, 0) == 1 && (entry.revents & POLLHUP) != 0;
}

// What was read lately is read fast: by the page cache, as everything here.
absl::Status Connection::Cache(ByteRange range) {
  const Buffer buffer(std::min(range.size(), kCacheBytes));
  for (uint64_t at = range.start; at < range.end; at += buffer.size()) {
    const uint64_t bytes = std::min<uint64_t>(buffer.size(), range.end - at);
    if (ended_.load(std::memory_order_relaxed) || ClientGone()) {
      return absl::CancelledError("nobody waits");
    }
    if (absl::Status status = device_->Read(at, buffer.span().first(bytes)); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

// kCancelled: no answer, and it stays under way.
void Connection::Answer(const RequestHeader& request, const Answered& answered,
                        const absl::Status& status) {
  const absl::Duration window = base::WindowTime::Take();  // in any case: the next one's is its own
  if (absl::IsCancelled(status)) return;
  Answered now = answered;
  now.window = window;
  now.ready = SteadyNow();
  if (!status.ok()) {
    now.failed = 1;
    now.bytes = 0;
  }
  outbox_.Add([&](Replies& replies) {
    if (status.ok()) {
      AppendDone(replies, style_, request);
    } else {
      AppendDone(replies, style_, request, ErrorOf(status), status.message());
    }
    replies.Done(now);
  });
}

// ---- bounds -----------------------------------------------------------------------------------

bool Connection::FitsLocked(uint32_t requests, uint64_t bytes) const {
  return in_flight_ + requests <= kRequestsMax && held_bytes_ + bytes <= kRequestBytesMax;
}

bool Connection::TakeRoom(uint32_t requests, uint64_t bytes) {
  bool waited = false;
  uint64_t before = 0;
  mutex_.Lock();
  while (!ended_.load(std::memory_order_relaxed) && !FitsLocked(requests, bytes)) {
    if (!waited) {
      waited = true;
      mutex_.Unlock();
      Rouse();
      mutex_.Lock();
      continue;
    }
    room_.Wait(mutex_);
  }
  const bool going_on = !ended_.load(std::memory_order_relaxed);
  if (going_on) in_flight_ += requests;
  before = held_bytes_;
  mutex_.Unlock();
  if (!going_on) return false;
  if (bytes == 0) return true;
  // Nobody else adds to them. Meanwhile they may become fewer: then it was too much.
  const uint64_t shared = BeyondOwn(before + bytes) - BeyondOwn(before);
  if (shared > 0) {
    Rouse();
    if (!shared_.budget->Take(shared, [this] { return ended_.load(); })) return false;
  }
  uint64_t needed = 0;
  {
    base::MutexLock lock(mutex_);
    needed = BeyondOwn(held_bytes_ + bytes) - BeyondOwn(held_bytes_);
    held_bytes_ += bytes;
  }
  shared_.budget->Give(shared - needed);
  shared_.figures->bytes_held.fetch_add(bytes, std::memory_order_relaxed);
  return true;
}

void Connection::CountSent(const Answered& answered, absl::Duration now) {
  Figures::OfKind& figures = shared_.figures->kinds[static_cast<size_t>(*answered.kind)];
  figures.requests.fetch_add(answered.count, std::memory_order_relaxed);
  figures.bytes.fetch_add(answered.bytes, std::memory_order_relaxed);
  figures.errors.fetch_add(answered.failed, std::memory_order_relaxed);
  const auto add = [&](Stage stage, absl::Duration took) {
    figures.latency[static_cast<size_t>(stage)].Add(took, answered.count);
  };
  add(Stage::kQueued, answered.began - answered.came);
  add(Stage::kLocal, answered.ready - answered.began - answered.window);
  if (answered.window > absl::ZeroDuration()) add(Stage::kWindow, answered.window);
  add(Stage::kReplied, now - answered.ready);
}

void Connection::OnSent(const Answered& answered) {
  const absl::Duration now = SteadyNow();
  if (answered.kind.has_value()) CountSent(answered, now);
  uint64_t shared = 0;
  {
    base::MutexLock lock(mutex_);
    shared = BeyondOwn(held_bytes_) - BeyondOwn(held_bytes_ - answered.held_bytes);
    in_flight_ -= answered.count;
    held_bytes_ -= answered.held_bytes;
    room_.NotifyOne();
  }
  if (answered.held_bytes > 0) {
    shared_.figures->bytes_held.fetch_sub(answered.held_bytes, std::memory_order_relaxed);
  }
  shared_.budget->Give(shared);
}

}  // namespace understudy::nbd
