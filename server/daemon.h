// server/daemon.h
//
// Daemon is a running understudyd: store, service, gRPC, metrics and NBD, started in this order and
// shut down in the reverse one.
#ifndef UNDERSTUDY_SERVER_DAEMON_H_
#define UNDERSTUDY_SERVER_DAEMON_H_

#include <memory>
#include <optional>

#include "absl/status/statusor.h"

#include "server/daemon_options.h"
#include "storage/base/mutex.h"
#include "storage/base/unix_socket.h"

namespace understudy::base {
class MetricsEndpoint;
}  // namespace understudy::base
namespace understudy::nbd {
class Catalog;
class Metrics;
class Server;
}  // namespace understudy::nbd
namespace understudy::proto {
class GrpcHost;
}  // namespace understudy::proto
namespace understudy::storage {
class Store;
}  // namespace understudy::storage

namespace understudy::server {

class CsiAddonsService;
class CsiIdentityService;
class Metrics;
class PrimaryWritesService;
class ReplicationService;
class Service;

class Daemon {
 public:
  // `nbd` is that of options.nbd_socket; none: no NBD. Errors name the directory or address and the
  // remedy. When it returns, both ports and the socket answer, and a line "understudyd_ready
  // grpc=ADDR metrics=ADDR nbd=PATH" was logged.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const DaemonOptions& options,
                                                       std::optional<base::UnixListener> nbd);
  ~Daemon();  // Shutdown(), and the end of NBD

  // Health says NOT_SERVING, running I/O and calls end, the store is closed, unless something is stuck in it or a planned
  // stop is at work: it is then left as a kill -9 would leave it. About half a minute at the worst,
  // when the disk of the data directory stands still. Idempotent, from any thread. NBD clients stay
  // connected, and what they still ask for is not answered: they ask the next daemon again.
  void Shutdown();

 private:
  Daemon();

  std::unique_ptr<storage::Store> store_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<ReplicationService> replication_;
  std::unique_ptr<PrimaryWritesService> primary_writes_;
  std::unique_ptr<CsiAddonsService> csi_addons_;
  std::unique_ptr<CsiIdentityService> csi_identity_;
  std::unique_ptr<proto::GrpcHost> grpc_;
  std::shared_ptr<Metrics> metrics_;
  std::unique_ptr<base::MetricsEndpoint> endpoint_;
  std::unique_ptr<nbd::Catalog> exports_;
  std::unique_ptr<nbd::Server> nbd_;  // none without a socket
  std::shared_ptr<nbd::Metrics> nbd_metrics_;
  base::Mutex mutex_;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_DAEMON_H_
