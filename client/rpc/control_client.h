// client/rpc/control_client.h
//
// ControlClient calls the Replication service of either daemon: mode SECONDARY at understudyd, mode
// PRIMARY at the agent.
//
// Errors   the service's code, message and reason (storage/base/reason.h). kInvalidArgument naming the
//          field when a string is not UTF-8; nothing is sent then. kUnavailable beginning
// with "cannot reach ADDRESS"
//          when there is no service to ask: Reached() tells the two apart. kUnavailable, too, when the
//          connection was lost under way, and kDeadlineExceeded after `timeout`: the call may still take
//          effect; the same call with the same request_id asks for its answer.
// Threads  all methods from any thread; calls run side by side.
#ifndef UNDERSTUDY_CLIENT_RPC_CONTROL_CLIENT_H_
#define UNDERSTUDY_CLIENT_RPC_CONTROL_CLIENT_H_

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include <grpcpp/grpcpp.h>

#include "understudy/v1/replication.grpc.pb.h"

namespace understudy::client {

// One stream of Watch. Read() and Finish() from one thread, Cancel() from any.
class WatchCall {
 public:
  WatchCall(v1::Replication::Stub& stub, const v1::WatchRequest& request);
  // Waits for the next message; none: the stream has ended, Finish() says how.
  std::optional<v1::WatchEvent> Read();
  absl::Status Finish();
  void Cancel() { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  const absl::Status sendable_;
  const std::unique_ptr<grpc::ClientReader<v1::WatchEvent>> reader_;  // none: not sendable
};

class ControlClient {
 public:
  // `address` is host:port or unix:/path; kInvalidArgument when it is neither. Connects with the
  // first call.
  static absl::StatusOr<std::unique_ptr<ControlClient>> Create(const std::string& address);

  absl::StatusOr<v1::OpenResponse> Open(const v1::OpenRequest& request, absl::Duration timeout);
  absl::StatusOr<v1::StartResponse> Start(const v1::StartRequest& request, absl::Duration timeout);
  absl::StatusOr<v1::CheckpointResponse> Checkpoint(const v1::CheckpointRequest& request,
                                                    absl::Duration timeout);
  absl::StatusOr<v1::GetErrorResponse> GetError(const v1::GetErrorRequest& request,
                                                absl::Duration timeout);
  absl::StatusOr<v1::ClearErrorResponse> ClearError(const v1::ClearErrorRequest& request,
                                                    absl::Duration timeout);
  absl::StatusOr<v1::StopResponse> Stop(const v1::StopRequest& request, absl::Duration timeout);
  absl::StatusOr<v1::GetStatusResponse> GetStatus(const v1::GetStatusRequest& request,
                                                  absl::Duration timeout);
  absl::StatusOr<v1::ListGroupsResponse> ListGroups(const v1::ListGroupsRequest& request,
                                                    absl::Duration timeout);
  absl::StatusOr<v1::RemoveResponse> Remove(const v1::RemoveRequest& request,
                                            absl::Duration timeout);
  absl::StatusOr<v1::GetFailbackMapResponse> GetFailbackMap(
      const v1::GetFailbackMapRequest& request, absl::Duration timeout);
  absl::StatusOr<v1::SyncResponse> Sync(const v1::SyncRequest& request, absl::Duration timeout);
  absl::StatusOr<v1::VerifyResponse> Verify(const v1::VerifyRequest& request,
                                            absl::Duration timeout);
  absl::StatusOr<v1::ScrubResponse> Scrub(const v1::ScrubRequest& request, absl::Duration timeout);
  absl::StatusOr<v1::HistoryResponse> History(const v1::HistoryRequest& request,
                                              absl::Duration timeout);
  absl::StatusOr<v1::CloneResponse> Clone(const v1::CloneRequest& request, absl::Duration timeout);
  absl::StatusOr<v1::ListClonesResponse> ListClones(const v1::ListClonesRequest& request,
                                                    absl::Duration timeout);
  absl::StatusOr<v1::RemoveCloneResponse> RemoveClone(const v1::RemoveCloneRequest& request,
                                                      absl::Duration timeout);

  // Without a deadline: it lasts until it is cancelled or the daemon ends it. Must not outlive the client.
  std::unique_ptr<WatchCall> Watch(const v1::WatchRequest& request) {
    return std::make_unique<WatchCall>(*stub_, request);
  }

  const std::string& address() const { return address_; }
  // False when `status` says that no service could be asked.
  static bool Reached(const absl::Status& status);

 private:
  explicit ControlClient(const std::string& address);

  template <typename Request, typename Response>
  using Method = grpc::Status (v1::Replication::Stub::*)(grpc::ClientContext*, const Request&,
                                                         Response*);
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(Method<Request, Response> method, const Request& request,
                                absl::Duration timeout);

  // Whether there is somebody to send a call to.
  bool Connect(gpr_timespec deadline);

  const std::string address_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Replication::Stub> stub_;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_RPC_CONTROL_CLIENT_H_
