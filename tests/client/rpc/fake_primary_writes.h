// tests/client/rpc/fake_primary_writes.h
//
// A PrimaryWrites service of a few lines, over generated classes only: it parses what the client encodes by hand, checks the CRC,
// and acknowledges everything as durable and committed.
#ifndef UNDERSTUDY_TESTS_CLIENT_RPC_FAKE_PRIMARY_WRITES_H_
#define UNDERSTUDY_TESTS_CLIENT_RPC_FAKE_PRIMARY_WRITES_H_

#include <cstring>
#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "storage/base/crc32c.h"
#include "storage/base/mutex.h"
#include "storage/base/operation.h"
#include "understudy/v1/primary_writes.grpc.pb.h"

namespace understudy::client {

class FakePrimaryWrites : public v1::PrimaryWrites::Service {
 public:
  explicit FakePrimaryWrites(const std::string& address) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakePrimaryWrites() override { server_->Shutdown(std::chrono::system_clock::now()); }

  void Refuse(const grpc::Status& status) {
    base::MutexLock lock(mutex_);
    refuse_ = status;
  }
  std::string payload() const {
    base::MutexLock lock(mutex_);
    return payload_;
  }
  int crc_mismatches() const {
    base::MutexLock lock(mutex_);
    return crc_mismatches_;
  }

  grpc::Status Write(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::WriteResponse, v1::WriteRequest>* stream) override {
    v1::WriteRequest request;
    if (!stream->Read(&request) || !request.has_handshake()) return grpc::Status::CANCELLED;
    {
      base::MutexLock lock(mutex_);
      if (!refuse_.ok()) return refuse_;
    }
    v1::WriteResponse reply;
    reply.mutable_handshake()->set_incarnation(std::string(15, '\0') + "\x07");
    reply.mutable_handshake()->set_term(2);
    for (int i = 0; i < request.handshake().volumes_size(); ++i) {
      reply.mutable_handshake()->add_volume_ids(static_cast<uint32_t>(i));
    }
    reply.mutable_handshake()->set_frame_payload_bytes_max(kFramePayloadBytesMax);
    stream->Write(reply);
    v1::WriteResponse answer;
    while (stream->Read(&request)) {
      if (request.has_frame()) Take(request.frame(), *answer.mutable_ack());
      if (request.has_heartbeat())
        answer.mutable_ack()->set_echo_micros(request.heartbeat().sent_micros());
      stream->Write(answer);
    }
    return grpc::Status::OK;
  }

 private:
  void Take(const v1::Frame& frame, v1::Ack& ack) {
    const uint64_t fixed[] = {frame.term(), frame.incarnation_high(), frame.incarnation_low(),
                              frame.first_sequence()};
    uint32_t crc = base::Crc32c(fixed, sizeof(fixed));
    crc = base::ExtendCrc32c(crc, frame.operations().data(), frame.operations().size());
    crc = base::ExtendCrc32c(crc, frame.payload().data(), frame.payload().size());
    base::MutexLock lock(mutex_);
    if (crc != frame.crc32c()) ++crc_mismatches_;
    payload_ += frame.payload();
    const size_t count = frame.operations().size() / kOperationBytes;
    const uint64_t last = frame.first_sequence() + count - 1;
    ack.set_received_sequence(last);
    ack.set_durable_sequence(last);
    Operation operation;
    std::memcpy(&operation, frame.operations().data() + (count - 1) * kOperationBytes,
                kOperationBytes);
    if (operation.kind != OperationKind::kCheckpoint) return;
    ack.set_committed_epoch(ack.committed_epoch() + 1);
    ack.set_committed_sequence(last);
  }

  mutable base::Mutex mutex_;
  grpc::Status refuse_ ABSL_GUARDED_BY(mutex_);
  std::string payload_ ABSL_GUARDED_BY(mutex_);
  int crc_mismatches_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_TESTS_CLIENT_RPC_FAKE_PRIMARY_WRITES_H_
