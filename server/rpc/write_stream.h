// server/rpc/write_stream.h
//
// understudy.v1.PrimaryWrites over gRPC. Write is a raw callback stream that hands ByteBuffers to a StreamSession and sends its
// answers. Frames are not parsed here; only the handshake is, which is small and comes once.
// Threads  gRPC's callback threads never wait: not for I/O, not for a lock under which I/O is done.
#ifndef UNDERSTUDY_SERVER_RPC_WRITE_STREAM_H_
#define UNDERSTUDY_SERVER_RPC_WRITE_STREAM_H_

#include <grpcpp/grpcpp.h>

#include "server/rpc/checksums_handler.h"
#include "server/service.h"
#include "server/stream_session.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/primary_writes.grpc.pb.h"

namespace understudy::server {

class PrimaryWritesService final
    : public v1::PrimaryWrites::WithRawCallbackMethod_Write<
          v1::PrimaryWrites::WithCallbackMethod_Checksums<v1::PrimaryWrites::Service>> {
 public:
  explicit PrimaryWritesService(server::Service& service,  // outlives this
                                const StreamOptions& options = {});
  ~PrimaryWritesService() override;

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Write(
      grpc::CallbackServerContext* context) override;
  grpc::ServerWriteReactor<v1::ChecksumsResponse>* Checksums(
      grpc::CallbackServerContext* context, const v1::ChecksumsRequest* request) override;

 private:
  server::Service& service_;
  const StreamOptions options_;
  // One slice of one call at a time each, in turn; a disk that hangs takes one for each of its calls.
  base::WorkerPool checksum_pool_{"checksums", 16};
  ChecksumsHandler checksums_{service_, checksum_pool_};
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_WRITE_STREAM_H_
