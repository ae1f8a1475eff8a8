// server/rpc/checksums_handler.h
//
// PrimaryWrites.Checksums: a ChecksumScan as a stream of answers. One slice is read ahead while one is being written, so a client
// that takes its time holds one slice here, and no thread.
// Threads  files are read on the pool, at most one task for each call. A call that is cancelled while its disk hangs ends at once; the
//          thread stays until the disk answers.
#ifndef UNDERSTUDY_SERVER_RPC_CHECKSUMS_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_CHECKSUMS_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/primary_writes.pb.h"

namespace understudy::server {

class ChecksumsHandler {
 public:
  // Both outlive the handler and its calls.
  ChecksumsHandler(Service& service, base::WorkerPool& pool) : service_(service), pool_(pool) {}
  grpc::ServerWriteReactor<v1::ChecksumsResponse>* Handle(const v1::ChecksumsRequest& request);

 private:
  Service& service_;
  base::WorkerPool& pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_CHECKSUMS_HANDLER_H_
