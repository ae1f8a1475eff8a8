#include "server/rpc/replication_service.h"

#include "absl/strings/str_cat.h"

#include "proto/unary_call.h"
#include "storage/base/reason.h"

namespace understudy::server {
namespace {

absl::Status OnlyAtTheAgent(const std::string& group) {
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "group ", group, ": only the primary's side knows what differs: ask its agent")),
      kReasonWrongMode);
}

}  // namespace

ReplicationService::ReplicationService(server::Service& service, const std::string& nbd_socket)
    : open_(service, control_pool_),
      start_(service, control_pool_),
      checkpoint_(service, control_pool_),
      stop_(service, control_pool_, failover_pool_),
      remove_(service, control_pool_),
      scrub_(service, control_pool_),
      clear_error_(service, control_pool_),
      clone_(service, control_pool_, nbd_socket),
      remove_clone_(service, control_pool_),
      get_error_(service, look_pool_),
      get_status_(service, look_pool_),
      list_groups_(service, look_pool_),
      history_(service, look_pool_),
      list_clones_(service, look_pool_, nbd_socket),
      failback_(service, look_pool_),
      watch_(service) {}
ReplicationService::~ReplicationService() = default;

grpc::ServerUnaryReactor* ReplicationService::Open(grpc::CallbackServerContext* context,
                                                   const v1::OpenRequest* request,
                                                   v1::OpenResponse* response) {
  return open_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::Start(grpc::CallbackServerContext* context,
                                                    const v1::StartRequest* request,
                                                    v1::StartResponse* response) {
  return start_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::Checkpoint(grpc::CallbackServerContext* context,
                                                         const v1::CheckpointRequest* request,
                                                         v1::CheckpointResponse* response) {
  return checkpoint_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::GetError(grpc::CallbackServerContext* context,
                                                       const v1::GetErrorRequest* request,
                                                       v1::GetErrorResponse* response) {
  return get_error_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::ClearError(grpc::CallbackServerContext* context,
                                                         const v1::ClearErrorRequest* request,
                                                         v1::ClearErrorResponse* response) {
  return clear_error_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::Stop(grpc::CallbackServerContext* context,
                                                   const v1::StopRequest* request,
                                                   v1::StopResponse* response) {
  return stop_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::GetStatus(grpc::CallbackServerContext* context,
                                                        const v1::GetStatusRequest* request,
                                                        v1::GetStatusResponse* response) {
  return get_status_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::ListGroups(grpc::CallbackServerContext* context,
                                                         const v1::ListGroupsRequest* request,
                                                         v1::ListGroupsResponse* response) {
  return list_groups_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::Remove(grpc::CallbackServerContext* context,
                                                     const v1::RemoveRequest* request,
                                                     v1::RemoveResponse* response) {
  return remove_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::Scrub(grpc::CallbackServerContext* context,
                                                    const v1::ScrubRequest* request,
                                                    v1::ScrubResponse* response) {
  return scrub_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::History(grpc::CallbackServerContext* context,
                                                      const v1::HistoryRequest* request,
                                                      v1::HistoryResponse* response) {
  return history_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::Clone(grpc::CallbackServerContext* context,
                                                    const v1::CloneRequest* request,
                                                    v1::CloneResponse* response) {
  return clone_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::ListClones(grpc::CallbackServerContext* context,
                                                         const v1::ListClonesRequest* request,
                                                         v1::ListClonesResponse* response) {
  return list_clones_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::RemoveClone(grpc::CallbackServerContext* context,
                                                          const v1::RemoveCloneRequest* request,
                                                          v1::RemoveCloneResponse* response) {
  return remove_clone_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::GetFailbackMap(
    grpc::CallbackServerContext* context, const v1::GetFailbackMapRequest* request,
    v1::GetFailbackMapResponse* response) {
  return failback_.Handle(context, request, response);
}

grpc::ServerUnaryReactor* ReplicationService::Sync(grpc::CallbackServerContext* context,
                                                   const v1::SyncRequest* request,
                                                   v1::SyncResponse*) {
  return proto::RunUnary(context, look_pool_,
                         [request] { return OnlyAtTheAgent(request->group()); });
}

grpc::ServerUnaryReactor* ReplicationService::Verify(grpc::CallbackServerContext* context,
                                                     const v1::VerifyRequest* request,
                                                     v1::VerifyResponse*) {
  return proto::RunUnary(context, look_pool_,
                         [request] { return OnlyAtTheAgent(request->group()); });
}

grpc::ServerWriteReactor<v1::WatchEvent>* ReplicationService::Watch(
    grpc::CallbackServerContext* context, const v1::WatchRequest* request) {
  return watch_.Handle(context, request);
}

}  // namespace understudy::server
