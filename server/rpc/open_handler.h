// server/rpc/open_handler.h
//
// Open: declares a group and its volumes.
#ifndef UNDERSTUDY_SERVER_RPC_OPEN_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_OPEN_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class OpenHandler {
 public:
  // Both outlive the handler.
  OpenHandler(Service& service, base::WorkerPool& pool) : service_(service), pool_(pool) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::OpenRequest* request, v1::OpenResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_OPEN_HANDLER_H_
