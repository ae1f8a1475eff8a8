#include "client/ctl/arguments.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "client/ctl/invocation.h"
#include "client/ctl/units.h"
#include "client/ctl/volume_spec.h"
#include "storage/base/address.h"
#include "storage/base/text.h"

namespace understudy::ctl {
namespace {

constexpr size_t kIncarnationBytes = 16;

class Interpreter {
 public:
  explicit Interpreter(const Arguments& arguments) : in_(arguments) {}

  std::variant<Invocation, std::vector<std::string>> Run() {
    bool command_told = false;  // what follows an unknown command would be its arguments
    for (const std::string& word : in_.unknown) {
      const bool flag = absl::StartsWith(word, "-");
      if (!flag && in_.command.empty() && std::exchange(command_told, true)) continue;
      const auto nearest = in_.nearest.find(word);
      Problem(absl::StrCat(word,
                           flag                  ? ": unknown flag"
                           : in_.command.empty() ? ": unknown command"
                                                 : ": unexpected argument",
                           nearest == in_.nearest.end()
                               ? ""
                               : absl::StrCat("; did you mean ", nearest->second, "?")));
    }
    Invocation invocation{
        .server = in_.server, .ctl = Ctl(), .timeout = Timeout(), .json = in_.json};
    CheckServer();
    invocation.request_id = in_.request_id;
    if (in_.request_id_given && in_.request_id.empty()) Problem("--request-id: is empty");
    invocation.request = RequestOfCommand();
    if (in_.command == "checkpoint") invocation.qmp = in_.qmp;
    invocation.failback_map = in_.failback_map;
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

  // What a hint begins with, to reach the same daemon.
  std::string Ctl() const {
    if (in_.server == in_.usual_server) return "understudyctl";
    const bool plain = std::all_of(in_.server.begin(), in_.server.end(), [](unsigned char c) {
      return absl::ascii_isalnum(c) || absl::StrContains("/.:_-", c);
    });
    return absl::StrCat("understudyctl --server ",
                        plain ? in_.server : absl::StrCat("'", in_.server, "'"));
  }

  void CheckServer() {
    const absl::Status utf8 = base::CheckUtf8("--server", in_.server);  // or its variable
    if (!utf8.ok()) return Problem(std::string(utf8.message()));
    if (base::IsHostAndPort(in_.server) || base::IsUnixAddress(in_.server)) return;
    Problem(absl::StrCat("--server: \"", in_.server, "\" is not host:port or unix:/path"));
  }

  Request RequestOfCommand() {
    if (in_.command == "open") return Open();
    if (in_.command == "start") return Start();
    if (in_.command == "checkpoint") return Checkpoint();
    if (in_.command == "get-error") return OfGroup<v1::GetErrorRequest>();
    if (in_.command == "clear-error") return ClearError();
    if (in_.command == "stop") return Stop();
    if (in_.command == "remove") return Remove();
    if (in_.command == "scrub") return Scrub();
    if (in_.command == "history") return OfGroup<v1::HistoryRequest>();
    if (in_.command == "clone") return Clone();
    if (in_.command == "status") return Status();
    if (in_.command == "watch") return Watch();
    if (in_.command == "attach") return Attach();
    if (in_.command == "detach") return Detach();
    if (in_.command == "sync") return Sync();
    if (in_.command == "verify") return Verify();
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

  template <typename T>
  void AddExpected(T& request) {
    uint64_t term = 0;
    if (!in_.expected_term.empty()) {
      if (absl::SimpleAtoi(in_.expected_term, &term) && term > 0) {
        request.mutable_expected()->set_term(term);
      } else {
        Problem(absl::StrCat("--expected-term: \"", in_.expected_term,
                             "\" is not a term: a whole number from 1"));
      }
    }
    if (in_.expected_incarnation.empty()) return;
    const bool hex =
        std::all_of(in_.expected_incarnation.begin(), in_.expected_incarnation.end(),
                    [](char c) { return absl::ascii_isxdigit(static_cast<unsigned char>(c)); });
    if (hex && in_.expected_incarnation.size() == 2 * kIncarnationBytes) {
      request.mutable_expected()->set_incarnation(absl::HexStringToBytes(in_.expected_incarnation));
    } else {
      Problem(absl::StrCat("--expected-incarnation: \"", in_.expected_incarnation,
                           "\" is not an incarnation: 32 hexadecimal digits"));
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
    AddExpected(request);
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
    AddExpected(request);
    if (in_.qmp_given && in_.qmp.empty()) Problem("--qmp: is empty");
    if (in_.qmp_given && (in_.commit_given || in_.abandon)) {
      Problem("--qmp goes with a checkpoint at the agent, not with --commit or --abandon");
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
    request.set_force(in_.force);
    if (in_.force && !in_.epoch_given) Problem("--force goes with --epoch");
    AddExpected(request);
    return request;
  }

  Request Clone() {
    if (in_.list + in_.remove_given + !in_.name.empty() > 1) {
      Problem("--name, --list and --remove exclude each other");
    }
    const bool made = !in_.list && !in_.remove_given;
    if (!made && (in_.epoch_given || !in_.bytes_max.empty() || !in_.ttl.empty())) {
      Problem("--epoch, --bytes-max and --ttl go with --name");
    }
    if (in_.list && !(in_.expected_term.empty() && in_.expected_incarnation.empty())) {
      Problem("--expected-term and --expected-incarnation go with --name and --remove");
    }
    if (in_.list) return OfGroup<v1::ListClonesRequest>();
    if (in_.remove_given) return RemoveClone();
    auto request = OfGroup<v1::CloneRequest>();
    request.set_name(in_.name);
    if (in_.name.empty()) Problem("one of --name NAME, --list and --remove NAME is missing");
    if (in_.epoch_given) request.set_epoch(EpochOf("--epoch", in_.epoch));
    if (!in_.bytes_max.empty()) request.set_bytes_max(CloneBytes());
    if (!in_.ttl.empty()) request.set_time_to_live_micros(CloneMicros());
    AddExpected(request);
    return request;
  }

  v1::RemoveCloneRequest RemoveClone() {
    auto request = OfGroup<v1::RemoveCloneRequest>();
    request.set_name(in_.remove);
    if (in_.remove.empty()) Problem("--remove needs the name of a clone");
    AddExpected(request);
    return request;
  }

  uint64_t CloneBytes() {
    const absl::StatusOr<uint64_t> bytes = ParseBytes(in_.bytes_max);
    if (bytes.ok() && *bytes > 0) return *bytes;
    Problem(bytes.ok() ? std::string("--bytes-max: a clone of 0 bytes cannot be written")
                       : absl::StrCat("--bytes-max: ", bytes.status().message()));
    return 0;
  }

  uint64_t CloneMicros() {
    const absl::StatusOr<absl::Duration> ttl = ParseTimeToLive(in_.ttl);
    if (ttl.ok()) return static_cast<uint64_t>(absl::ToInt64Microseconds(*ttl));
    Problem(absl::StrCat("--ttl: ", ttl.status().message()));
    return 0;
  }

  v1::ClearErrorRequest ClearError() {
    auto request = OfGroup<v1::ClearErrorRequest>();
    AddExpected(request);
    return request;
  }

  v1::RemoveRequest Remove() {
    auto request = OfGroup<v1::RemoveRequest>();
    request.set_force(in_.force);
    if (in_.failback_map_given && in_.failback_map.empty()) Problem("--failback-map: is empty");
    if (in_.failback_map_given && in_.force) {
      Problem("--failback-map and --force exclude each other: a dead disk has no failback");
    }
    AddExpected(request);
    return request;
  }

  ScrubCommand Scrub() {
    ScrubCommand command{.request = OfGroup<v1::ScrubRequest>(), .wait = in_.wait};
    command.request.set_bytes_per_second(Rate());
    AddExpected(command.request);
    return command;
  }

  SyncCommand Sync() {
    SyncCommand command{
        .request = OfGroup<v1::SyncRequest>(), .wait = in_.wait, .live = in_.terminal && !in_.json};
    if (in_.full && in_.declare_complete) {
      Problem("--full and --declare-complete exclude each other");
    }
    command.request.set_mode(in_.full               ? v1::SYNC_MODE_FULL
                             : in_.declare_complete ? v1::SYNC_MODE_DECLARE_COMPLETE
                                                    : v1::SYNC_MODE_MISSING);
    AddExpected(command.request);
    return command;
  }

  VerifyCommand Verify() {
    VerifyCommand command{.request = OfGroup<v1::VerifyRequest>(),
                          .wait = in_.wait,
                          .live = in_.terminal && !in_.json};
    command.request.set_bytes_per_second(Rate());
    AddExpected(command.request);
    return command;
  }

  uint64_t Rate() {
    if (!in_.rate_given) return 0;
    const absl::StatusOr<uint64_t> rate = ParseBytes(in_.rate);
    if (rate.ok()) return *rate;
    Problem(absl::StrCat("--bytes-per-second: ", rate.status().message()));
    return 0;
  }

  v1::GetStatusRequest Status() {
    v1::GetStatusRequest request;
    request.set_group(in_.group);
    return request;
  }

  WatchCommand Watch() {
    WatchCommand command{.live = in_.terminal && !in_.json};
    command.request.set_group(in_.group);
    const bool hex = std::all_of(in_.resume.begin(), in_.resume.end(), absl::ascii_isxdigit);
    if (hex && (in_.resume.empty() || in_.resume.size() == 32)) {
      command.request.set_resume_token(absl::HexStringToBytes(in_.resume));
    } else {
      Problem(absl::StrCat("--resume: \"", in_.resume,
                           "\" is not a resume_token: 32 hexadecimal digits"));
    }
    const absl::StatusOr<absl::Duration> refresh =
        in_.refresh == "0" ? absl::StatusOr<absl::Duration>(absl::ZeroDuration())
                           : ParseTimeout(in_.refresh);
    if (refresh.ok()) {
      command.request.set_refresh_micros(
          static_cast<uint64_t>(absl::ToInt64Microseconds(*refresh)));
    } else {
      Problem(absl::StrCat("--refresh: ", refresh.status().message()));
    }
    return command;
  }

  // "GROUP" or "GROUP/VOLUME" or nothing.
  std::pair<std::string, std::string> GroupAndVolume() {
    const size_t slash = in_.group.find('/');
    if (slash == std::string::npos) return {in_.group, ""};
    if (slash == 0 || slash + 1 == in_.group.size()) {
      Problem(absl::StrCat("\"", in_.group, "\" is not GROUP/VOLUME"));
    }
    return {in_.group.substr(0, slash), in_.group.substr(slash + 1)};
  }

  AttachCommand Attach() {
    const auto [group, volume] = GroupAndVolume();
    if (in_.qmp.empty()) Problem("--qmp is missing: the socket that QEMU listens on");
    if (in_.request_id_given) Problem("--request-id names one call, and attach makes several");
    if (in_.device.empty()) Problem("--device is missing: the node name of the VM's disk");
    return {.group = group,
            .volume = volume,
            .qmp = in_.qmp,
            .device = in_.device,
            .nbd_socket = in_.nbd_socket,
            .wait = !in_.no_wait,
            .live = in_.terminal && !in_.json};
  }

  DetachCommand Detach() {
    if (in_.qmp.empty()) Problem("--qmp is missing: the socket that QEMU listens on");
    return {.volume = GroupAndVolume().second, .qmp = in_.qmp, .force = in_.force};
  }

  const Arguments& in_;
  std::vector<std::string> problems_;
};

}  // namespace

std::variant<Invocation, std::vector<std::string>> Interpret(const Arguments& arguments) {
  return Interpreter(arguments).Run();
}

}  // namespace understudy::ctl
