#include "client/rpc/write_stream.h"

#include <optional>
#include <utility>

#include "absl/functional/function_ref.h"
#include <grpcpp/alarm.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include "client/rpc/frame_encoder.h"
#include "proto/grpc_channel.h"
#include "proto/grpc_time.h"
#include "proto/sealed_message.h"
#include "proto/status_codec.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/primary_writes.pb.h"

namespace understudy::client {
namespace {

constexpr char kMethod[] = "/understudy.v1.PrimaryWrites/Write";
// How long a call that is cancelled may take to end. One whose bytes the network takes no more does not end until TCP gives up.
constexpr absl::Duration kCloseTimeout = absl::Milliseconds(200);

// Where sessions are destroyed. When the last channel of a process is destroyed, gRPC waits for the
// threads that run its reactions. In a reaction, that thread would wait for itself and then use
// freed memory (seen with gRPC 1.51). Never ends, as gRPC's own threads do not; at most one task
// for each session.
base::WorkerPool& SessionsEnd() {
  static auto* const pool = new base::WorkerPool("sessions-end", 1);
  return *pool;
}

grpc::ByteBuffer Serialize(const v1::WriteRequest& request) {
  const grpc::Slice slice(request.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

grpc::ByteBuffer EncodeHandshake(const Handshake& handshake) {
  v1::WriteRequest request;
  v1::Handshake& out = *request.mutable_handshake();
  out.set_group(handshake.group);
  if (!handshake.grant.none()) out.set_incarnation(EncodeIncarnation(handshake.grant.incarnation));
  out.set_term(handshake.grant.term.value());
  out.set_agent_id(handshake.agent_id);
  out.set_stream_id(handshake.stream_id);
  for (const VolumeSpec& volume : handshake.volumes) {
    v1::StreamVolume& added = *out.add_volumes();
    added.set_name(volume.name);
    added.set_size_bytes(volume.size_bytes);
  }
  out.set_first_available_sequence(handshake.first_available_sequence);
  out.set_takeover(handshake.takeover);
  out.set_last_committed_epoch(handshake.last_committed_epoch.value());
  out.set_last_committed_sequence(handshake.last_committed_sequence);
  out.set_may_checkpoint(handshake.may_checkpoint);
  return proto::EncodeSealed(request);
}

v1::Proof ToProto(Proof proof) {
  switch (proof) {
    case Proof::kNone:
      return v1::PROOF_NONE;
    case Proof::kProved:
      return v1::PROOF_EQUAL;
    case Proof::kRefuted:
      return v1::PROOF_DIFFERENT;
  }
  return v1::PROOF_NONE;
}

grpc::ByteBuffer EncodeHeartbeat(const Heartbeat& heartbeat) {
  v1::WriteRequest request;
  request.mutable_heartbeat()->set_durable_wanted(heartbeat.durable_wanted);
  request.mutable_heartbeat()->set_sent_micros(heartbeat.sent_micros);
  if (heartbeat.proof.has_value())
    request.mutable_heartbeat()->set_proof(ToProto(*heartbeat.proof));
  return Serialize(request);
}

HandshakeReply DecodeReply(const v1::HandshakeReply& in) {
  HandshakeReply reply{
      .grant = {.incarnation = DecodeIncarnation(in.incarnation()), .term = Term(in.term())},
      .received_sequence = in.received_sequence(),
      .durable_sequence = in.durable_sequence(),
      .committed_epoch = Epoch(in.committed_epoch()),
      .committed_sequence = in.committed_sequence(),
      .committed_time = absl::FromUnixMicros(static_cast<int64_t>(in.committed_micros())),
      .incomplete = in.incomplete(),
      .frame_payload_bytes_max = in.frame_payload_bytes_max()};
  if (in.committed_age_micros() > 0) {
    reply.committed_age = absl::Microseconds(static_cast<int64_t>(in.committed_age_micros()));
  }
  reply.volume_ids.assign(in.volume_ids().begin(), in.volume_ids().end());
  return reply;
}

Ack DecodeAck(const v1::Ack& in) {
  return {.received_sequence = in.received_sequence(),
          .durable_sequence = in.durable_sequence(),
          .committed_epoch = Epoch(in.committed_epoch()),
          .committed_sequence = in.committed_sequence(),
          .committed_bytes = in.committed_bytes(),
          .committed_duration =
              absl::Microseconds(static_cast<int64_t>(in.committed_duration_micros())),
          .incomplete = in.incomplete(),
          .aborted_sequence = in.aborted_sequence(),
          .echo_micros = in.echo_micros(),
          .prepared_epoch = Epoch(in.prepared_epoch()),
          .prepared_sequence = in.prepared_sequence()};
}

}  // namespace

// One call of PrimaryWrites.Write, on a connection of its own: the one before may be dead without
// knowing. It keeps itself alive until OnDone(), which may be long after it has told that it is
// closed. Whoever lets go of it last, it is destroyed elsewhere.
class WriteStream::Session : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                             public std::enable_shared_from_this<Session> {
 public:
  static std::shared_ptr<Session> Make(uint64_t number, TransportEvents* events,
                                       const std::string& server) {
    return {new Session(number, events, server),
            [](Session* session) { SessionsEnd().Submit([session] { delete session; }); }};
  }

  uint64_t number() const { return number_; }

  void Begin(grpc::ByteBuffer handshake) {
    self_ = shared_from_this();
    stub_.PrepareBidiStreamingCall(&context_, kMethod, grpc::StubOptions(), this);
    AddHold();  // writes come from outside the reactions; released in Release()
    {
      base::MutexLock lock(mutex_);
      writing_ = Writing::kOther;
      outgoing_ = std::move(handshake);
    }
    StartWrite(&outgoing_);
    StartRead(&incoming_);
    StartCall();
  }

  void SendFrame(grpc::ByteBuffer frame) {
    {
      base::MutexLock lock(mutex_);
      pending_frame_ = std::move(frame);
    }
    WriteNext();
  }

  void SendHeartbeat(const Heartbeat& heartbeat) {
    {
      base::MutexLock lock(mutex_);
      const Heartbeat before = pending_heartbeat_.value_or(Heartbeat());
      pending_heartbeat_ = heartbeat;
      pending_heartbeat_->durable_wanted |= before.durable_wanted;
      if (!heartbeat.proof.has_value()) pending_heartbeat_->proof = before.proof;
    }
    WriteNext();
  }

  void Close() {
    Cancel();
    {
      base::MutexLock lock(mutex_);
      if (std::exchange(closing_, true)) return;
    }
    close_timer_.Set(proto::GrpcDeadline(kCloseTimeout), [weak = weak_from_this()](bool due) {
      if (const auto self = weak.lock(); due && self != nullptr) self->GiveUp();
    });
  }

  void OnWriteDone(bool ok) override {
    bool was_frame = false;
    {
      base::MutexLock lock(mutex_);
      was_frame = writing_ == Writing::kFrame;
      writing_ = Writing::kNothing;
      broken_ = broken_ || !ok;
    }
    if (!ok) return;  // the read fails too, and then it ends
    if (was_frame) {
      Tell([this] { events_->OnFrameSent(number_); });
    }
    WriteNext();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      Release();
      return;
    }
    v1::WriteResponse response;
    if (const absl::Status decoded = proto::DecodeSealed(incoming_, &response); !decoded.ok()) {
      // The service sends nothing malformed: it was damaged on the way, whatever it looks like.
      broken_answer_ = absl::DataLossError(decoded.message());
      return Cancel();
    }
    Tell([&] { Dispatch(response); });
    StartRead(&incoming_);
  }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<Session> self = std::move(self_);
    close_timer_.Cancel();
    End(broken_answer_.ok() ? proto::FromGrpcStatus(status) : broken_answer_);
  }

