#include "server/rpc/csi_addons_service.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "proto/unary_call.h"
#include "server/rpc/convert.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"
#include "storage/base/text.h"

namespace understudy::server {
namespace {

using Info = replication::GetVolumeReplicationInfoResponse;

// Parameters of Enable for a group that is not open: disk.VOLUME=PATH, size.VOLUME=BYTES, create.VOLUME=true,
// initial.VOLUME=equal|sync. Others are somebody else's.
absl::Status Apply(absl::string_view key, const std::string& value, storage::VolumeSpec& volume) {
  const absl::Status wrong =
      absl::InvalidArgumentError(absl::StrCat("parameter ", key, ": \"", value, "\" is no value"));
  if (absl::StartsWith(key, "disk.")) {
    volume.disk_path = value;
  } else if (absl::StartsWith(key, "size.")) {
    if (!absl::SimpleAtoi(value, &volume.size_bytes)) return wrong;
  } else if (absl::StartsWith(key, "create.")) {
    if (!absl::SimpleAtob(value, &volume.create)) return wrong;
    if (volume.create) volume.initial = Initial::kSync;
  } else {
    if (value != "equal" && value != "sync") return wrong;
    volume.initial = value == "sync" ? Initial::kSync : Initial::kEqual;
  }
  return absl::OkStatus();
}

template <typename Parameters>
absl::StatusOr<storage::GroupSpec> SpecFrom(const std::string& group,
                                            const Parameters& parameters) {
  std::map<std::string, std::string> sorted(parameters.begin(), parameters.end());
  std::map<std::string, storage::VolumeSpec> volumes;
  for (const auto& [key, value] : sorted) {
    for (const absl::string_view prefix : {"disk.", "size.", "create.", "initial."}) {
      if (!absl::StartsWith(key, prefix)) continue;
      storage::VolumeSpec& volume = volumes[key.substr(prefix.size())];
      RETURN_IF_ERROR(Apply(key, value, volume));
    }
  }
  storage::GroupSpec spec{.name = group, .volumes = {}};
  for (auto& [name, volume] : volumes) {
    volume.name = name;
    volume.top_id = absl::StrCat(group, "/", name);
    spec.volumes.push_back(std::move(volume));
  }
  return spec;
}

template <typename Volumes>
absl::Status CheckAlone(const std::string& group, const std::string& volume, bool one_volume,
                        const Volumes& volumes) {
  if (!one_volume) return absl::OkStatus();
  const bool known = volume.empty() || std::any_of(volumes.begin(), volumes.end(),
                                                   [&](const auto& v) { return v.name == volume; });
  if (!known) {
    return absl::NotFoundError(absl::StrCat("group ", group, " has no volume ", volume));
  }
  if (volumes.size() == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "group ", group, " has ", volumes.size(),
      " volumes, which change their role together: name the volume group \"", group, "\" instead"));
}

// Why a standby could not take over with everything, though nothing has failed; empty: it could.
std::string Lacking(const GroupStatus& status) {
  if (status.replica.incomplete) {
    return "writes are missing at the standby, which stays at its last checkpoint";
  }
  if (!status.connected) return "no agent is connected";
  if (!status.replica.valid) return "the first sync has not ended";
  if (status.sync_state == SyncState::kDiverged) {
    return "a verify has found differences: understudyctl sync --full at the agent sends them";
  }
  return "";
}

void PutStatus(const GroupStatus& status, Info& info) {
  const auto put = [&](Info::Status value, const std::string& message) {
    info.set_status(value);
    info.set_status_message(base::ToUtf8(message));
  };
  const storage::ReplicaState& state = status.replica;
  if (!status.errors.empty() || state.stage == Stage::kFailoverFailed) {
    put(Info::ERROR, status.errors.empty() ? "the failover could not be completed: see get-error"
                                           : status.errors.front().message);
  } else if (state.stage != Stage::kRunning) {
    put(Info::DEGRADED, absl::StrCat("stage ", StageName(state.stage),
                                     ": the standby's disks are in use, nothing is replicated"));
  } else if (state.handed_over) {
    put(Info::HEALTHY, "handed over: the standby has everything and can be promoted");
  } else if (const std::string lacking = Lacking(status); !lacking.empty()) {
    put(Info::DEGRADED, lacking);
  } else {
    put(Info::HEALTHY, "replicating");
  }
}

absl::Status NotRunning(const std::string& group) {
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat("group ", group, ": replication is not running")),
      kReasonNotRunning);
}

