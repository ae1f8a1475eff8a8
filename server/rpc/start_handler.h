// server/rpc/start_handler.h
//
// Start, also with volumes: open and start in one call.
#ifndef UNDERSTUDY_SERVER_RPC_START_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_START_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class StartHandler {
 public:
  // Both outlive the handler.
  StartHandler(Service& service, base::WorkerPool& pool) : service_(service), pool_(pool) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::StartRequest* request, v1::StartResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_START_HANDLER_H_
