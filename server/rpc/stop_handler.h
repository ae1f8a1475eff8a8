// server/rpc/stop_handler.h
//
// Stop, with and without failover; the two run on different pools.
#ifndef UNDERSTUDY_SERVER_RPC_STOP_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_STOP_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class StopHandler {
 public:
  // Service and pools outlive the handler.
  StopHandler(Service& service, base::WorkerPool& pool, base::WorkerPool& failover_pool)
      : service_(service), pool_(pool), failover_pool_(failover_pool) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::StopRequest* request, v1::StopResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
  base::WorkerPool& failover_pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_STOP_HANDLER_H_
