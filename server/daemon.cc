#include "server/daemon.h"

#include <chrono>
#include <utility>

#include "absl/random/random.h"

#include "proto/grpc_host.h"
#include "proto/nbd/metrics/metrics.h"
#include "proto/nbd/server.h"
#include "server/metrics.h"
#include "server/nbd/exports.h"
#include "server/rpc/csi_addons_service.h"
#include "server/rpc/replication_service.h"
#include "server/rpc/write_stream.h"
#include "server/service.h"
#include "storage/base/clock.h"
#include "storage/base/file_system.h"
#include "storage/base/log.h"
#include "storage/base/metrics/endpoint.h"
#include "storage/base/status_macros.h"
#include "storage/base/within.h"
#include "storage/store.h"

namespace understudy::server {
namespace {

// Time for calls to end by themselves, of the few seconds that Kubernetes and systemd leave.
constexpr absl::Duration kShutdownGrace = absl::Milliseconds(500);
constexpr std::chrono::seconds kCloseTimeout(10);

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const DaemonOptions& options,
                                                      std::optional<base::UnixListener> nbd) {
  RETURN_IF_ERROR(options.Validate());
  std::unique_ptr<Daemon> daemon(new Daemon);
  absl::BitGen random;
  const base::Clock& clock = base::Clock::Real();
  ASSIGN_OR_RETURN(daemon->store_,
                   storage::Store::Open(options.store, base::FileSystem::Posix(), clock, random));
  daemon->service_ = std::make_unique<Service>(*daemon->store_, clock, base::FileSystem::Posix(),
                                               options.store.data_dir);
  daemon->replication_ =
      std::make_unique<ReplicationService>(*daemon->service_, options.nbd_socket);
  daemon->primary_writes_ = std::make_unique<PrimaryWritesService>(*daemon->service_);
  daemon->csi_addons_ = std::make_unique<CsiAddonsService>(*daemon->service_);
  daemon->csi_identity_ = std::make_unique<CsiIdentityService>();
  ASSIGN_OR_RETURN(daemon->grpc_,
                   proto::GrpcHost::Start(
                       options.listen, {daemon->replication_.get(), daemon->primary_writes_.get(),
                                        daemon->csi_addons_.get(), daemon->csi_identity_.get()}));
  daemon->metrics_ = std::make_shared<Metrics>(*daemon->service_);
  ASSIGN_OR_RETURN(daemon->endpoint_, base::MetricsEndpoint::Start(options.metrics_listen));
  daemon->endpoint_->Register(daemon->metrics_);
  if (nbd) {
    daemon->exports_ = std::make_unique<Exports>(daemon->service_.get());
    daemon->nbd_ = nbd::Server::Start(*std::move(nbd), daemon->exports_.get());
    daemon->nbd_metrics_ = std::make_shared<nbd::Metrics>(&daemon->nbd_->figures());
    daemon->endpoint_->Register(daemon->nbd_metrics_);
  }
  base::LogInfo("understudyd_ready")
      .With("grpc", daemon->grpc_->address())
      .With("metrics", daemon->endpoint_->address())
      .With("nbd", options.nbd_socket);
  return daemon;
}

Daemon::Daemon() = default;
Daemon::~Daemon() { Shutdown(); }

void Daemon::Shutdown() {
  {
    base::MutexLock lock(mutex_);
    if (std::exchange(shut_down_, true)) return;
  }
  if (grpc_ != nullptr) grpc_->SetServing(false);
  if (replication_ != nullptr) replication_->EndStreams();
  metrics_.reset();  // scraped no more, before what it reads goes
  bool quiet = grpc_ == nullptr || grpc_->Shutdown(kShutdownGrace);
  if (service_ != nullptr && !service_->Shutdown()) quiet = false;
  // To close it under those who are in it would do harm. Left as a kill -9 leaves it, it recovers.
  storage::Store* const store = store_.release();
  if (!quiet || !base::EndsWithin(kCloseTimeout, [store] { delete store; })) {
    base::LogWarning("store_left_open");
  }
  if (endpoint_ != nullptr) base::LogInfo("understudyd_stopped");  // it was ready once
}

}  // namespace understudy::server
