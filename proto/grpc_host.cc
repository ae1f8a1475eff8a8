#include "proto/grpc_host.h"

#include <cerrno>
#include <cstring>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/impl/server_initializer.h>

#include "proto/grpc_channel.h"
#include "proto/grpc_time.h"
#include "storage/base/address.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/base/unix_socket.h"
#include "storage/base/within.h"

namespace understudy::proto {
namespace {

constexpr absl::string_view kUnixPrefix = "unix:";
constexpr absl::Duration kCallsTimeout = absl::Seconds(12);

// Collects the names of the services while the server is built: a grpc::Service does not tell its
// own.
class NameCollector : public grpc::ServerBuilderPlugin {
 public:
  explicit NameCollector(std::vector<std::string>& names) : names_(names) {}
  std::string name() override { return "understudy_service_names"; }
  void InitServer(grpc::ServerInitializer*) override {}
  void Finish(grpc::ServerInitializer* initializer) override {
    names_ = *initializer->GetServiceList();
  }
  void ChangeArguments(const std::string&, void*) override {}

 private:
  std::vector<std::string>& names_;
};

class CollectNames : public grpc::ServerBuilderOption {
 public:
  explicit CollectNames(std::vector<std::string>& names) : names_(names) {}
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->push_back(std::make_unique<NameCollector>(names_));
  }

 private:
  std::vector<std::string>& names_;
};

// gRPC's own complaints become lines of our log.
void LogGrpcError(gpr_log_func_args* arguments) {
  if (arguments->severity != GPR_LOG_SEVERITY_ERROR) return;
  base::LogWarning("grpc").With("message", arguments->message);
}

void SetUpGrpcOnce() {
  static const bool done = [] {
    gpr_set_log_function(LogGrpcError);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  (void)done;
}

absl::Status CheckHostAndPort(const std::string& listen) {
  if (base::IsHostAndPortToListen(listen)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("address \"", listen, "\" is not host:port or unix:/path; correct --listen"));
}

void SetLimits(grpc::ServerBuilder& builder) {
  for (const auto& [name, value] : ConnectionArguments()) builder.AddChannelArgument(name, value);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients may ping an idle connection; a ping too many is not worth a GOAWAY.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
}

void AddHealthNames(grpc::Server& server, const std::vector<std::string>& services) {
  grpc::HealthCheckServiceInterface* const health = server.GetHealthCheckService();
  UNDERSTUDY_CHECK(health != nullptr, "the default health service is on");
  for (const char* name : {"", "startup", "liveness"}) health->SetServingStatus(name, true);
  for (const std::string& name : services) health->SetServingStatus(name, true);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcHost>> GrpcHost::Start(
    const std::string& listen, const std::vector<grpc::Service*>& services) {
  SetUpGrpcOnce();
  std::unique_ptr<GrpcHost> host(new GrpcHost);
  if (absl::StartsWith(listen, kUnixPrefix)) {
    host->unix_path_ = listen.substr(kUnixPrefix.size());
    RETURN_IF_ERROR(
        Annotate(base::ClaimUnixSocket(host->unix_path_), "cannot listen (see --listen)"));
  } else {
    RETURN_IF_ERROR(CheckHostAndPort(listen));
  }
  grpc::ServerBuilder builder;
  SetLimits(builder);
  int port = 0;
  builder.AddListeningPort(listen, grpc::InsecureServerCredentials(), &port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::vector<std::string> names;
  builder.SetOption(std::make_unique<CollectNames>(names));
  host->server_ = builder.BuildAndStart();
  if (host->server_ == nullptr) {
    host->unix_path_.clear();  // not ours
    return absl::FailedPreconditionError(absl::StrCat(
        "cannot listen on ", listen,
        ": another process does, or it is no address of this host; choose another with --listen"));
  }
  // Whoever reaches it can fail a VM over, whatever the umask says.
  if (!host->unix_path_.empty() && chmod(host->unix_path_.c_str(), S_IRUSR | S_IWUSR) != 0) {
    return absl::InternalError(
        absl::StrCat(host->unix_path_, ": its mode cannot be set: ", std::strerror(errno)));
  }
  host->address_ = host->unix_path_.empty()
                       ? absl::StrCat(listen.substr(0, listen.rfind(':')), ":", port)
                       : listen;
  AddHealthNames(*host->server_, names);
  return host;
}

GrpcHost::~GrpcHost() { Shutdown(absl::ZeroDuration()); }

void GrpcHost::SetServing(bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(serving);
}

bool GrpcHost::Shutdown(absl::Duration grace) {
  if (server_ == nullptr) return true;
  server_->GetHealthCheckService()->Shutdown();
  const bool ended = base::EndsWithin(absl::ToChronoMilliseconds(grace + kCallsTimeout),
                                      [server = server_, grace] {
                                        server->Shutdown(GrpcDeadline(grace));
                                        server->Wait();
                                      });
  if (!ended) base::LogWarning("calls_stuck_at_shutdown");
  if (!unix_path_.empty()) unlink(unix_path_.c_str());
  unix_path_.clear();
  return ended;
}

}  // namespace understudy::proto