absl::Status PutInfo(const GroupStatus& status, Info& info) {
  const storage::ReplicaState& state = status.replica;
  if (state.stage == Stage::kNone) return NotRunning(status.group);
  if (state.committed_epoch == Epoch()) {
    return WithReason(absl::NotFoundError(absl::StrCat(
                          "group ", status.group, ": there has been no checkpoint since Start")),
                      kReasonNoCheckpoint);
  }
  const int64_t micros = absl::ToUnixMicros(state.committed_time);
  info.mutable_last_sync_time()->set_seconds(micros / 1'000'000);
  info.mutable_last_sync_time()->set_nanos(static_cast<int32_t>(micros % 1'000'000 * 1000));
  if (state.checkpoint_duration > absl::ZeroDuration()) {
    const int64_t nanos = absl::ToInt64Nanoseconds(state.checkpoint_duration);
    info.mutable_last_sync_duration()->set_seconds(nanos / 1'000'000'000);
    info.mutable_last_sync_duration()->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  }
  info.set_last_sync_bytes(static_cast<int64_t>(state.checkpoint_bytes));
  PutStatus(status, info);
  return absl::OkStatus();
}

// This API names the pair, so what it replicates from and to has one name, under which the standby exports it.
absl::Status PutDestination(const Group& group, bool one_volume,
                            replication::ReplicationDestination& destination) {
  const storage::ReplicaState state = group.replica().state();
  if (state.stage == Stage::kNone) return NotRunning(group.name());
  if (!state.valid) {
    return WithReason(absl::UnavailableError(
                          absl::StrCat("group ", group.name(), ": its first sync has not ended")),
                      kReasonNoCheckpoint);
  }
  for (const storage::VolumeInfo& volume : group.volumes()) {
    const std::string id = absl::StrCat(group.name(), "/", volume.name);
    if (one_volume) {
      destination.mutable_volume()->set_volume_id(id);
    } else {
      (*destination.mutable_volumegroup()->mutable_volume_ids())[id] = id;
    }
  }
  if (!one_volume) destination.mutable_volumegroup()->set_volume_group_id(group.name());
  return absl::OkStatus();
}

// What releases of the specification without replication_source send.
template <typename Request>
std::string OlderVolumeId(const Request& request) {
  if constexpr (requires { request.volume_id(); }) return request.volume_id();
  return "";
}

}  // namespace

CsiAddonsService::CsiAddonsService(server::Service& service) : service_(service) {}
CsiAddonsService::~CsiAddonsService() = default;

CsiIdentityService::CsiIdentityService() = default;
CsiIdentityService::~CsiIdentityService() = default;

template <typename Request>
absl::StatusOr<CsiAddonsService::Source> CsiAddonsService::SourceOf(const Request& request) {
  const replication::ReplicationSource& source = request.replication_source();
  if (source.has_volumegroup() && !source.volumegroup().volume_group_id().empty()) {
    return Source{.group = source.volumegroup().volume_group_id(), .volume = {}};
  }
  const std::string id = source.has_volume() ? source.volume().volume_id() : OlderVolumeId(request);
  if (id.empty() || source.has_volumegroup()) {
    return absl::InvalidArgumentError(
        "Missing the replication_source: a volumegroup GROUP, or a volume GROUP or GROUP/VOLUME");
  }
  const size_t slash = id.find('/');
  Source named{.group = id.substr(0, slash), .volume = {}, .one_volume = true};
  if (slash != std::string::npos) named.volume = id.substr(slash + 1);
  return named;
}

template <typename Request>
absl::StatusOr<std::shared_ptr<Group>> CsiAddonsService::GroupOf(const Request& request) const {
  ASSIGN_OR_RETURN(const Source source, SourceOf(request));
  ASSIGN_OR_RETURN(std::shared_ptr<Group> group, service_.FindGroup(source.group));
  RETURN_IF_ERROR(CheckAlone(source.group, source.volume, source.one_volume, group->volumes()));
  return group;
}

// What is started already, or was, is as enabled as it can be: operators call this again and again.
absl::Status CsiAddonsService::Enable(const replication::EnableVolumeReplicationRequest& request,
                                      const base::Deadline& deadline) {
  ASSIGN_OR_RETURN(const Source source, SourceOf(request));
  const auto known = GroupOf(request);
  if (known.ok()) {
    if ((*known)->replica().state().stage != Stage::kNone) return absl::OkStatus();
    return service_.Start(Mode::kSecondary, {.name = source.group}, {}, deadline).status();
  }
  if (!HasReason(known.status(), kReasonUnknownGroup)) return known.status();
  ASSIGN_OR_RETURN(const storage::GroupSpec spec, SpecFrom(source.group, request.parameters()));
  if (spec.volumes.empty()) {
    return Annotate(known.status(), "or name its volumes in parameters disk.VOLUME=PATH");
  }
  RETURN_IF_ERROR(CheckAlone(source.group, source.volume, source.one_volume, spec.volumes));
  return service_.Start(Mode::kSecondary, spec, {}, deadline).status();
}

absl::Status CsiAddonsService::Disable(const replication::DisableVolumeReplicationRequest& request,
                                       const base::Deadline& deadline) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, GroupOf(request));
  const GroupStatus status = group->Status();
  if (status.nbd_connections > 0) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "group ", group->name(), ": ", status.nbd_connections,
            " clients have its exports open, which would go: move the VM to the disk itself")),
        kReasonInUse);
  }
  if (status.replica.stage == Stage::kRunning) {
    RETURN_IF_ERROR(group->Stop({}, deadline).status());
  }
  if (status.replica.stage == Stage::kFailover) {
    return absl::AbortedError(absl::StrCat(
        "group ", group->name(), ": the failover's job is copying to the disk: try again later"));
  }
  return service_.Remove(group->name(), /*force=*/false, {}, deadline);
}

