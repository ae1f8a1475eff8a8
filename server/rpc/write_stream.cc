#include "server/rpc/write_stream.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "proto/sealed_message.h"
#include "proto/status_codec.h"
#include "server/rpc/convert.h"
#include "storage/base/mutex.h"

namespace understudy::server {
namespace {

// Many volumes of long names fit; a first message that is larger is not a handshake.
constexpr size_t kHandshakeBytesMax = 256 << 10;

class BufferMessage : public RawMessage {
 public:
  // Takes the slices over. `buffer` may be read into again after it.
  explicit BufferMessage(grpc::ByteBuffer& buffer) : bytes_(buffer.Length()) {
    // Dump() fails only for a buffer without bytes; no slices then, and the decoder refuses the message.
    if (!buffer.Dump(&owned_).ok()) owned_.clear();
    buffer.Clear();
    // Small slices hold their bytes themselves, so the vector must not move any more.
    for (const grpc::Slice& slice : owned_) {
      slices_.emplace_back(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
  }
  std::span<const std::span<const char>> slices() const override { return slices_; }
  uint64_t bytes() const override { return bytes_; }

 private:
  const uint64_t bytes_;
  std::vector<grpc::Slice> owned_;
  std::vector<std::span<const char>> slices_;
};

absl::StatusOr<Handshake> ParseHandshake(grpc::ByteBuffer& buffer) {
  v1::WriteRequest request;
  absl::Status decoded;
  if (buffer.Length() <= kHandshakeBytesMax) decoded = proto::DecodeSealed(buffer, &request);
  if (absl::IsDataLoss(decoded)) return decoded;
  if (!decoded.ok() || !request.has_handshake()) {
    return absl::InvalidArgumentError("write stream: the first message is not a handshake");
  }
  return HandshakeFrom(request.handshake());
}

// One stream. The session decides when to read, what to write and when it is over; this class makes gRPC calls of it. Every Start*
// happens inside a call of the session into the sink, and Finish() in or after the last one: so none follows Finish().
class WriteStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                          public AckSink {
 public:
  WriteStream(Service& service, const StreamOptions& options)
      : session_(std::make_shared<StreamSession>(service, *this, options)) {
    session_->Open();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      session_->ReadsDone();
    } else if (greeted_) {
      session_->Push(std::make_unique<BufferMessage>(incoming_));
    } else {
      greeted_ = true;
      absl::StatusOr<Handshake> handshake = ParseHandshake(incoming_);
      incoming_.Clear();
      if (handshake.ok()) {
        session_->Begin(*std::move(handshake));
      } else {
        session_->End(handshake.status());
      }
    }
  }

  void OnWriteDone(bool ok) override {
    std::optional<absl::Status> finish;
    {
      base::MutexLock lock(mutex_);
      writing_ = false;
      finish = finish_;
    }
    if (finish) {
      Finish(proto::ToGrpcStatus(*finish));
    } else {
      session_->OnWritten(ok);
    }
  }

  void OnCancel() override {
    session_->End(absl::CancelledError("write stream: the agent has gone away"));
  }
  void OnDone() override { delete this; }

  // AckSink
  void OnRoom() override { StartRead(&incoming_); }

  void OnAnswer() override {
    {
      base::MutexLock lock(mutex_);
      if (writing_) return;
      const std::optional<Answer> answer = session_->TakeAnswer();
      if (!answer) return;
      writing_ = true;
      outgoing_ = proto::EncodeSealed(ToProto(*answer));
    }
    StartWrite(&outgoing_);
  }

  void OnEnd(const absl::Status& status) override {
    {
      base::MutexLock lock(mutex_);
      // To a peer that reads nothing the end is told when it reads on or its connection breaks; the storage thread is free already.
      if (writing_) {
        finish_ = status;
        return;
      }
    }
    Finish(proto::ToGrpcStatus(status));
  }

 private:
  const std::shared_ptr<StreamSession> session_;
  bool greeted_ = false;  // of the reading thread: the handshake has come
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;

  base::Mutex mutex_;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;                // outgoing_ is gRPC's
  std::optional<absl::Status> finish_ ABSL_GUARDED_BY(mutex_);  // when the write has ended
};

}  // namespace

PrimaryWritesService::PrimaryWritesService(server::Service& service, const StreamOptions& options)
    : service_(service), options_(options) {}
PrimaryWritesService::~PrimaryWritesService() = default;

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* PrimaryWritesService::Write(
    grpc::CallbackServerContext* /*context*/) {
  return new WriteStream(service_, options_);
}

grpc::ServerWriteReactor<v1::ChecksumsResponse>* PrimaryWritesService::Checksums(
    grpc::CallbackServerContext* /*context*/, const v1::ChecksumsRequest* request) {
  return checksums_.Handle(*request);
}

}  // namespace understudy::server
