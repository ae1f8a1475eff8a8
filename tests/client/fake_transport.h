// tests/client/fake_transport.h
//
// A secondary in memory behind the Transport interface. It checks what the real one checks: CRC, term, sequence without gaps,
// a marker last in its frame; it applies operations to byte arrays, so that a test can compare disks.
//
// Threads   events come from one thread of its own, as the interface asks. Everything else from any thread.
#ifndef UNDERSTUDY_TESTS_CLIENT_FAKE_TRANSPORT_H_
#define UNDERSTUDY_TESTS_CLIENT_FAKE_TRANSPORT_H_

#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/checksum_source.h"
#include "client/transport.h"
#include "storage/base/block_hash.h"
#include "storage/base/mutex.h"
#include "storage/base/reason.h"

namespace understudy::client {

class FakeTransport : public Transport, public ChecksumSource {
 public:
  explicit FakeTransport(const std::vector<uint64_t>& volume_bytes) {
    base::MutexLock lock(mutex_);
    for (const uint64_t bytes : volume_bytes) disks_.emplace_back(bytes, char{0});
    thread_ = std::thread([this] { Run(); });
  }
  ~FakeTransport() override {
    {
      base::MutexLock lock(mutex_);
      stopping_ = true;
      wake_.NotifyAll();
    }
    thread_.join();
  }

  // What the secondary does; may be changed at any time with Set().
  struct Behaviour {
    bool reachable = true;
    bool acknowledge = true;    // send acks at all
    bool durable = true;        // what is received is durable at once; else when asked for it
    bool hung_sync = false;     // nothing becomes durable, asked for or not
    bool commit = true;         // markers commit
    bool lose_answers = false;  // the session ends instead of the ack of a marker
    bool hold_sent = false;     // no OnFrameSent
    bool incomplete = false;
    bool strict_streams =
        false;  // another stream than the one that wrote makes the group incomplete
    absl::Status refuse_checksums;
    int crc_failures = 0;  // so many frames end the stream with DATA_LOSS
    absl::Status refuse;   // of handshakes
    // Of the newest checkpoint, in handshakes.
    absl::Time committed_time = absl::UnixEpoch();
    std::optional<absl::Duration> committed_age;
  };
  void Set(const std::function<void(Behaviour&)>& change) {
    base::MutexLock lock(mutex_);
    change(behaviour_);
    if (!behaviour_.hold_sent && sent_held_) {
      sent_held_ = false;
      Post([session = session_](TransportEvents* events) { events->OnFrameSent(session); });
    }
    if (session_open_ && behaviour_.acknowledge) PostAck();
  }
  void Disconnect(const absl::Status& status = absl::UnavailableError("gone")) {
    base::MutexLock lock(mutex_);
    End(status);
  }
  void WantCheckpoint() {
    base::MutexLock lock(mutex_);
    Post([session = session_](TransportEvents* events) { events->OnCheckpointWanted(session); });
  }
  void WantHandover() {
    base::MutexLock lock(mutex_);
    Post([session = session_](TransportEvents* events) { events->OnHandoverWanted(session); });
  }
  // The secondary commits what it has received, as it does for a call of its own without a stream.
  void CommitReceived() {
    base::MutexLock lock(mutex_);
    committed_epoch_ = committed_epoch_.Next();
    committed_sequence_ = marker_sequence_;
  }
  // Stopped, removed and started again: nothing is known of any stream, epochs begin anew.
  void StartAfresh() {
    base::MutexLock lock(mutex_);
    stream_id_ = received_ = durable_ = committed_sequence_ = marker_sequence_ = 0;
    aborted_sequence_ = 0;
    committed_epoch_ = Epoch();
  }
  // With StartAfresh(): and it has an incarnation of its own.
  void NewIncarnation() {
    base::MutexLock lock(mutex_);
    ++grant_.incarnation.low;
  }
  void Track() {
    base::MutexLock lock(mutex_);
    track_ = true;
  }
  void PowerCut() {
    base::MutexLock lock(mutex_);
    while (!undo_.empty() && undo_.back().sequence > durable_) {
      const Undo& undo = undo_.back();
      if (undo.operation.has_range()) {
        disks_[undo.operation.volume].replace(undo.operation.offset, undo.operation.length,
                                              undo.old);
      }
      behaviour_.incomplete = undo.incomplete;
      undo_.pop_back();
    }
    undo_.clear();
    received_ = durable_;
    aborted_sequence_ = 0;
    End(absl::UnavailableError("power cut"));
  }
  // The secondary forgets this stream's operations after `sequence`, as after a power cut.
  void ForgetAfter(uint64_t sequence) {
    base::MutexLock lock(mutex_);
    received_ = durable_ = sequence;
  }

