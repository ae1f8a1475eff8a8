// server/rpc/replication_service.h
//
// The control service understudy.v1.Replication of the standby: one handler class per RPC.
// Threads  calls run on worker pools, never on gRPC's threads, in three classes, none of which queues behind another one: those that
//          may wait, for an agent, a disk or another call; failovers without `received`; those that only look and wait for nothing.
#ifndef UNDERSTUDY_SERVER_RPC_REPLICATION_SERVICE_H_
#define UNDERSTUDY_SERVER_RPC_REPLICATION_SERVICE_H_

#include <string>

#include "server/rpc/checkpoint_handler.h"
#include "server/rpc/clear_error_handler.h"
#include "server/rpc/clone_handler.h"
#include "server/rpc/failback_handler.h"
#include "server/rpc/get_error_handler.h"
#include "server/rpc/get_status_handler.h"
#include "server/rpc/history_handler.h"
#include "server/rpc/list_clones_handler.h"
#include "server/rpc/list_groups_handler.h"
#include "server/rpc/open_handler.h"
#include "server/rpc/remove_clone_handler.h"
#include "server/rpc/remove_handler.h"
#include "server/rpc/scrub_handler.h"
#include "server/rpc/start_handler.h"
#include "server/rpc/stop_handler.h"
#include "server/rpc/watch_handler.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.grpc.pb.h"

namespace understudy::server {

// Its constructor and destructor bring all of gRPC's templates for each call with them, wherever
// they are compiled: as those of the other services, they are so in one place.
class ReplicationService final : public v1::Replication::CallbackService {
 public:
  // `service` outlives this. `nbd_socket`: path of the NBD exports, to tell who makes a clone; empty: none.
  explicit ReplicationService(server::Service& service, const std::string& nbd_socket = "");
  ~ReplicationService() override;

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
  grpc::ServerUnaryReactor* ClearError(grpc::CallbackServerContext* context,
                                       const v1::ClearErrorRequest* request,
                                       v1::ClearErrorResponse* response) override;
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
  grpc::ServerUnaryReactor* Scrub(grpc::CallbackServerContext* context,
                                  const v1::ScrubRequest* request,
                                  v1::ScrubResponse* response) override;
  grpc::ServerUnaryReactor* History(grpc::CallbackServerContext* context,
                                    const v1::HistoryRequest* request,
                                    v1::HistoryResponse* response) override;
  grpc::ServerUnaryReactor* Clone(grpc::CallbackServerContext* context,
                                  const v1::CloneRequest* request,
                                  v1::CloneResponse* response) override;
  grpc::ServerUnaryReactor* ListClones(grpc::CallbackServerContext* context,
                                       const v1::ListClonesRequest* request,
                                       v1::ListClonesResponse* response) override;
  grpc::ServerUnaryReactor* RemoveClone(grpc::CallbackServerContext* context,
                                        const v1::RemoveCloneRequest* request,
                                        v1::RemoveCloneResponse* response) override;
  grpc::ServerUnaryReactor* GetFailbackMap(grpc::CallbackServerContext* context,
                                           const v1::GetFailbackMapRequest* request,
                                           v1::GetFailbackMapResponse* response) override;

  // Only an agent has these: kFailedPrecondition with reason WRONG_MODE.
  grpc::ServerUnaryReactor* Sync(grpc::CallbackServerContext* context, const v1::SyncRequest*,
                                 v1::SyncResponse*) override;
  grpc::ServerUnaryReactor* Verify(grpc::CallbackServerContext* context, const v1::VerifyRequest*,
                                   v1::VerifyResponse*) override;

  grpc::ServerWriteReactor<v1::WatchEvent>* Watch(grpc::CallbackServerContext* context,
                                                  const v1::WatchRequest* request) override;

  // Ends the streams of Watch with UNAVAILABLE. Before the server is shut down.
  void EndStreams() { watch_.EndAll(); }

 private:
  base::WorkerPool control_pool_{"control", 1024};  // one thread for each call that waits
  base::WorkerPool failover_pool_{"failover", 16};
  base::WorkerPool look_pool_{"look", 4};
  // May wait.
  OpenHandler open_;
  StartHandler start_;
  CheckpointHandler checkpoint_;
  StopHandler stop_;
  RemoveHandler remove_;
  ScrubHandler scrub_;
  ClearErrorHandler clear_error_;
  CloneHandler clone_;
  RemoveCloneHandler remove_clone_;
  // Only look.
  GetErrorHandler get_error_;
  GetStatusHandler get_status_;
  ListGroupsHandler list_groups_;
  HistoryHandler history_;
  ListClonesHandler list_clones_;
  FailbackHandler failback_;
  WatchHandler watch_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_REPLICATION_SERVICE_H_
