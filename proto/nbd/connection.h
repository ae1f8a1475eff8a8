// proto/nbd/connection.h
//
// Connection serves one client, from its handshake to its end.
//
//     socket -> [ one reader ] -> writes that need not wait: done at once, all that came together
//                     |
//                     +-> lanes: reads | changes -> [ workers ] -> Outbox -> socket
//
// Reader   takes in one recvmsg() all that the socket holds; the payload of a large write goes from
//          the socket to the memory where it stays. When requests that may block have come, the
//          reader becomes a worker and another thread becomes the reader. On a lone request
//          that is likely to be short it works itself, and only if that keeps it another thread
//          reads on (relief.h).
// Lanes    what may block. Reads do not wait behind changes of the disk and flushes, nor these
//          behind reads.
// Bounds   see below. At a bound nothing more is read from the socket until a reply has left.
// End      the socket is shut down when the client has sent what it should not, or takes no
//          replies while others wait for the memory; it is closed when the last request has ended.
// Threads  Serve() is a task of the crew; what follows runs on threads of the crew. End() from any.
#ifndef UNDERSTUDY_PROTO_NBD_CONNECTION_H_
#define UNDERSTUDY_PROTO_NBD_CONNECTION_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "proto/nbd/budget.h"
#include "proto/nbd/crew.h"
#include "proto/nbd/device.h"
#include "proto/nbd/end_log.h"
#include "proto/nbd/figures.h"
#include "proto/nbd/input.h"
#include "proto/nbd/outbox.h"
#include "proto/nbd/relief.h"
#include "proto/nbd/wire.h"
#include "storage/base/mutex.h"

namespace understudy::nbd {

// In flight, of one connection.
inline constexpr uint32_t kRequestsMax = 256;
inline constexpr uint64_t kRequestBytesMax = 64 << 20;
// Of these, what a connection has whatever others hold.
inline constexpr uint64_t kBytesOfEach = 1 << 20;
// Threads of one connection that work on reads, and as many on changes.
inline constexpr int kWorkersMax = 4;

// Nothing: no command that asks for an answer.
std::optional<Kind> KindOf(uint16_t command);

inline uint64_t BeyondOwn(uint64_t bytes) { return bytes - std::min(bytes, kBytesOfEach); }

// What the connections of a server share; it outlives them.
struct Shared {
  Catalog* catalog = nullptr;
  Crew* crew = nullptr;
  Budget* budget = nullptr;
  Relief* relief = nullptr;
  Figures* figures = nullptr;
  EndLog* log = nullptr;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // Owns `fd`. `gone`: called at the very end.
  Connection(int fd, Peer peer, const Shared& shared, std::function<void()> gone);
  ~Connection();

  void Serve();
  // If the reader is kept by a request, another thread becomes the reader. Whether it works on one.
  bool Relieve();
  // Shuts the socket down. The first reason counts, and is logged unless that is a matter of
  // course.
  void End(nbd::End why, absl::string_view text);
  // For how long it holds memory that its client does not take or fill.
  absl::Duration stalled() const;

 private:
  enum Lane : uint8_t { kReads = 0, kChanges };
  static constexpr size_t kLanes = 2;

  // What a worker takes at once: one request, or several writes.
  struct Task {
    std::vector<RequestHeader> requests;
    Buffer data;  // of the writes, back to back
    absl::Duration came;
  };
  struct LaneState {
    std::deque<Task> waiting;
    int workers = 0;
  };

  // ---- by the reader: connection.cc ----------------------------------------------------------
  bool ShakeHands();
  void Read(uint64_t reader);
  bool WorkAlone(uint64_t reader);  // false: another thread has become the reader
  bool TakeAll();                   // false: nothing more is read
  bool Accept(Input::Request request);
  bool AcceptLarge(const RequestHeader& request);
  bool AcceptOther(const RequestHeader& request);
  void AddWrite(const RequestHeader& request, std::span<const char> data);
  bool Refuse(const RequestHeader& request, Error error);
  // Writes that were added: done at once, or queued. False: ended.
  bool SettleWrites();
  bool QueueWrites(size_t first);
  void FinishLarge(Input::Request request);
  static Lane LaneOf(const RequestHeader& request);
  void Queue(Lane lane, Task task);
  // What keeps a request from its device; nothing: kNone.
  Error Check(const RequestHeader& request) const;
  uint16_t FlagsOf(Command command) const;

  // ---- by workers: worker.cc -----------------------------------------------------------------
  // A lane in which something waits and not too many work; the caller works there. All others get
  // workers of their own.
  std::optional<Lane> LaneToWorkOn();
  std::optional<Task> LoneTask();
  void Rouse();
  void StartWorker(Lane lane);
  void Work(Lane lane);
  void Perform(Task task);
  void PerformWrites(Task& task, Answered answered);
  void PerformRead(const RequestHeader& request, Answered answered);
  void PerformBlockStatus(const RequestHeader& request, Answered answered);
  absl::Status PerformOther(const RequestHeader& request);
  bool ClientGone() const;
  absl::Status Cache(ByteRange range);
  void Answer(const RequestHeader& request, const Answered& answered, const absl::Status& status);

  // ---- bounds --------------------------------------------------------------------------------
  bool FitsLocked(uint32_t requests, uint64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool TakeRoom(uint32_t requests, uint64_t bytes);  // waits; false: ended
  void OnSent(const Answered& answered);
  void CountSent(const Answered& answered, absl::Duration now);

  const int fd_;
  const Peer peer_;
  const Shared shared_;
  const std::function<void()> gone_;
  std::unique_ptr<Device> device_;  // set by the handshake, as the next three
  ReplyStyle style_ = ReplyStyle::kSimple;
  bool block_status_ = false;
  std::unique_ptr<Input> input_;

  std::atomic<bool> cut_short_{false};  // the client went inside a request

  // The number of the reader, one more while it works, the next one once it was relieved.
  std::atomic<uint64_t> reader_{0};
  std::atomic<int64_t> alone_since_{0};  // nanoseconds

  // Of the reader.
  std::vector<RequestHeader> write_headers_;  // added and not settled, as writes_
  std::vector<Write> writes_;
  absl::Duration came_;  // when the newest bytes have

  Outbox outbox_;
  std::atomic<int64_t> filling_since_{0};  // nanoseconds; a payload is received into memory held
  std::atomic<bool> ended_{false};
  base::Mutex mutex_;
  base::CondVar room_;
  std::array<LaneState, kLanes> lanes_ ABSL_GUARDED_BY(mutex_);
  uint32_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t held_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string name_ ABSL_GUARDED_BY(mutex_);  // of the export, once it has taken one
  std::optional<nbd::End> why_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_CONNECTION_H_