  struct Seen {
    std::vector<std::pair<uint64_t, size_t>> frames;  // first sequence, operations
    std::vector<OperationKind> kinds;                 // applied, in order
    Operation incomplete;                             // the newest INCOMPLETE
    std::vector<Handshake> handshakes;
    std::vector<std::string> violations;
    uint64_t durable_requests = 0;
    uint64_t compared_bytes = 0;
    uint64_t data_bytes = 0;  // of DATA operations applied
    uint64_t received = 0;
    uint64_t stream_id = 0;
    Epoch committed;
  };
  Seen seen() const {
    base::MutexLock lock(mutex_);
    Seen seen = seen_;
    seen.received = received_;
    seen.stream_id = stream_id_;
    seen.committed = committed_epoch_;
    return seen;
  }

  std::string disk(size_t volume) const {
    base::MutexLock lock(mutex_);
    return disks_[volume];
  }

  void Connect(uint64_t session, const Handshake& handshake, TransportEvents* events) override {
    base::MutexLock lock(mutex_);
    events_ = events;
    session_ = session;
    session_open_ = true;
    seen_.handshakes.push_back(handshake);
    if (!behaviour_.reachable) return End(absl::UnavailableError("nobody listens"));
    if (!behaviour_.refuse.ok()) return End(behaviour_.refuse);
    if (handshake.stream_id != stream_id_) {
      if (behaviour_.strict_streams && stream_id_ != 0) behaviour_.incomplete = true;
      undo_.clear();
      stream_id_ = handshake.stream_id;
      received_ = durable_ = committed_sequence_ = marker_sequence_ = 0;
    }
    HandshakeReply reply{.grant = grant_,
                         .received_sequence = received_,
                         .durable_sequence = durable_,
                         .committed_epoch = committed_epoch_,
                         .committed_sequence = committed_sequence_,
                         .committed_time = behaviour_.committed_time,
                         .committed_age = behaviour_.committed_age,
                         .incomplete = behaviour_.incomplete,
                         .frame_payload_bytes_max = kFramePayloadBytesMax};
    for (uint32_t i = 0; i < disks_.size(); ++i) reply.volume_ids.push_back(i);
    Post([session, reply](TransportEvents* events) { events->OnReply(session, reply); });
  }

  void SendFrame(uint64_t session, const FrameHeader& header,
                 std::shared_ptr<const Frame> frame) override {
    base::MutexLock lock(mutex_);
    if (session != session_ || !session_open_) return;
    seen_.frames.emplace_back(frame->first_sequence, frame->operations.size());
    if (behaviour_.crc_failures > 0) {
      --behaviour_.crc_failures;
      return End(absl::DataLossError("bad CRC"));
    }
    const bool marker = Apply(header, *frame);
    if (marker && behaviour_.lose_answers) return End(absl::UnavailableError("answer lost"));
    if (behaviour_.hold_sent) {
      sent_held_ = true;
    } else {
      Post([session](TransportEvents* events) { events->OnFrameSent(session); });
    }
    if (behaviour_.acknowledge) PostAck();
  }

  void SendHeartbeat(uint64_t session, const Heartbeat& heartbeat) override {
    base::MutexLock lock(mutex_);
    if (session != session_ || !session_open_) return;
    if (heartbeat.durable_wanted) {
      ++seen_.durable_requests;
      if (behaviour_.acknowledge && !behaviour_.hung_sync) durable_ = received_;
    }
    if (behaviour_.acknowledge) PostAck();
  }