absl::Status CsiAddonsService::Resync(const replication::ResyncVolumeRequest& request,
                                      const base::Deadline& deadline,
                                      replication::ResyncVolumeResponse& response) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, GroupOf(request));
  const auto takeover = request.parameters().find("takeover");
  if (takeover == request.parameters().end() || takeover->second != "true") {
    return absl::FailedPreconditionError(absl::StrCat(
        "group ", group->name(),
        ": giving the primaryship back to the agent that handed over needs the parameter "
        "takeover=true"));
  }
  RETURN_IF_ERROR(group->TakeBackHandover(deadline));
  response.set_ready(Lacking(group->Status()).empty());
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* CsiAddonsService::EnableVolumeReplication(
    grpc::CallbackServerContext* context,
    const replication::EnableVolumeReplicationRequest* request,
    replication::EnableVolumeReplicationResponse* /*response*/) {
  const base::Deadline deadline = DeadlineOf(*context);
  return proto::RunUnary(context, control_pool_,
                         [this, request, deadline] { return Enable(*request, deadline); });
}

grpc::ServerUnaryReactor* CsiAddonsService::DisableVolumeReplication(
    grpc::CallbackServerContext* context,
    const replication::DisableVolumeReplicationRequest* request,
    replication::DisableVolumeReplicationResponse* /*response*/) {
  const base::Deadline deadline = DeadlineOf(*context);
  return proto::RunUnary(context, control_pool_,
                         [this, request, deadline] { return Disable(*request, deadline); });
}

grpc::ServerUnaryReactor* CsiAddonsService::PromoteVolume(
    grpc::CallbackServerContext* context, const replication::PromoteVolumeRequest* request,
    replication::PromoteVolumeResponse* /*response*/) {
  const base::Deadline deadline = DeadlineOf(*context);
  return proto::RunUnary(context, promote_pool_, [this, request, deadline]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, GroupOf(*request));
    const StopCommand command{.failover = true, .after_handover = !request->force()};
    return group->Stop(command, deadline).status();
  });
}

grpc::ServerUnaryReactor* CsiAddonsService::DemoteVolume(
    grpc::CallbackServerContext* context, const replication::DemoteVolumeRequest* request,
    replication::DemoteVolumeResponse* /*response*/) {
  const base::Deadline deadline = DeadlineOf(*context);
  return proto::RunUnary(context, control_pool_, [this, request, deadline]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, GroupOf(*request));
    return group->HandOver(deadline);
  });
}

grpc::ServerUnaryReactor* CsiAddonsService::ResyncVolume(
    grpc::CallbackServerContext* context, const replication::ResyncVolumeRequest* request,
    replication::ResyncVolumeResponse* response) {
  const base::Deadline deadline = DeadlineOf(*context);
  return proto::RunUnary(context, control_pool_, [this, request, response, deadline] {
    return Resync(*request, deadline, *response);
  });
}

grpc::ServerUnaryReactor* CsiAddonsService::GetVolumeReplicationInfo(
    grpc::CallbackServerContext* context,
    const replication::GetVolumeReplicationInfoRequest* request, Info* response) {
  return proto::RunUnary(context, look_pool_, [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, GroupOf(*request));
    return PutInfo(group->Status(), *response);
  });
}

grpc::ServerUnaryReactor* CsiAddonsService::GetReplicationDestinationInfo(
    grpc::CallbackServerContext* context,
    const replication::GetReplicationDestinationInfoRequest* request,
    replication::GetReplicationDestinationInfoResponse* response) {
  return proto::RunUnary(context, look_pool_, [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const Source source, SourceOf(*request));
    ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, GroupOf(*request));
    return PutDestination(*group, source.one_volume, *response->mutable_replication_destination());
  });
}

// ---- identity ---------------------------------------------------------------------------------------------------------------

grpc::ServerUnaryReactor* CsiIdentityService::GetIdentity(
    grpc::CallbackServerContext* context, const identity::GetIdentityRequest* /*request*/,
    identity::GetIdentityResponse* response) {
  response->set_name("understudy");
  response->set_vendor_version(UNDERSTUDY_VERSION);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* CsiIdentityService::GetCapabilities(
    grpc::CallbackServerContext* context, const identity::GetCapabilitiesRequest* /*request*/,
    identity::GetCapabilitiesResponse* response) {
  using identity::Capability;
  response->add_capabilities()->mutable_service()->set_type(
      Capability::Service::CONTROLLER_SERVICE);
  for (const auto type : {Capability::VolumeReplication::VOLUME_REPLICATION,
                          Capability::VolumeReplication::GET_REPLICATION_DESTINATION_INFO}) {
    response->add_capabilities()->mutable_volume_replication()->set_type(type);
  }
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* CsiIdentityService::Probe(grpc::CallbackServerContext* context,
                                                    const identity::ProbeRequest* /*request*/,
                                                    identity::ProbeResponse* response) {
  response->mutable_ready()->set_value(true);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace understudy::server
