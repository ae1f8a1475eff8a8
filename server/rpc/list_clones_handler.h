// server/rpc/list_clones_handler.h
//
// ListClones: the clones of a group.
#ifndef UNDERSTUDY_SERVER_RPC_LIST_CLONES_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_LIST_CLONES_HANDLER_H_

#include <string>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class ListClonesHandler {
 public:
  // Service and pool outlive the handler.
  // `nbd_socket`: where clones are served; empty: nowhere.
  ListClonesHandler(Service& service, base::WorkerPool& pool, std::string nbd_socket)
      : service_(service), pool_(pool), nbd_socket_(std::move(nbd_socket)) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::ListClonesRequest* request,
                                   v1::ListClonesResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
  const std::string nbd_socket_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_LIST_CLONES_HANDLER_H_