  // By volume name "diskN".
  absl::Status Fetch(const std::string& /*group*/, const Grant& grant, const std::string& volume,
                     ByteRange range,
                     absl::FunctionRef<absl::Status(ChecksumSlice)> take) override {
    for (uint64_t at = range.start; at < range.end; at += 1 << 20) {
      ChecksumSlice slice{.range = {at, std::min<uint64_t>(at + (1 << 20), range.end)}};
      {
        base::MutexLock lock(mutex_);
        if (cancelled_) return absl::CancelledError("cancelled");
        if (!behaviour_.refuse_checksums.ok()) return behaviour_.refuse_checksums;
        if (grant != grant_) return absl::FailedPreconditionError("another grant");
        const std::string& disk = disks_[static_cast<size_t>(volume.back() - '0')];
        const std::span<const char> data(disk.data() + at, slice.range.size());
        seen_.compared_bytes += data.size();
        if (!base::AllZero(data)) {
          slice.content = ChecksumSlice::Content::kHashes;
          base::AppendBlockHashes(data, &slice.hashes);
        }
      }
      if (absl::Status status = take(std::move(slice)); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  void Cancel() override {
    base::MutexLock lock(mutex_);
    cancelled_ = true;
  }
  // The standby's disk changes behind everybody's back.
  void Corrupt(uint64_t offset, char byte) {
    base::MutexLock lock(mutex_);
    disks_[0][offset] = byte;
  }
  void Allow() {  // after a Cancel(), for the next agent
    base::MutexLock lock(mutex_);
    cancelled_ = false;
  }

  void Close(uint64_t session) override {
    base::MutexLock lock(mutex_);
    if (session == session_) End(absl::CancelledError("closed"));
  }

 private:
  struct Undo {
    uint64_t sequence = 0;
    Operation operation;
    bool incomplete = false;
    std::string old;
  };
  std::deque<Undo> undo_ ABSL_GUARDED_BY(mutex_);
  bool track_ ABSL_GUARDED_BY(mutex_) = false;

  void Violation(std::string text) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    seen_.violations.push_back(std::move(text));
  }

  // True when a marker was among the operations.
  bool Apply(const FrameHeader& header, const Frame& frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (MakeFrameHeader(frame, grant_).crc32c != header.crc32c) Violation("crc");
    if (frame.first_sequence > received_ + 1) Violation("gap");
    if (frame.payload_bytes > kFramePayloadBytesMax) Violation("frame too large");
    uint64_t sequence = frame.first_sequence;
    const char* data = frame.payload;
    bool marker = false;
    for (const Operation& operation : frame.operations) {
      const char* const bytes = data;
      data += operation.payload_bytes();
      if (marker) Violation("operation after a marker");
      marker = marker || IsMarker(operation.kind);
      if (sequence++ <= received_) continue;
      received_ = sequence - 1;
      if (track_) {
        Undo undo{
            .sequence = received_, .operation = operation, .incomplete = behaviour_.incomplete};
        if (operation.has_range()) {
          undo.old = disks_[operation.volume].substr(operation.offset, operation.length);
        }
        undo_.push_back(std::move(undo));
      }
      ApplyOne(operation, bytes);
    }
    if (data != frame.payload + frame.payload_bytes) Violation("payload length");
    if (behaviour_.durable && !behaviour_.hung_sync) durable_ = received_;
    return marker;
  }

  void ApplyOne(const Operation& operation, const char* bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    seen_.kinds.push_back(operation.kind);
    if (operation.kind == OperationKind::kIncomplete) seen_.incomplete = operation;
    switch (operation.kind) {
      case OperationKind::kData:
        seen_.data_bytes += operation.length;
        std::memcpy(disks_[operation.volume].data() + operation.offset, bytes, operation.length);
        break;
      case OperationKind::kZero:
      case OperationKind::kDiscard:
        std::memset(disks_[operation.volume].data() + operation.offset, 0, operation.length);
        break;
      case OperationKind::kIncomplete:
        behaviour_.incomplete = true;
        break;
      case OperationKind::kComplete:
        behaviour_.incomplete = false;
        break;
      case OperationKind::kCheckpoint:
      case OperationKind::kHandover:
        marker_sequence_ = received_;
        if (behaviour_.incomplete) {
          aborted_sequence_ = received_;
        } else if (behaviour_.commit && !behaviour_.hung_sync) {
          committed_epoch_ = committed_epoch_.Next();
          committed_sequence_ = received_;
          durable_ = received_;
        }
        break;
      default:
        break;
    }
  }

  void PostAck() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const Ack ack{.received_sequence = received_,
                  .durable_sequence = durable_,
                  .committed_epoch = committed_epoch_,
                  .committed_sequence = committed_sequence_,
                  .committed_bytes = 4096,
                  .committed_duration = absl::Milliseconds(1),
                  .incomplete = behaviour_.incomplete,
                  .aborted_sequence = aborted_sequence_};
    Post([session = session_, ack](TransportEvents* events) { events->OnAck(session, ack); });
  }

  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!session_open_) return;
    session_open_ = false;
    sent_held_ = false;
    Post([session = session_, status](TransportEvents* events) {
      events->OnClosed(session, status);
    });
  }

  void Post(std::function<void(TransportEvents*)> event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    queue_.emplace_back(events_, std::move(event));
    wake_.NotifyAll();
  }

  void Run() {
    mutex_.Lock();
    while (!stopping_ || !queue_.empty()) {
      if (queue_.empty()) {
        wake_.Wait(mutex_);
        continue;
      }
      auto [events, event] = std::move(queue_.front());
      queue_.pop_front();
      mutex_.Unlock();
      event(events);
      mutex_.Lock();
    }
    mutex_.Unlock();
  }

  mutable base::Mutex mutex_;
  base::CondVar wake_;
  Behaviour behaviour_ ABSL_GUARDED_BY(mutex_);
  Seen seen_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> disks_ ABSL_GUARDED_BY(mutex_);
  Grant grant_{.incarnation = {.high = 0x1122334455667788, .low = 7}, .term = Term(3)};
  uint64_t stream_id_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t received_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t durable_ ABSL_GUARDED_BY(mutex_) = 0;
  Epoch committed_epoch_ ABSL_GUARDED_BY(mutex_);
  uint64_t committed_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t marker_sequence_ ABSL_GUARDED_BY(mutex_) = 0;  // the newest, committed or not
  uint64_t aborted_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  TransportEvents* events_ ABSL_GUARDED_BY(mutex_) = nullptr;
  uint64_t session_ ABSL_GUARDED_BY(mutex_) = 0;
  bool session_open_ ABSL_GUARDED_BY(mutex_) = false;
  bool sent_held_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::pair<TransportEvents*, std::function<void(TransportEvents*)>>> queue_
      ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

// Until `condition` holds; false after 10 s. For effects that come from another thread and have no event to wait for.
inline bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

}  // namespace understudy::client

#endif  // UNDERSTUDY_TESTS_CLIENT_FAKE_TRANSPORT_H_
