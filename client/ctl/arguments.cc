#include "client/ctl/arguments.h"

#include <cstdint>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "client/ctl/units.h"
#include "client/ctl/volume_spec.h"

namespace understudy::ctl {
namespace {

class Interpreter {
 public:
  explicit Interpreter(const Arguments& arguments) : in_(arguments) {}

  std::variant<Invocation, std::vector<std::string>> Run() {
    for (const std::string& word : in_.unknown) {
      Problem(absl::StrCat(word, absl::StartsWith(word, "-") ? ": unknown flag"
                                 : in_.command.empty()       ? ": unknown command"
                                                             : ": unexpected argument"));
    }
    Invocation invocation{.server = in_.server, .timeout = Timeout(), .json = in_.json};
    CheckServer();
    invocation.request = RequestOfCommand();
    if (!problems_.empty()) return problems_;
    return invocation;
  }

 private:
  void Problem(std::string problem) { problems_.push_back(std::move(problem)); }

  absl::Duration Timeout() {
    const absl::StatusOr<absl::Duration> timeout = ParseTimeout(in_.timeout);
    if (timeout.ok()) return *timeout;
    Problem(absl::StrCat("--timeout: ", timeout.status().message()));
    return absl::ZeroDuration();
  }

  void CheckServer() {
    if (absl::StartsWith(in_.server, "unix:") && in_.server.size() > 5) return;
    const size_t colon = in_.server.rfind(':');
    int port = 0;
    if (colon != std::string::npos && colon > 0 &&
        absl::SimpleAtoi(in_.server.substr(colon + 1), &port) && port > 0 && port <= 65535) {
      return;
    }
    Problem(absl::StrCat("--server: \"", in_.server, "\" is not host:port or unix:/path"));
  }

  Request RequestOfCommand() {
    if (in_.command == "open") return Open();
    if (in_.command == "start") return Start();
    if (in_.command == "checkpoint") return Checkpoint();
    if (in_.command == "get-error") return OfGroup<v1::GetErrorRequest>();
    if (in_.command == "stop") return Stop();
    if (in_.command == "remove") return Remove();
    if (in_.command == "status") return Status();
    if (in_.command.empty() && in_.unknown.empty()) Problem("COMMAND is missing");
    return ListRequest{};
  }

  template <typename T>
  T OfGroup() {
    T request;
    request.set_group(in_.group);
    if (in_.group.empty()) Problem("GROUP is missing");
    return request;
  }

  v1::Mode Mode() {
    if (in_.mode == "primary") return v1::MODE_PRIMARY;
    if (in_.mode == "secondary") return v1::MODE_SECONDARY;
    Problem(in_.mode.empty()
                ? std::string("--mode: Missing the option mode: primary or secondary")
                : absl::StrCat("--mode ", in_.mode,
                               ": The option mode's value should be primary or secondary"));
    return v1::MODE_UNSPECIFIED;
  }

  template <typename T>
  void AddVolumes(v1::Mode mode, T& request) {
    for (const std::string& text : in_.volumes) {
      absl::StatusOr<v1::VolumeSpec> spec = ParseVolumeSpec(text);
      if (!spec.ok()) {
        Problem(absl::StrCat("--volume ", spec.status().message()));
        continue;
      }
      // A primary takes no top-id; one that was typed is for the service to refuse.
      if (spec->top_id().empty() && mode == v1::MODE_SECONDARY) {
        spec->set_top_id(absl::StrCat(in_.group, "/", spec->name()));
      }
      *request.add_volumes() = *std::move(spec);
    }
  }

  v1::OpenRequest Open() {
    auto request = OfGroup<v1::OpenRequest>();
    request.set_mode(Mode());
    if (in_.volumes.empty()) Problem("--volume is missing: a group has at least one");
    AddVolumes(request.mode(), request);
    return request;
  }

  v1::StartRequest Start() {
    auto request = OfGroup<v1::StartRequest>();
    request.set_mode(Mode());
    request.set_takeover(in_.takeover);
    if (in_.takeover && request.mode() == v1::MODE_SECONDARY) {
      Problem("--takeover goes with --mode primary");
    }
    AddVolumes(request.mode(), request);
    return request;
  }

  uint64_t EpochOf(const char* flag, const std::string& text) {
    uint64_t epoch = 0;
    if (!absl::SimpleAtoi(text, &epoch) || epoch == 0) {
      Problem(absl::StrCat(flag, ": \"", text, "\" is not an epoch: a whole number from 1"));
    }
    return epoch;
  }

  v1::CheckpointRequest Checkpoint() {
    auto request = OfGroup<v1::CheckpointRequest>();
    if (in_.prepare + in_.commit_given + in_.abandon > 1) {
      Problem("--prepare, --commit and --abandon exclude each other");
    }
    request.set_mode(v1::CHECKPOINT_MODE_FULL);
    if (in_.prepare) request.set_mode(v1::CHECKPOINT_MODE_PREPARE);
    if (in_.abandon) request.set_mode(v1::CHECKPOINT_MODE_ABANDON);
    if (in_.commit_given) {
      request.set_mode(v1::CHECKPOINT_MODE_COMMIT);
      request.set_epoch(EpochOf("--commit", in_.commit));
    }
    return request;
  }

  v1::StopRequest Stop() {
    auto request = OfGroup<v1::StopRequest>();
    request.set_failover(in_.failover);
    request.set_received(in_.received);
    if (in_.epoch_given) request.set_epoch(EpochOf("--epoch", in_.epoch));
    if (!in_.failover && in_.received) Problem("--received goes with --failover");
    if (!in_.failover && in_.epoch_given) Problem("--epoch goes with --failover");
    if (in_.received && in_.epoch_given) Problem("--received and --epoch exclude each other");
    return request;
  }

  v1::RemoveRequest Remove() {
    auto request = OfGroup<v1::RemoveRequest>();
    request.set_force(in_.force);
    return request;
  }

  v1::GetStatusRequest Status() {
    v1::GetStatusRequest request;
    request.set_group(in_.group);
    return request;
  }

  const Arguments& in_;
  std::vector<std::string> problems_;
};

}  // namespace

std::variant<Invocation, std::vector<std::string>> Interpret(const Arguments& arguments) {
  return Interpreter(arguments).Run();
}

}  // namespace understudy::ctl
