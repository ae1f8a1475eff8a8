// proto/watch_stream.h
//
// WatchStreams serves Watch, the same at both daemons: each stream reads the journal at its own pace and adds the status of the
// group it tells of.
//
//     journal --OnEvent()--> [ thread "watch" ] --StartWrite()--> stream
//                                   ^ refresh timer, OnWriteDone(), OnCancel()
//
// Bound    a stream holds one message and its position in the journal: one that is slower than the journal's reach gets a GAP.
// Threads  all work is done on one thread of its own, for all streams; gRPC's threads and those that append to the journal only
//          queue a task. At most one task of each kind is outstanding per stream.
// Cost     nothing is looked at while nothing happens, but for the statuses of streams that asked for refreshes.
#ifndef UNDERSTUDY_PROTO_WATCH_STREAM_H_
#define UNDERSTUDY_PROTO_WATCH_STREAM_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include <grpcpp/grpcpp.h>

#include "storage/base/event_journal.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::proto {

// The groups that are watched. Called on the thread of WatchStreams.
class WatchedGroups {
 public:
  virtual ~WatchedGroups() = default;
  virtual std::vector<std::string> Names() = 0;  // sorted
  // kNotFound when it is gone. Must not wait for I/O: every stream would wait with it.
  virtual absl::StatusOr<v1::GroupStatus> Status(const std::string& group) = 0;
};

class WatchStreams : private base::EventListener {
 public:
  using Reactor = grpc::ServerWriteReactor<v1::WatchEvent>;

  // Both outlive this. It is the journal's listener.
  WatchStreams(base::EventJournal& journal, WatchedGroups& groups);
  // After the server that it served.
  ~WatchStreams() override;

  Reactor* Watch(const v1::WatchRequest& request);

  // Ends all streams, and those that come later, with kUnavailable. Before the server is shut down: a client that is told so comes
  // back.
  void EndAll();

 private:
  class Session;
  class Stream;

  void OnEvent() override;
  // On the thread.
  void Begin(const std::shared_ptr<Session>& session);
  void Pump(const std::shared_ptr<Session>& session);
  void PumpAll();
  void ScheduleRefresh(const std::shared_ptr<Session>& session);

  base::EventJournal& journal_;
  WatchedGroups& groups_;
  std::atomic<bool> woken_{false};  // a PumpAll() is queued
  std::atomic<size_t> streams_{0};  // as sessions_.size(), for OnEvent()
  // Of the thread.
  std::vector<std::shared_ptr<Session>> sessions_;
  bool ended_ = false;

  base::WorkerPool pool_{"watch", 1};  // last: its thread uses everything above
};

}  // namespace understudy::proto

#endif  // UNDERSTUDY_PROTO_WATCH_STREAM_H_
