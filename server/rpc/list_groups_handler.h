// server/rpc/list_groups_handler.h
//
// ListGroups: the names of all groups, sorted.
#ifndef UNDERSTUDY_SERVER_RPC_LIST_GROUPS_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_LIST_GROUPS_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class ListGroupsHandler {
 public:
  // Both outlive the handler.
  ListGroupsHandler(Service& service, base::WorkerPool& pool) : service_(service), pool_(pool) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::ListGroupsRequest* request,
                                   v1::ListGroupsResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_LIST_GROUPS_HANDLER_H_
