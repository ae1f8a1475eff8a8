#include "client/rpc/control_client.h"

#include "absl/memory/memory.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "proto/grpc_channel.h"
#include "proto/grpc_time.h"
#include "proto/status_codec.h"
#include "proto/strings.h"
#include "storage/base/address.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

using Stub = v1::Replication::Stub;

constexpr absl::string_view kCannotReach = "cannot reach ";

}  // namespace

WatchCall::WatchCall(Stub& stub, const v1::WatchRequest& request)
    : sendable_(proto::CheckStrings(request)),
      reader_(sendable_.ok() ? stub.Watch(&context_, request) : nullptr) {}

std::optional<v1::WatchEvent> WatchCall::Read() {
  v1::WatchEvent event;
  if (reader_ == nullptr || !reader_->Read(&event)) return std::nullopt;
  return event;
}

absl::Status WatchCall::Finish() {
  return reader_ == nullptr ? sendable_ : proto::FromGrpcStatus(reader_->Finish());
}

absl::StatusOr<std::unique_ptr<ControlClient>> ControlClient::Create(const std::string& address) {
  if (!base::IsHostAndPort(address) && !base::IsUnixAddress(address)) {
    return absl::InvalidArgumentError(
        absl::StrCat("address \"", address, "\" is not host:port or unix:/path"));
  }
  return absl::WrapUnique(new ControlClient(address));
}

ControlClient::ControlClient(const std::string& address)
    : address_(address),
      channel_(proto::MakeChannel(address)),
      stub_(v1::Replication::NewStub(channel_)) {}

bool ControlClient::Reached(const absl::Status& status) {
  return status.code() != absl::StatusCode::kUnavailable ||
         !absl::StartsWith(status.message(), kCannotReach);
}

bool ControlClient::Connect(gpr_timespec deadline) {
  while (true) {
    const grpc_connectivity_state state = channel_->GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY) return true;
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN) return false;
    if (!channel_->WaitForStateChange(state, deadline)) return false;
  }
}

template <typename Request, typename Response>
absl::StatusOr<Response> ControlClient::Call(Method<Request, Response> method,
                                             const Request& request, absl::Duration timeout) {
  RETURN_IF_ERROR(proto::CheckStrings(request));
  grpc::ClientContext context;
  const gpr_timespec deadline = proto::GrpcDeadline(timeout);
  context.set_deadline(deadline);
  const bool connected = Connect(deadline);
  Response response;
  const absl::Status status =
      proto::FromGrpcStatus(((*stub_).*method)(&context, request, &response));
  if (status.ok()) return response;
  if (status.code() == absl::StatusCode::kUnavailable && !connected) {
    return Annotate(status, absl::StrCat(kCannotReach, address_));
  }
  return status;
}

absl::StatusOr<v1::OpenResponse> ControlClient::Open(const v1::OpenRequest& request,
                                                     absl::Duration timeout) {
  return Call(&Stub::Open, request, timeout);
}
absl::StatusOr<v1::StartResponse> ControlClient::Start(const v1::StartRequest& request,
                                                       absl::Duration timeout) {
  return Call(&Stub::Start, request, timeout);
}
absl::StatusOr<v1::CheckpointResponse> ControlClient::Checkpoint(
    const v1::CheckpointRequest& request, absl::Duration timeout) {
  return Call(&Stub::Checkpoint, request, timeout);
}
absl::StatusOr<v1::GetErrorResponse> ControlClient::GetError(const v1::GetErrorRequest& request,
                                                             absl::Duration timeout) {
  return Call(&Stub::GetError, request, timeout);
}
absl::StatusOr<v1::ClearErrorResponse> ControlClient::ClearError(
    const v1::ClearErrorRequest& request, absl::Duration timeout) {
  return Call(&Stub::ClearError, request, timeout);
}
absl::StatusOr<v1::StopResponse> ControlClient::Stop(const v1::StopRequest& request,
                                                     absl::Duration timeout) {
  return Call(&Stub::Stop, request, timeout);
}
absl::StatusOr<v1::GetStatusResponse> ControlClient::GetStatus(const v1::GetStatusRequest& request,
                                                               absl::Duration timeout) {
  return Call(&Stub::GetStatus, request, timeout);
}
absl::StatusOr<v1::ListGroupsResponse> ControlClient::ListGroups(
    const v1::ListGroupsRequest& request, absl::Duration timeout) {
  return Call(&Stub::ListGroups, request, timeout);
}
absl::StatusOr<v1::SyncResponse> ControlClient::Sync(const v1::SyncRequest& request,
                                                     absl::Duration timeout) {
  return Call(&Stub::Sync, request, timeout);
}
absl::StatusOr<v1::VerifyResponse> ControlClient::Verify(const v1::VerifyRequest& request,
                                                         absl::Duration timeout) {
  return Call(&Stub::Verify, request, timeout);
}
absl::StatusOr<v1::ScrubResponse> ControlClient::Scrub(const v1::ScrubRequest& request,
                                                       absl::Duration timeout) {
  return Call(&Stub::Scrub, request, timeout);
}
absl::StatusOr<v1::RemoveResponse> ControlClient::Remove(const v1::RemoveRequest& request,
                                                         absl::Duration timeout) {
  return Call(&Stub::Remove, request, timeout);
}
absl::StatusOr<v1::GetFailbackMapResponse> ControlClient::GetFailbackMap(
    const v1::GetFailbackMapRequest& request, absl::Duration timeout) {
  return Call(&Stub::GetFailbackMap, request, timeout);
}
absl::StatusOr<v1::HistoryResponse> ControlClient::History(const v1::HistoryRequest& request,
                                                           absl::Duration timeout) {
  return Call(&Stub::History, request, timeout);
}
absl::StatusOr<v1::CloneResponse> ControlClient::Clone(const v1::CloneRequest& request,
                                                       absl::Duration timeout) {
  return Call(&Stub::Clone, request, timeout);
}
absl::StatusOr<v1::ListClonesResponse> ControlClient::ListClones(
    const v1::ListClonesRequest& request, absl::Duration timeout) {
  return Call(&Stub::ListClones, request, timeout);
}
absl::StatusOr<v1::RemoveCloneResponse> ControlClient::RemoveClone(
    const v1::RemoveCloneRequest& request, absl::Duration timeout) {
  return Call(&Stub::RemoveClone, request, timeout);
}

}  // namespace understudy::client
