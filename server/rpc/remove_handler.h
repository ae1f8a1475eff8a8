// server/rpc/remove_handler.h
//
// Remove: forgets a group; its disks stay.
#ifndef UNDERSTUDY_SERVER_RPC_REMOVE_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_REMOVE_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class RemoveHandler {
 public:
  // Both outlive the handler.
  RemoveHandler(Service& service, base::WorkerPool& pool) : service_(service), pool_(pool) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::RemoveRequest* request, v1::RemoveResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_REMOVE_HANDLER_H_
