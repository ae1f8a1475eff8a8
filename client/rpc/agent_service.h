// client/rpc/agent_service.h
//
// The Replication service as the agent gives it, mode PRIMARY: docs/semantics.md section 2. The agent has exactly one group, from
// its command line.
//
// Errors   unknown group kNotFound naming the agent's group; another incarnation or term than expected kFailedPrecondition reason
//          FENCED; the rest is Primary's.
// Threads  calls that may wait for the standby or for each other run on `pool`, side by side; others, and a stop with failover, on a pool of
//          their own. A call without a deadline gets 60 s.
// Repeats  proto/repeatable_call.h; an agent that ended in between finds out by its stage whether Start and Stop had their effect.
#ifndef UNDERSTUDY_CLIENT_RPC_AGENT_SERVICE_H_
#define UNDERSTUDY_CLIENT_RPC_AGENT_SERVICE_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include <grpcpp/grpcpp.h>

#include "client/primary.h"
#include "proto/watch_stream.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.grpc.pb.h"

namespace understudy::client {

class AgentService : public v1::Replication::CallbackService, private proto::WatchedGroups {
 public:
  // Both outlive the server that this is registered with. The pool's queue is bounded by the calls in flight.
  // `nbd_socket`: path of the NBD exports, for status; empty: none.
  AgentService(Primary* primary, base::WorkerPool* pool, std::string nbd_socket = "");
  ~AgentService() override;

  grpc::ServerUnaryReactor* Scrub(grpc::CallbackServerContext* context,
                                  const v1::ScrubRequest* request,
                                  v1::ScrubResponse* response) override;
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
  grpc::ServerUnaryReactor* Sync(grpc::CallbackServerContext* context,
                                 const v1::SyncRequest* request,
                                 v1::SyncResponse* response) override;
  grpc::ServerUnaryReactor* Verify(grpc::CallbackServerContext* context,
                                   const v1::VerifyRequest* request,
                                   v1::VerifyResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchEvent>* Watch(grpc::CallbackServerContext* context,
                                                  const v1::WatchRequest* request) override;
  // Ends the streams of Watch with UNAVAILABLE. Before the server is shut down.
  void EndStreams() { watch_streams_.EndAll(); }

  // Only a service has these: kFailedPrecondition with reason WRONG_MODE.
  grpc::ServerUnaryReactor* GetFailbackMap(grpc::CallbackServerContext* context,
                                           const v1::GetFailbackMapRequest*,
                                           v1::GetFailbackMapResponse*) override;
  grpc::ServerUnaryReactor* History(grpc::CallbackServerContext* context, const v1::HistoryRequest*,
                                    v1::HistoryResponse*) override;
  grpc::ServerUnaryReactor* Clone(grpc::CallbackServerContext* context, const v1::CloneRequest*,
                                  v1::CloneResponse*) override;
  grpc::ServerUnaryReactor* ListClones(grpc::CallbackServerContext* context,
                                       const v1::ListClonesRequest*,
                                       v1::ListClonesResponse*) override;
  grpc::ServerUnaryReactor* RemoveClone(grpc::CallbackServerContext* context,
                                        const v1::RemoveCloneRequest*,
                                        v1::RemoveCloneResponse*) override;

 private:
  absl::Status CheckGroup(const std::string& group) const;
  absl::Status CheckExpected(const v1::Expected& expected) const;
  absl::Status DoStart(const v1::StartRequest& request, const base::Deadline& deadline,
                       v1::StartResponse& response);
  absl::Status DoCheckpoint(const v1::CheckpointRequest& request, const base::Deadline& deadline,
                            v1::CheckpointResponse& response);
  absl::Status DoClearError(const v1::ClearErrorRequest& request, v1::ClearErrorResponse& response);
  absl::Status DoStop(const v1::StopRequest& request, const base::Deadline& deadline,
                      v1::StopResponse& response);
  absl::Status DoRemove(const v1::RemoveRequest& request, const base::Deadline& deadline,
                        v1::RemoveResponse& response);
  absl::Status DoSync(const v1::SyncRequest& request, const base::Deadline& deadline,
                      v1::SyncResponse& response);
  absl::Status DoVerify(const v1::VerifyRequest& request, v1::VerifyResponse& response);
  void FillStart(v1::StartResponse& response) const;
  grpc::ServerUnaryReactor* RefuseAsPrimary(grpc::CallbackServerContext* context);
  std::vector<std::string> Names() override { return {primary_.group()}; }
  v1::GroupStatus CurrentStatus();
  absl::StatusOr<v1::GroupStatus> Status(const std::string& group) override;

  Primary& primary_;
  base::WorkerPool& pool_;
  base::WorkerPool quick_pool_{"agent-quick", 4};
  const std::string nbd_socket_;
  proto::WatchStreams watch_streams_;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_RPC_AGENT_SERVICE_H_