 private:
  Session(uint64_t number, TransportEvents* events, const std::string& server)
      : number_(number), events_(events), stub_(proto::MakeChannel(server)) {}

  enum class Writing : uint8_t { kNothing, kFrame, kOther };

  void Cancel() {
    context_.TryCancel();
    Release();
  }
  void GiveUp() {
    End(absl::UnavailableError("the connection to the standby takes no more bytes: left behind"));
  }

  // An event before the last one; none once the session has ended.
  void Tell(absl::FunctionRef<void()> event) {
    {
      base::MutexLock lock(mutex_);
      if (end_.has_value()) return;
      ++telling_;
    }
    event();
    {
      base::MutexLock lock(mutex_);
      --telling_;
    }
    TellEnd();
  }
  void End(const absl::Status& status) {
    {
      base::MutexLock lock(mutex_);
      if (end_.has_value()) return;
      end_ = status;
    }
    TellEnd();
  }
  // OnClosed(), once, when all other events have returned.
  void TellEnd() {
    absl::Status end;
    {
      base::MutexLock lock(mutex_);
      if (!end_.has_value() || telling_ > 0 || std::exchange(told_end_, true)) return;
      end = *end_;
    }
    events_->OnClosed(number_, end);
  }

  void Dispatch(const v1::WriteResponse& response) {
    switch (response.message_case()) {
      case v1::WriteResponse::kHandshake:
        events_->OnReply(number_, DecodeReply(response.handshake()));
        break;
      case v1::WriteResponse::kAck:
        events_->OnAck(number_, DecodeAck(response.ack()));
        break;
      case v1::WriteResponse::kCheckpointWanted:
        events_->OnCheckpointWanted(number_);
        break;
      case v1::WriteResponse::kHandoverWanted:
        events_->OnHandoverWanted(number_);
        break;
      case v1::WriteResponse::MESSAGE_NOT_SET:
        break;  // a newer service's message that we do not know
    }
  }

