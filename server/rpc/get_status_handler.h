// server/rpc/get_status_handler.h
//
// GetStatus: of one group or of all.
#ifndef UNDERSTUDY_SERVER_RPC_GET_STATUS_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_GET_STATUS_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class GetStatusHandler {
 public:
  // Both outlive the handler.
  GetStatusHandler(Service& service, base::WorkerPool& pool) : service_(service), pool_(pool) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::GetStatusRequest* request,
                                   v1::GetStatusResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_GET_STATUS_HANDLER_H_
