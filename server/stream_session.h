// server/stream_session.h
//
// StreamSession is one write stream on the service's side: a queue of undecoded messages between the transport and one storage
// thread, which decodes them, checks them, hands them to the replica and composes the acknowledgements.
//
//     transport --Push()--> queue --storage thread--> FrameDecoder -> Replica::Append
//     transport <--OnAnswer(), TakeAnswer()-- handshake reply, checkpoint wanted, cumulative ack
//
// Queue    at most Options::queue_bytes_max of undecoded messages, overshot by one message. Full: no OnRoom(), so the transport
//          reads no further and HTTP/2 flow control stops the agent; OnRoom() again below half of it.
// Acks     cumulative and coalesced: the transport takes the newest one when its last write has ended. One is due when
//          the queue runs empty, at least every millisecond under load, when something became durable or was committed,
//          and every 500 ms as a heartbeat.
// Threads  Push(), ReadsDone(), End() and TakeAnswer() never block: not on I/O, not on the storage thread. The sink is
//          called from the transport's, the storage and the timer thread, never with a lock held. OnEnd() comes exactly once,
//          when no other call into the sink is running, and is the last.
// Errors   the stream ends with the first error; nothing of the frame that caused it has been applied.
#ifndef UNDERSTUDY_SERVER_STREAM_SESSION_H_
#define UNDERSTUDY_SERVER_STREAM_SESSION_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

#include "server/frame_decoder.h"
#include "server/stream_types.h"
#include "storage/base/clock.h"
#include "storage/base/mutex.h"
#include "storage/base/worker_pool.h"

namespace understudy::server {

class Group;
class Service;

// The transport of one stream.
class AckSink {
 public:
  virtual ~AckSink() = default;
  // TakeAnswer() may have something; called again for every reason to look.
  virtual void OnAnswer() = 0;
  // Read one message and Push() it, or say ReadsDone().
  virtual void OnRoom() = 0;
  // The stream is over; tell the peer `status`. The last call.
  virtual void OnEnd(const absl::Status& status) = 0;
};

struct StreamOptions {
  uint64_t queue_bytes_max = 8 << 20;
  absl::Duration heartbeat_interval = absl::Milliseconds(500);
  absl::Duration peer_lost_after = absl::Seconds(3);
  absl::Duration ack_interval = absl::Milliseconds(1);  // under load
};

class StreamSession : public std::enable_shared_from_this<StreamSession> {
 public:
  // `service` outlives the session; `sink` lives until OnEnd().
  StreamSession(Service& service, AckSink& sink, const StreamOptions& options = {});

  // Asks for the first message. The handshake is then given to Begin(), all later messages to Push().
  void Open();
  void Begin(Handshake handshake);
  void Push(std::unique_ptr<RawMessage> message);
  // The peer will send no more: what is queued is still taken and told, then the stream ends with OK. A broken connection looks
  // the same at first; nothing can be told any more then, and OnWritten(false) or End() says so.
  void ReadsDone();
  // Ends the stream now; the first status counts. Does not wait for the storage thread.
  void End(absl::Status status);

  // What to send next, most urgent first; nothing when the peer knows all there is.
  std::optional<Answer> TakeAnswer();
  // The transport's write of the answer that was taken last has ended; false: the connection is gone. OnAnswer() follows if
  // anything is due.
  void OnWritten(bool ok);

  // Puts a CheckpointWanted, or a HandoverWanted, before the next ack.
  void WantCheckpoint();
  void WantHandover();
  // From the group: a checkpoint was committed (`committed` true) or the marker with this sequence was refused.
  void OnCommitted(Epoch epoch, uint64_t sequence, uint64_t bytes, absl::Duration duration);
  void OnMarkerRefused(uint64_t sequence);
  // From the replica, through the group: its state may say something new. Does not block.
  void OnReplicaChange();

  // Waits until the storage thread has left the replica for good; false when it has not after `timeout`.
  // REQUIRES: End() was called.
  bool WaitFinished(absl::Duration timeout);
  bool finished() const;
  bool ended() const;

  // Valid once the session is joining its group.
  uint64_t stream_id() const { return handshake_.stream_id; }
  const std::string& agent_id() const { return handshake_.agent_id; }
  absl::Time last_word() const;
  // How long ago that was; zero while nobody listens, as the queue is full.
  absl::Duration Silence() const;
  // What the agent knows of the disks: kAssumed, kInSync, kDiverged.
  SyncState told() const { return told_.load(std::memory_order_relaxed); }
  // How long the oldest operation that is received and not durable has waited; zero when there is none.
  absl::Duration UndurableFor() const;
  // One turn of the heartbeat timer.
  void Tick();

 private:
  void Run();
  absl::Status Greet();
  // Takes messages until the stream ends.
  absl::Status Serve();
  // False: the stream has ended or the peer sends no more. A null message: only the replica's state changed.
  bool Next(std::unique_ptr<RawMessage>& message);
  absl::Status Take(const RawMessage& message);
  absl::Status TakeFrame();
  void TellSkipped(const storage::IncomingFrame& frame, uint64_t received, bool incomplete);
  void TakeHeartbeat();
  // Copies what the replica says about durability into the ack.
  void RefreshFromReplica();
  void ScheduleTick();
  void AckReceived(uint64_t sequence);
  void AnswerIfDue();

  // Pinned calls into the sink: none begins after the end, and the end waits for those that run.
  template <typename Call>
  void CallSink(Call call);
  void DeliverEnd();

  Service& service_;
  AckSink& sink_;
  const StreamOptions options_;
  const base::Clock& clock_;

  // Written by Begin(), before the storage thread exists.
  Handshake handshake_;
  // Of the storage thread.
  std::shared_ptr<Group> group_;
  FrameDecoder decoder_;

  mutable base::Mutex mutex_;
  base::CondVar wake_;
  base::CondVar finished_wake_;
  std::deque<std::unique_ptr<RawMessage>> queue_ ABSL_GUARDED_BY(mutex_);
  uint64_t queue_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool idle_ ABSL_GUARDED_BY(mutex_) = false;     // the storage thread waits on wake_
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;  // the transport has been asked to read
  bool reads_done_ ABSL_GUARDED_BY(mutex_) = false;
  bool taken_after_reads_ ABSL_GUARDED_BY(mutex_) = false;  // the last answer: after reads_done_
  bool farewell_ ABSL_GUARDED_BY(mutex_) = false;           // and it was written: the peer is there
  bool replica_changed_ ABSL_GUARDED_BY(mutex_) = false;
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;     // the storage thread was started
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // and has ended
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool end_delivered_ ABSL_GUARDED_BY(mutex_) = false;
  int sink_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<HandshakeReply> reply_ ABSL_GUARDED_BY(mutex_);
  bool greeted_ ABSL_GUARDED_BY(mutex_) = false;  // the reply was taken
  bool checkpoint_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool handover_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  Ack ack_ ABSL_GUARDED_BY(mutex_);
  Ack sent_ack_ ABSL_GUARDED_BY(mutex_);
  bool ack_forced_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration last_ack_ ABSL_GUARDED_BY(mutex_);
  absl::Duration last_word_monotonic_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_word_ ABSL_GUARDED_BY(mutex_);
  std::atomic<SyncState> told_{SyncState::kAssumed};
  absl::Duration undurable_since_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_STREAM_SESSION_H_
