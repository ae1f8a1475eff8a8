#include "client/agent/agent.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "client/agent/exports.h"
#include "client/agent_state.h"
#include "client/checkpoint_timer.h"
#include "client/metrics/metrics.h"
#include "client/primary.h"
#include "client/rpc/agent_service.h"
#include "client/rpc/failback_file.h"
#include "client/rpc/standby_checksums.h"
#include "client/rpc/write_stream.h"
#include "proto/grpc_host.h"
#include "proto/nbd/metrics/metrics.h"
#include "proto/nbd/server.h"
#include "proto/sealed_message.h"
#include "storage/base/deadline.h"
#include "storage/base/file_limit.h"
#include "storage/base/log.h"
#include "storage/base/metrics/endpoint.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {
constexpr absl::Duration kDrainGrace = absl::Seconds(2);
constexpr absl::Duration kCallGrace = absl::Milliseconds(500);
constexpr uint64_t kFilesOfAgent = 32;

// Whoever has taken the maps once does not need the files any more.
absl::StatusOr<std::vector<FailbackMap>> ReadFailbackMaps(const std::vector<std::string>& paths,
                                                          const AgentRecord& record) {
  std::vector<FailbackMap> maps;
  for (const std::string& path : paths) {
    auto map = ReadFailbackFile(base::FileSystem::Posix(), path);
    if (absl::IsNotFound(map.status()) && !record.failback_of.none()) {
      base::LogInfo("failback_map_gone").With("file", path);
      return std::vector<FailbackMap>();
    }
    if (absl::IsNotFound(map.status())) {
      return absl::NotFoundError(
          absl::StrCat("--failback-map: ", path,
                       " is missing: take it again, or give none, and everything is compared"));
    }
    if (!map.ok()) return Annotate(map.status(), "--failback-map");
    maps.push_back(*std::move(map));
  }
  return maps;
}

// Whoever has taken them must not do so again after its state directory was lost: its VM has written since.
void PutAway(const std::vector<std::string>& paths) {
  base::FileSystem& files = base::FileSystem::Posix();
  for (const std::string& path : paths) {
    if (!files.Exists(path)) continue;
    const absl::Status renamed = files.Rename(path, path + ".taken");
    if (renamed.ok()) continue;
    base::LogWarning("failback_map_not_put_away").With("file", path).With("status", renamed);
  }
}

// Whoever finds its own state no more is another agent, which the standby refuses.
absl::Status CheckNoStateLeft(const AgentOptions& options) {
  base::FileSystem& files = base::FileSystem::Posix();
  const std::string left = options.DefaultStateDirectory();
  if (left.empty() || options.state_dir.empty() || files.Exists(options.state_dir + "/agent") ||
      !files.Exists(left + "/agent")) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the state of this agent lies in ", left,
                   ", where it is kept without --state-dir, and none in ", options.state_dir,
                   " (remedy: move the files from the one to the other; or remove ", left,
                   " to begin as another agent, which has to take over)"));
}

}  // namespace

absl::Status WriteFailbackMap(const AgentOptions& options) {
  base::FileSystem& files = base::FileSystem::Posix();
  if (options.state_dir.empty() || !files.Exists(options.state_dir)) {
    return absl::NotFoundError(absl::StrCat("state directory ", options.state_dir,
                                            " is missing: what differs is not known here"));
  }
  auto opened = AgentState::Open(files, options.state_dir);
  if (absl::IsFailedPrecondition(opened.status())) {
    return Annotate(opened.status(), "the agent must have ended before it gives up its disks");
  }
  ASSIGN_OR_RETURN(const auto state, std::move(opened));
  std::vector<VolumeSpec> volumes;
  for (const PrimaryVolumeOptions& volume : options.primary.volumes) {
    if (volume.disk_path.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("volume ", volume.name,
                       " has no local disk (forward mode): nothing is known of it here"));
    }
    ASSIGN_OR_RETURN(const auto disk,
                     PrimaryDisk::Open(files, volume.disk_path, volume.size_bytes));
    volumes.push_back({.name = volume.name, .size_bytes = disk->size_bytes()});
  }
  ASSIGN_OR_RETURN(const FailbackMap map,
                   GiveUpDisks(files, *state, options.primary.forwarder.group, volumes));
  return files.WriteFileAtomically(options.write_failback_map, proto::SealedBytes(ToProto(map)));
}

