// server/rpc/clear_error_handler.h
//
// ClearError: acknowledges the latched errors of a group that are over.
#ifndef UNDERSTUDY_SERVER_RPC_CLEAR_ERROR_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_CLEAR_ERROR_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class ClearErrorHandler {
 public:
  // Both outlive the handler.
  ClearErrorHandler(Service& service, base::WorkerPool& pool) : service_(service), pool_(pool) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::ClearErrorRequest* request,
                                   v1::ClearErrorResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_CLEAR_ERROR_HANDLER_H_
