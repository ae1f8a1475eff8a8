// client/agent/agent.h
//
// Agent is a running understudy-agent: state, transport, group, metrics, control service, NBD.
// Built in order, shut down in reverse.
#ifndef UNDERSTUDY_CLIENT_AGENT_AGENT_H_
#define UNDERSTUDY_CLIENT_AGENT_AGENT_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

#include "client/agent/agent_options.h"
#include "storage/base/unix_socket.h"
#include "storage/base/worker_pool.h"

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

namespace understudy::client {

class AgentService;
class CheckpointTimer;
class Metrics;
class Primary;
class StandbyChecksums;
class WriteStream;

// What --write-failback-map does, instead of running. kFailedPrecondition while the agent runs.
absl::Status WriteFailbackMap(const AgentOptions& options);

class Agent {
 public:
  // `nbd` is that of options.nbd_socket, which every agent has. Prints `agent_ready grpc=ADDR
  // metrics=ADDR nbd=PATH` on standard error when it serves.
  static absl::StatusOr<std::unique_ptr<Agent>> Start(const AgentOptions& options,
                                                      std::optional<base::UnixListener> nbd);
  ~Agent();

  // Health first, then the requests of the VM and what is queued (2 s at most for both), then the
  // calls. Once; from the beginning requests are not answered. NBD clients stay connected: they ask
  // the next agent again.
  void Shutdown();

 private:
  explicit Agent(const AgentOptions& options);

  const AgentOptions options_;
  std::unique_ptr<WriteStream> stream_;
  std::unique_ptr<StandbyChecksums> checksums_;
  std::unique_ptr<Primary> primary_;
  base::WorkerPool pool_;
  std::unique_ptr<AgentService> service_;
  std::unique_ptr<base::MetricsEndpoint> endpoint_;
  std::shared_ptr<Metrics> metrics_;
  std::unique_ptr<CheckpointTimer> timer_;
  std::unique_ptr<proto::GrpcHost> host_;
  std::unique_ptr<nbd::Catalog> exports_;
  std::unique_ptr<nbd::Server> nbd_;
  std::shared_ptr<nbd::Metrics> nbd_metrics_;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_AGENT_AGENT_H_
