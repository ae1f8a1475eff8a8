// server/rpc/history_handler.h
//
// History: the checkpoints that can be chosen.
#ifndef UNDERSTUDY_SERVER_RPC_HISTORY_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_HISTORY_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class HistoryHandler {
 public:
  // Both outlive the handler.
  HistoryHandler(Service& service, base::WorkerPool& pool) : service_(service), pool_(pool) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::HistoryRequest* request,
                                   v1::HistoryResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_HISTORY_HANDLER_H_
