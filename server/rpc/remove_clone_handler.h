// server/rpc/remove_clone_handler.h
//
// RemoveClone: ends one.
#ifndef UNDERSTUDY_SERVER_RPC_REMOVE_CLONE_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_REMOVE_CLONE_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class RemoveCloneHandler {
 public:
  // Both outlive the handler.
  RemoveCloneHandler(Service& service, base::WorkerPool& pool) : service_(service), pool_(pool) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::RemoveCloneRequest* request,
                                   v1::RemoveCloneResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_REMOVE_CLONE_HANDLER_H_