Agent::Agent(const AgentOptions& options) : options_(options), pool_("agent-rpc", 16) {}

absl::StatusOr<std::unique_ptr<Agent>> Agent::Start(const AgentOptions& options,
                                                    std::optional<base::UnixListener> nbd) {
  auto agent = std::unique_ptr<Agent>(new Agent(options));
  RETURN_IF_ERROR(CheckNoStateLeft(options));
  // A disk and a connection for each volume; the rest of the agent.
  RETURN_IF_ERROR(base::CheckFileLimit(
      absl::StrCat("group ", options.primary.forwarder.group),
      (1 + base::kFilesOfConnection) * options.primary.volumes.size() + kFilesOfAgent));
  ASSIGN_OR_RETURN(std::unique_ptr<AgentState> state,
                   AgentState::Open(base::FileSystem::Posix(), options.state_dir));
  PrimaryOptions primary = options.primary;
  ASSIGN_OR_RETURN(primary.failback, ReadFailbackMaps(options.failback_maps, state->record()));
  agent->stream_ = std::make_unique<WriteStream>(options.server);
  agent->checksums_ = std::make_unique<StandbyChecksums>(options.server);
  ASSIGN_OR_RETURN(agent->primary_,
                   Primary::Create(std::move(primary), base::FileSystem::Posix(), std::move(state),
                                   agent->stream_.get(), agent->checksums_.get()));
  ASSIGN_OR_RETURN(agent->endpoint_, base::MetricsEndpoint::Start(options.metrics_listen));
  agent->metrics_ =
      std::make_shared<Metrics>(agent->primary_.get(), options.server, options.checkpoint_interval);
  agent->endpoint_->Register(agent->metrics_);
  agent->service_ =
      std::make_unique<AgentService>(agent->primary_.get(), &agent->pool_, options.nbd_socket);
  RETURN_IF_ERROR(agent->primary_->Resume());
  PutAway(options.failback_maps);
  if (options.start && agent->primary_->stage() == Stage::kNone) {
    // Refused with FENCED it stays in NONE, visible in status; the exports and the control service come up all the same.
    const auto started =
        agent->primary_->Start(/*takeover=*/false, base::Deadline::After(absl::Seconds(1)));
    if (!started.ok()) base::LogError("start_refused").With("status", started.status());
  }
  if (options.checkpoint_interval > absl::ZeroDuration()) {
    agent->timer_ =
        std::make_unique<CheckpointTimer>(agent->primary_.get(), options.checkpoint_interval);
  }
  ASSIGN_OR_RETURN(agent->host_, proto::GrpcHost::Start(options.listen, {agent->service_.get()}));
  agent->exports_ = std::make_unique<Exports>(agent->primary_.get());
  agent->nbd_ = nbd::Server::Start(*std::move(nbd), agent->exports_.get());
  agent->nbd_metrics_ = std::make_shared<nbd::Metrics>(&agent->nbd_->figures());
  agent->endpoint_->Register(agent->nbd_metrics_);
  base::LogInfo("agent_ready")
      .With("grpc", agent->host_->address())
      .With("metrics", agent->endpoint_->address())
      .With("nbd", options.nbd_socket);
  return agent;
}

Agent::~Agent() = default;

void Agent::Shutdown() {
  host_->SetServing(false);
  primary_->Shutdown(kDrainGrace);
  service_->EndStreams();
  host_->Shutdown(kCallGrace);
}

}  // namespace understudy::client
