// server/rpc/failback_handler.h
//
// GetFailbackMap: where the disks may differ from those of the primary that the group had.
#ifndef UNDERSTUDY_SERVER_RPC_FAILBACK_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_FAILBACK_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class FailbackHandler {
 public:
  // Both outlive the handler.
  FailbackHandler(Service& service, base::WorkerPool& pool) : service_(service), pool_(pool) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::GetFailbackMapRequest* request,
                                   v1::GetFailbackMapResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_FAILBACK_HANDLER_H_
