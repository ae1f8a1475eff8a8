// server/rpc/checkpoint_handler.h
//
// Checkpoint, mode FULL. The lock-step modes answer UNIMPLEMENTED.
#ifndef UNDERSTUDY_SERVER_RPC_CHECKPOINT_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_CHECKPOINT_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class CheckpointHandler {
 public:
  // Both outlive the handler.
  CheckpointHandler(Service& service, base::WorkerPool& pool) : service_(service), pool_(pool) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::CheckpointRequest* request,
                                   v1::CheckpointResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_CHECKPOINT_HANDLER_H_
