// server/rpc/replication_service.h
//
// The control service understudy.v1.Replication of the standby: one handler class per RPC.
// Threads  calls block on worker pools, never on gRPC's threads. A client has one call outstanding per request it made; at
//          most 64 run at once, failovers apart from them.
#ifndef UNDERSTUDY_SERVER_RPC_REPLICATION_SERVICE_H_
#define UNDERSTUDY_SERVER_RPC_REPLICATION_SERVICE_H_

#include "server/rpc/checkpoint_handler.h"
#include "server/rpc/get_error_handler.h"
#include "server/rpc/get_status_handler.h"
#include "server/rpc/list_groups_handler.h"
#include "server/rpc/open_handler.h"
#include "server/rpc/remove_handler.h"
#include "server/rpc/start_handler.h"
#include "server/rpc/stop_handler.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.grpc.pb.h"

namespace understudy::server {

class ReplicationService final : public v1::Replication::CallbackService {
 public:
  explicit ReplicationService(server::Service& service);  // which outlives this

  grpc::ServerUnaryReactor* Open(grpc::CallbackServerContext* context,
                                 const v1::OpenRequest* request,
                                 v1::OpenResponse* response) override;
  grpc::ServerUnaryReactor* Start(grpc::CallbackServerContext* context,
                                  const v1::StartRequest* request,
                                  v1::StartResponse* response) override;
  grpc::ServerUnaryReactor* Checkpoint(grpc::CallbackServerContext* context,
                                       const v1::CheckpointRequest* request,
                                       v1::CheckpointResponse* response) override;
  grpc::ServerUnaryReactor* GetError(grpc::CallbackServerContext* context,
                                     const v1::GetErrorRequest* request,
                                     v1::GetErrorResponse* response) override;
  grpc::ServerUnaryReactor* Stop(grpc::CallbackServerContext* context,
                                 const v1::StopRequest* request,
                                 v1::StopResponse* response) override;
  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response) override;
  grpc::ServerUnaryReactor* ListGroups(grpc::CallbackServerContext* context,
                                       const v1::ListGroupsRequest* request,
                                       v1::ListGroupsResponse* response) override;
  grpc::ServerUnaryReactor* Remove(grpc::CallbackServerContext* context,
                                   const v1::RemoveRequest* request,
                                   v1::RemoveResponse* response) override;

 private:
  base::WorkerPool control_pool_{"control", 64};
  base::WorkerPool failover_pool_{"failover", 16};
  OpenHandler open_;
  StartHandler start_;
  CheckpointHandler checkpoint_;
  GetErrorHandler get_error_;
  StopHandler stop_;
  GetStatusHandler get_status_;
  ListGroupsHandler list_groups_;
  RemoveHandler remove_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_REPLICATION_SERVICE_H_
