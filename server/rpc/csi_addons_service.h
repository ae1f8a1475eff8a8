// server/rpc/csi_addons_service.h
//
// The services that csi-addons operators call, replication.Controller and identity.Identity, mapped onto groups: docs/csi_addons.md.
//
// Errors   the codes that the specification names: kInvalidArgument no source, or a volume that is not alone in its group;
//          kNotFound no such group; kFailedPrecondition and kAborted as docs/csi_addons.md says; else what the group says.
// Threads  as those of ReplicationService, in the same three classes: a promotion, or a question, waits for no other call.
#ifndef UNDERSTUDY_SERVER_RPC_CSI_ADDONS_SERVICE_H_
#define UNDERSTUDY_SERVER_RPC_CSI_ADDONS_SERVICE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "csi_addons/identity.grpc.pb.h"
#include "csi_addons/replication.grpc.pb.h"
#include "server/service.h"
#include "storage/base/deadline.h"
#include "storage/base/worker_pool.h"

namespace understudy::server {

class CsiAddonsService final : public replication::Controller::CallbackService {
 public:
  // `service` outlives this.
  explicit CsiAddonsService(server::Service& service);
  ~CsiAddonsService() override;

  grpc::ServerUnaryReactor* EnableVolumeReplication(
      grpc::CallbackServerContext* context,
      const replication::EnableVolumeReplicationRequest* request,
      replication::EnableVolumeReplicationResponse* response) override;
  grpc::ServerUnaryReactor* DisableVolumeReplication(
      grpc::CallbackServerContext* context,
      const replication::DisableVolumeReplicationRequest* request,
      replication::DisableVolumeReplicationResponse* response) override;
  grpc::ServerUnaryReactor* PromoteVolume(grpc::CallbackServerContext* context,
                                          const replication::PromoteVolumeRequest* request,
                                          replication::PromoteVolumeResponse* response) override;
  grpc::ServerUnaryReactor* DemoteVolume(grpc::CallbackServerContext* context,
                                         const replication::DemoteVolumeRequest* request,
                                         replication::DemoteVolumeResponse* response) override;
  grpc::ServerUnaryReactor* ResyncVolume(grpc::CallbackServerContext* context,
                                         const replication::ResyncVolumeRequest* request,
                                         replication::ResyncVolumeResponse* response) override;
  grpc::ServerUnaryReactor* GetVolumeReplicationInfo(
      grpc::CallbackServerContext* context,
      const replication::GetVolumeReplicationInfoRequest* request,
      replication::GetVolumeReplicationInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetReplicationDestinationInfo(
      grpc::CallbackServerContext* context,
      const replication::GetReplicationDestinationInfoRequest* request,
      replication::GetReplicationDestinationInfoResponse* response) override;

 private:
  // What a request means by its source.
  struct Source {
    std::string group;
    std::string volume;       // empty: not named
    bool one_volume = false;  // it means a volume, not a group
  };
  template <typename Request>
  static absl::StatusOr<Source> SourceOf(const Request& request);
  template <typename Request>
  absl::StatusOr<std::shared_ptr<Group>> GroupOf(const Request& request) const;

  absl::Status Enable(const replication::EnableVolumeReplicationRequest& request,
                      const base::Deadline& deadline);
  absl::Status Disable(const replication::DisableVolumeReplicationRequest& request,
                       const base::Deadline& deadline);
  absl::Status Resync(const replication::ResyncVolumeRequest& request,
                      const base::Deadline& deadline, replication::ResyncVolumeResponse& response);

  server::Service& service_;
  base::WorkerPool control_pool_{"csi-addons", 1024};
  base::WorkerPool promote_pool_{"csi-promote", 16};
  base::WorkerPool look_pool_{"csi-look", 4};
};

// What an operator asks first.
class CsiIdentityService final : public identity::Identity::CallbackService {
 public:
  CsiIdentityService();
  ~CsiIdentityService() override;
  grpc::ServerUnaryReactor* GetIdentity(grpc::CallbackServerContext* context,
                                        const identity::GetIdentityRequest* request,
                                        identity::GetIdentityResponse* response) override;
  grpc::ServerUnaryReactor* GetCapabilities(grpc::CallbackServerContext* context,
                                            const identity::GetCapabilitiesRequest* request,
                                            identity::GetCapabilitiesResponse* response) override;
  grpc::ServerUnaryReactor* Probe(grpc::CallbackServerContext* context,
                                  const identity::ProbeRequest* request,
                                  identity::ProbeResponse* response) override;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_CSI_ADDONS_SERVICE_H_
