#include "client/ctl/command.h"

#include <memory>
#include <optional>
#include <utility>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

#include "client/ctl/json.h"
#include "client/ctl/views.h"
#include "client/rpc/control_client.h"
#include "storage/base/reason.h"

namespace understudy::ctl {
namespace {

using client::ControlClient;

std::string GroupOf(const Request& request) {
  return std::visit(
      [](const auto& typed) -> std::string {
        if constexpr (requires { typed.group(); }) {
          return typed.group();
        } else {
          return "";
        }
      },
      request);
}

// What to do next, for the errors where that is known; else empty.
std::string Hint(const absl::Status& status, const Invocation& invocation) {
  if (!ControlClient::Reached(status)) {
    return "is a daemon running there? --server names another address (service: port 7410, "
           "agent: port 7420)";
  }
  if (status.code() == absl::StatusCode::kDeadlineExceeded) {
    return "the call may still take effect: look with understudyctl status, or wait longer with "
           "--timeout";
  }
  const std::string group = GroupOf(invocation.request);
  if (HasReason(status, kReasonUnknownGroup)) return "see the groups with: understudyctl list";
  if (HasReason(status, kReasonNotRunning)) {
    return absl::StrCat("begin with: understudyctl start ", group, " --mode primary|secondary");
  }
  if (HasReason(status, kReasonIncomplete)) {
    return absl::StrCat("see what is missing with: understudyctl get-error ", group);
  }
  if (HasReason(status, kReasonFenced)) {
    return absl::StrCat("to take the primaryship on purpose: understudyctl start ", group,
                        " --mode primary --takeover");
  }
  if (HasReason(status, kReasonNoCheckpoint)) {
    return absl::StrCat("follow the first sync with: understudyctl status ", group);
  }
  if (HasReason(status, kReasonWrongMode)) {
    return "mode secondary is for the service (port 7410), mode primary for the agent (port 7420): "
           "see --server";
  }
  return "";
}

class Executor {
 public:
  Executor(const Invocation& invocation, ControlClient& client, absl::Time now, std::ostream& out)
      : invocation_(invocation), client_(client), now_(now), out_(out) {}

  absl::StatusOr<ExitStatus> operator()(const v1::OpenRequest& request) {
    return Print(client_.Open(request, invocation_.timeout),
                 [&](const auto& answer) { return OpenView(request.group(), answer); });
  }
  absl::StatusOr<ExitStatus> operator()(const v1::StartRequest& request) {
    return Print(client_.Start(request, invocation_.timeout),
                 [&](const auto& answer) { return StartView(request.group(), answer); });
  }
  absl::StatusOr<ExitStatus> operator()(const v1::CheckpointRequest& request) {
    return Print(client_.Checkpoint(request, invocation_.timeout),
                 [&](const auto& answer) { return CheckpointView(request, answer); });
  }
  absl::StatusOr<ExitStatus> operator()(const v1::StopRequest& request) {
    return Print(client_.Stop(request, invocation_.timeout),
                 [&](const auto& answer) { return StopView(request.group(), answer); });
  }
  absl::StatusOr<ExitStatus> operator()(const v1::RemoveRequest& request) {
    return Print(client_.Remove(request, invocation_.timeout),
                 [&](const auto& answer) { return RemoveView(request.group(), answer); });
  }

  absl::StatusOr<ExitStatus> operator()(const v1::GetErrorRequest& request) {
    const auto answer = client_.GetError(request, invocation_.timeout);
    const auto printed = Print(
        answer, [&](const auto& healthy) { return ErrorView(request.group(), healthy, now_); });
    if (!printed.ok() || answer->errors().empty()) return printed;
    return kLatchedError;
  }

  absl::StatusOr<ExitStatus> operator()(const v1::GetStatusRequest& request) {
    return PrintGroups(client_.GetStatus(request, invocation_.timeout), StatusView);
  }
  absl::StatusOr<ExitStatus> operator()(const ListRequest&) {
    return PrintGroups(client_.GetStatus({}, invocation_.timeout), ListView);
  }

 private:
  template <typename Response, typename View>
  absl::StatusOr<ExitStatus> Print(const absl::StatusOr<Response>& answer, View view) {
    if (!answer.ok()) return answer.status();
    out_ << (invocation_.json ? ToJson(*answer) + "\n" : view(*answer));
    return kDone;
  }

  template <typename View>
  absl::StatusOr<ExitStatus> PrintGroups(const absl::StatusOr<v1::GetStatusResponse>& answer,
                                         View view) {
    if (!answer.ok()) return answer.status();
    if (!invocation_.json) {
      out_ << view(*answer, now_);
      return kDone;
    }
    for (const v1::GroupStatus& group : answer->groups()) out_ << ToJson(group) << "\n";
    return kDone;
  }

  const Invocation& invocation_;
  ControlClient& client_;
  const absl::Time now_;
  std::ostream& out_;
};

void PrintError(const absl::Status& status, const Invocation& invocation, std::ostream& error) {
  error << "error: " << CodeName(status.code()) << ": " << std::string(status.message());
  if (const std::optional<Reason> reason = ReasonOf(status)) error << " (" << reason->reason << ")";
  error << "\n";
  const std::string hint = Hint(status, invocation);
  if (!hint.empty()) error << "hint: " << hint << "\n";
}

absl::StatusOr<ExitStatus> Call(const Invocation& invocation, const base::Clock& clock,
                                std::ostream& out) {
  absl::StatusOr<std::unique_ptr<ControlClient>> client = ControlClient::Create(invocation.server);
  if (!client.ok()) return client.status();
  return std::visit(Executor(invocation, **client, clock.Now(), out), invocation.request);
}

}  // namespace

std::string CodeName(absl::StatusCode code) { return absl::StatusCodeToString(code); }

ExitStatus Execute(const Invocation& invocation, const base::Clock& clock, std::ostream& out,
                   std::ostream& error) {
  const absl::StatusOr<ExitStatus> result = Call(invocation, clock, out);
  if (!result.ok()) {
    PrintError(result.status(), invocation, error);
    return kFailed;
  }
  if (!out.flush()) {
    error << "error: DATA_LOSS: the answer could not be written to standard output\n";
    return kFailed;
  }
  return *result;
}

}  // namespace understudy::ctl
