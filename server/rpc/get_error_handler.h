// server/rpc/get_error_handler.h
//
// GetError: every latched error of a group.
#ifndef UNDERSTUDY_SERVER_RPC_GET_ERROR_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_GET_ERROR_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class GetErrorHandler {
 public:
  // Both outlive the handler.
  GetErrorHandler(Service& service, base::WorkerPool& pool) : service_(service), pool_(pool) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::GetErrorRequest* request,
                                   v1::GetErrorResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_GET_ERROR_HANDLER_H_