  // Heartbeats go ahead of a frame that waits.
  void WriteNext() {
    {
      base::MutexLock lock(mutex_);
      if (writing_ != Writing::kNothing || broken_ || released_) return;
      if (pending_heartbeat_.has_value()) {
        outgoing_ = EncodeHeartbeat(*pending_heartbeat_);
        pending_heartbeat_.reset();
        writing_ = Writing::kOther;
      } else if (pending_frame_.has_value()) {
        outgoing_ = *std::move(pending_frame_);
        pending_frame_.reset();
        writing_ = Writing::kFrame;
      } else {
        return;
      }
      ++starting_;
    }
    StartWrite(&outgoing_);
    EndStart();
  }

  // The hold may go only when no StartWrite() is under way.
  void EndStart() {
    bool remove = false;
    {
      base::MutexLock lock(mutex_);
      remove = --starting_ == 0 && released_ && !std::exchange(removed_, true);
    }
    if (remove) RemoveHold();
  }

  void Release() {
    bool remove = false;
    {
      base::MutexLock lock(mutex_);
      released_ = true;
      remove = starting_ == 0 && !std::exchange(removed_, true);
    }
    if (remove) RemoveHold();
  }

  const uint64_t number_;
  TransportEvents* const events_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::Alarm close_timer_;
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;  // of the write under way
  std::shared_ptr<Session> self_;
  absl::Status broken_answer_;  // written before Cancel(), read in OnDone()
  base::Mutex mutex_;
  Writing writing_ ABSL_GUARDED_BY(mutex_) = Writing::kNothing;
  std::optional<grpc::ByteBuffer> pending_frame_ ABSL_GUARDED_BY(mutex_);
  std::optional<Heartbeat> pending_heartbeat_ ABSL_GUARDED_BY(mutex_);
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;    // a write failed
  bool released_ ABSL_GUARDED_BY(mutex_) = false;  // no more writes
  bool removed_ ABSL_GUARDED_BY(mutex_) = false;   // the hold is gone
  int starting_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  int telling_ ABSL_GUARDED_BY(mutex_) = 0;                  // events under way
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);  // no more events but OnClosed()
  bool told_end_ ABSL_GUARDED_BY(mutex_) = false;
};

WriteStream::WriteStream(const std::string& server) : server_(server) {}

WriteStream::~WriteStream() = default;

std::shared_ptr<WriteStream::Session> WriteStream::Find(uint64_t session) {
  base::MutexLock lock(mutex_);
  return session_ != nullptr && session_->number() == session ? session_ : nullptr;
}

void WriteStream::Connect(uint64_t session, const Handshake& handshake, TransportEvents* events) {
  auto made = Session::Make(session, events, server_);
  {
    base::MutexLock lock(mutex_);
    session_ = made;
  }
  made->Begin(EncodeHandshake(handshake));
}

void WriteStream::SendFrame(uint64_t session, const FrameHeader& header,
                            std::shared_ptr<const Frame> frame) {
  if (const auto found = Find(session)) found->SendFrame(EncodeFrame(header, frame));
}

void WriteStream::SendHeartbeat(uint64_t session, const Heartbeat& heartbeat) {
  if (const auto found = Find(session)) found->SendHeartbeat(heartbeat);
}

void WriteStream::Close(uint64_t session) {
  if (const auto found = Find(session)) found->Close();
}

}  // namespace understudy::client
