#include "client/ctl/command.h"

#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <ostream>
#include <random>
#include <utility>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

#include "client/ctl/attach.h"
#include "client/ctl/follow.h"
#include "client/ctl/interrupt.h"
#include "client/ctl/invocation.h"
#include "client/ctl/json.h"
#include "client/ctl/paused_vm.h"
#include "client/ctl/progress.h"
#include "client/ctl/views.h"
#include "client/ctl/watch.h"
#include "client/rpc/control_client.h"
#include "proto/sealed_message.h"
#include "storage/base/clock.h"
#include "storage/base/deadline.h"
#include "storage/base/file_system.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::ctl {
namespace {

using client::ControlClient;

constexpr absl::Duration kRepeatDelay = absl::Milliseconds(200);
constexpr int kMapTries = 5;

std::string NewRequestId() {
  std::random_device device;
  return absl::StrFormat("ctl-%08x%08x%08x", device(), device(), device());
}

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

// Of a call that was fenced: not one that was meant for another term, or could not take over either.
bool RefusedForAnotherPrimary(const Request& request) {
  const auto* const start = std::get_if<v1::StartRequest>(&request);
  return start != nullptr && start->mode() == v1::MODE_PRIMARY && !start->takeover() &&
         !start->has_expected();
}

// The commands in a daemon's texts are for itself: so they get the --server that was given.
std::string WithServer(absl::string_view ctl, absl::string_view text) {
  constexpr absl::string_view kCommand = "understudyctl ";
  std::string told;
  for (size_t at = text.find(kCommand); at != absl::string_view::npos; at = text.find(kCommand)) {
    const bool has_one = absl::StartsWith(text.substr(at + kCommand.size()), "--server");
    absl::StrAppend(&told, text.substr(0, at), has_one ? "understudyctl" : ctl, " ");
    text.remove_prefix(at + kCommand.size());
  }
  return absl::StrCat(told, text);
}

// What to do next, for the errors where that is known; else empty.
std::string Hint(const absl::Status& status, const Invocation& invocation) {
  if (!ControlClient::Reached(status)) {
    return "is a daemon running there? --server names another address (service: port 7410, "
           "agent: port 7420)";
  }
  const std::string& ctl = invocation.ctl;
  if (status.code() == absl::StatusCode::kDeadlineExceeded) {
    return absl::StrCat("the call may still take effect: look with ", ctl,
                        " status, or wait longer with --timeout");
  }
  const std::string group = GroupOf(invocation.request);
  if (HasReason(status, kReasonUnknownGroup))
    return absl::StrCat("see the groups with: ", ctl, " list");
  if (HasReason(status, kReasonNotRunning)) {
    return absl::StrCat("see its stage with: ", ctl, " status ", group, "; NONE: begin with ", ctl,
                        " start ", group, " --mode primary|secondary; FAILOVER_FAILED: go on with ",
                        ctl, " stop ", group,
                        " --failover; DONE: it has ended, remove the group to start it anew");
  }
  if (HasReason(status, kReasonIncomplete)) {
    return absl::StrCat("see what is missing with: ", ctl, " get-error ", group);
  }
  if (HasReason(status, kReasonFenced) && RefusedForAnotherPrimary(invocation.request)) {
    return absl::StrCat("to take the primaryship on purpose: ", ctl, " start ", group,
                        " --mode primary --takeover");
  }
  if (HasReason(status, kReasonInUse)) {
    return absl::StrCat("who is connected: ", ctl, " status ", group,
                        "; it can be tested beside the running VM with: ", ctl, " clone ", group,
                        " --epoch E --name NAME");
  }
  if (HasReason(status, kReasonNoCheckpoint)) {
    return absl::StrCat("follow the first sync with: ", ctl, " status ", group);
  }
  if (HasReason(status, kReasonWrongMode)) {
    return "mode secondary is for the service (port 7410), mode primary for the agent (port 7420): "
           "see --server";
  }
  return "";
}

class Executor {
 public:
  Executor(const Invocation& invocation, ControlClient& client, const base::Clock& clock,
           std::ostream& out, std::ostream& progress)
      : invocation_(invocation),
        client_(client),
        clock_(clock),
        now_(clock.Now()),
        out_(out),
        progress_(progress) {}

  absl::StatusOr<ExitStatus> operator()(const v1::OpenRequest& request) {
    return Print(Repeat(&ControlClient::Open, request),
                 [&](const auto& answer) { return OpenView(request.group(), answer); });
  }
  absl::StatusOr<ExitStatus> operator()(const v1::StartRequest& request) {
    return Print(Repeat(&ControlClient::Start, request),
                 [&](const auto& answer) { return StartView(request.group(), answer); });
  }
  absl::StatusOr<ExitStatus> operator()(const v1::CheckpointRequest& request) {
    return Print(invocation_.qmp.empty() ? Repeat(&ControlClient::Checkpoint, request)
                                         : PausedCheckpoint(request),
                 [&](const auto& answer) { return CheckpointView(request, answer); });
  }
  absl::StatusOr<ExitStatus> operator()(const v1::StopRequest& request) {
    return Print(Repeat(&ControlClient::Stop, request),
                 [&](const auto& answer) { return StopView(request.group(), answer); });
  }
  absl::StatusOr<ExitStatus> operator()(const v1::RemoveRequest& request) {
    return Print(invocation_.failback_map.empty() ? Repeat(&ControlClient::Remove, request)
                                                  : RemoveWithMap(request),
                 [&](const auto& answer) { return RemoveView(request.group(), answer); });
  }

  absl::StatusOr<ExitStatus> operator()(const ScrubCommand& command) {
    const auto begun = Repeat(&ControlClient::Scrub, command.request);
    if (!begun.ok()) return begun.status();
    Progress progress(/*live=*/false, out_, progress_);
    const auto look = [&] { return StatusOf(command.group()); };
    ASSIGN_OR_RETURN(
        const v1::GroupStatus status,
        command.wait ? FollowScrub(invocation_.ctl, begun->number(), look, progress) : look());
    const v1::ScrubStatus& scrub = status.scrub();
    out_ << (invocation_.json ? ToJson(scrub) + "\n" : ScrubView(invocation_.ctl, status));
    if (!command.wait || scrub.outcome() == v1::SCRUB_OUTCOME_CLEAN) return kDone;
    return scrub.outcome() == v1::SCRUB_OUTCOME_DAMAGED ? kLatchedError : kFailed;
  }

  absl::StatusOr<ExitStatus> operator()(const SyncCommand& command) {
    const auto begun = Repeat(&ControlClient::Sync, command.request);
    if (!begun.ok() || !command.wait) {
      return Print(begun, [&](const auto& answer) { return SyncBegunView(command, answer); });
    }
    Progress progress(command.live, out_, progress_);
    ASSIGN_OR_RETURN(const v1::GroupStatus status,
                     FollowSync(
                         invocation_.ctl, [&] { return StatusOf(command.group()); }, progress));
    out_ << (invocation_.json ? ToJson(status) + "\n" : SyncView(invocation_.ctl, status));
    return status.sync_state() == v1::SYNC_STATE_DIVERGED ? kLatchedError : kDone;
  }
  absl::StatusOr<ExitStatus> operator()(const VerifyCommand& command) {
    const auto begun = Repeat(&ControlClient::Verify, command.request);
    if (!begun.ok() || !command.wait) {
      return Print(begun, [&](const auto& answer) {
        return absl::StrCat(command.group(), ": verify ", answer.number(),
                            " is running; follow it with: ", invocation_.ctl, " watch ",
                            command.group(), "\n");
      });
    }
    Progress progress(command.live, out_, progress_);
    ASSIGN_OR_RETURN(const v1::GroupStatus status,
                     FollowVerify(
                         begun->number(), [&] { return StatusOf(command.group()); }, progress));
    out_ << (invocation_.json ? ToJson(status.verify()) + "\n"
                              : VerifyView(invocation_.ctl, status));
    if (status.verify().outcome() == v1::VERIFY_OUTCOME_EQUAL) return kDone;
    return status.verify().different_bytes() > 0 ? kLatchedError : kFailed;
  }

  absl::StatusOr<ExitStatus> operator()(const v1::HistoryRequest& request) {
    return Print(client_.History(request, invocation_.timeout), [&](const auto& answer) {
      return HistoryView(invocation_.ctl, request.group(), answer, now_);
    });
  }
  absl::StatusOr<ExitStatus> operator()(const v1::CloneRequest& request) {
    return Print(Repeat(&ControlClient::Clone, request), [&](const auto& answer) {
      return CloneView(invocation_.ctl, request.group(), answer, now_);
    });
  }
  absl::StatusOr<ExitStatus> operator()(const v1::ListClonesRequest& request) {
    return Print(client_.ListClones(request, invocation_.timeout),
                 [&](const auto& answer) { return ClonesView(request.group(), answer, now_); });
  }
  absl::StatusOr<ExitStatus> operator()(const v1::RemoveCloneRequest& request) {
    return Print(Repeat(&ControlClient::RemoveClone, request), [&](const auto&) {
      return absl::StrCat(request.group(), "@", request.name(), ": removed without trace\n");
    });
  }

  absl::StatusOr<ExitStatus> operator()(const v1::GetErrorRequest& request) {
    const auto answer = client_.GetError(request, invocation_.timeout);
    const auto printed = Print(
        answer, [&](const auto& healthy) { return ErrorView(request.group(), healthy, now_); });
    if (!printed.ok()) return printed;
    const bool gone = absl::Seconds(answer->disconnected_seconds()) >= kDisconnectedMax;
    return gone || answer->handed_over() || !answer->errors().empty() ? kLatchedError : kDone;
  }
  absl::StatusOr<ExitStatus> operator()(const v1::ClearErrorRequest& request) {
    return Print(Repeat(&ControlClient::ClearError, request),
                 [&](const auto& answer) { return ClearErrorView(request.group(), answer, now_); });
  }

  absl::StatusOr<ExitStatus> operator()(const v1::GetStatusRequest& request) {
    return PrintGroups(client_.GetStatus(request, invocation_.timeout), StatusView);
  }
  absl::StatusOr<ExitStatus> operator()(const ListRequest&) {
    return PrintGroups(client_.GetStatus({}, invocation_.timeout), ListView);
  }
  absl::StatusOr<ExitStatus> operator()(const WatchCommand& command) {
    RETURN_IF_ERROR(Watch(command, invocation_, client_, clock_, out_, progress_));
    return kDone;
  }

  absl::StatusOr<ExitStatus> operator()(const AttachCommand& command) {
    const auto status = [&](const std::string& group) {
      v1::GetStatusRequest question;
      question.set_group(group);
      return client_.GetStatus(question, invocation_.timeout);
    };
    const auto sync = [&](const std::string& group, v1::SyncMode mode) {
      v1::SyncRequest request;
      request.set_group(group);
      request.set_mode(mode);
      return Repeat(&ControlClient::Sync, request);
    };
    RETURN_IF_ERROR(
        Attach(command, invocation_, {.status = status, .sync = sync}, out_, progress_));
    return kDone;
  }
  absl::StatusOr<ExitStatus> operator()(const DetachCommand& command) {
    RETURN_IF_ERROR(Detach(command, invocation_, out_));
    return kDone;
  }

 private:
  absl::StatusOr<v1::GroupStatus> StatusOf(const std::string& group) {
    v1::GetStatusRequest question;
    question.set_group(group);
    ASSIGN_OR_RETURN(const v1::GetStatusResponse answer,
                     client_.GetStatus(question, invocation_.timeout));
    for (const v1::GroupStatus& status : answer.groups()) {
      if (status.group() == group) return status;
    }
    return absl::NotFoundError(absl::StrCat("group ", group, " is gone"));
  }

  std::string SyncBegunView(const SyncCommand& command, const v1::SyncResponse& answer) const {
    if (answer.ignored()) {
      return absl::StrCat(command.group(),
                          ": nothing is known to be missing; whether the standby is there and has "
                          "it: ",
                          invocation_.ctl, " sync ", command.group(), " --wait\n");
    }
    if (answer.epoch() != 0) {
      return absl::StrCat(command.group(), ": complete at the standby with epoch ", answer.epoch(),
                          "\n");
    }
    return absl::StrCat(command.group(), ": under way; follow it with: ", invocation_.ctl, " sync ",
                        command.group(), " --wait\n");
  }

  // The VM stands still until the answer is there. After SIGINT it goes on at once, and the answer is still waited for.
  absl::StatusOr<v1::CheckpointResponse> PausedCheckpoint(const v1::CheckpointRequest& request) {
    const CatchSignals signals;
    ASSIGN_OR_RETURN(const std::unique_ptr<PausedVm> vm,
                     PausedVm::Pause(invocation_.qmp, invocation_.timeout));
    auto call =
        std::async(std::launch::async, [&] { return Repeat(&ControlClient::Checkpoint, request); });
    while (call.wait_for(std::chrono::milliseconds(20)) != std::future_status::ready &&
           !CatchSignals::interrupted()) {
    }
    const absl::Status resumed = vm->Resume();
    const absl::StatusOr<v1::CheckpointResponse> answer = call.get();
    if (!resumed.ok()) {
      return Annotate(resumed, answer.ok()
                                   ? absl::StrCat("epoch ", answer->epoch(), " is committed")
                                   : absl::StrCat("no checkpoint: ", answer.status().message()));
    }
    return answer;
  }

  // The map is in its file before the group is gone, and whole: a VM that still writes makes both begin anew.
  absl::StatusOr<v1::RemoveResponse> RemoveWithMap(v1::RemoveRequest request) {
    v1::GetFailbackMapRequest question;
    question.set_group(request.group());
    for (int tries = 0;; ++tries) {
      ASSIGN_OR_RETURN(const v1::GetFailbackMapResponse answer,
                       client_.GetFailbackMap(question, invocation_.timeout));
      RETURN_IF_ERROR(base::FileSystem::Posix().WriteFileAtomically(
          invocation_.failback_map, proto::SealedBytes(answer.map())));
      request.set_failback_mark(answer.mark());
      const auto removed = Repeat(&ControlClient::Remove, request);
      if (absl::IsAborted(removed.status()) && tries < kMapTries) continue;
      // Of a group that goes on it is not the last word, and nothing in it says so. Gone it may be when the answer was lost.
      const bool goes_on =
          absl::IsAborted(removed.status()) || absl::IsFailedPrecondition(removed.status());
      if (goes_on) base::FileSystem::Posix().Remove(invocation_.failback_map).IgnoreError();
      return removed;
    }
  }

  // One call under one request id. When its answer was lost on the way it is asked for again, until the time is up.
  template <typename Request, typename Response>
  absl::StatusOr<Response> Repeat(absl::StatusOr<Response> (ControlClient::*method)(const Request&,
                                                                                    absl::Duration),
                                  Request request) {
    request.set_request_id(invocation_.request_id.empty() ? NewRequestId()
                                                          : invocation_.request_id);
    const base::Deadline deadline = base::Deadline::After(invocation_.timeout);
    bool sent = false;
    absl::Status earlier;
    while (true) {
      const absl::StatusOr<Response> answer = (client_.*method)(request, deadline.left());
      // That the time is up says less than why it was asked for again.
      if (!earlier.ok() && absl::IsDeadlineExceeded(answer.status())) return earlier;
      const bool lost = absl::IsUnavailable(answer.status());
      earlier = answer.status();
      sent = sent || ControlClient::Reached(answer.status());
      if (!lost || !sent || deadline.left() <= kRepeatDelay) return answer;
      absl::SleepFor(kRepeatDelay);
    }
  }

  template <typename Response, typename View>
  absl::StatusOr<ExitStatus> Print(const absl::StatusOr<Response>& answer, View view) {
    if (!answer.ok()) return answer.status();
    out_ << (invocation_.json ? ToJson(*answer) + "\n"
                              : WithServer(invocation_.ctl, view(*answer)));
    return kDone;
  }

  template <typename View>
  absl::StatusOr<ExitStatus> PrintGroups(const absl::StatusOr<v1::GetStatusResponse>& answer,
                                         View view) {
    if (!answer.ok()) return answer.status();
    if (!invocation_.json) {
      out_ << WithServer(invocation_.ctl, view(*answer, now_));
      return kDone;
    }
    for (const v1::GroupStatus& group : answer->groups()) out_ << ToJson(group) << "\n";
    return kDone;
  }

  const Invocation& invocation_;
  ControlClient& client_;
  const base::Clock& clock_;
  const absl::Time now_;
  std::ostream& out_;
  std::ostream& progress_;
};

void PrintError(const absl::Status& status, const Invocation& invocation, std::ostream& error) {
  error << "error: " << CodeName(status.code()) << ": "
        << WithServer(invocation.ctl, status.message());
  if (const std::optional<Reason> reason = ReasonOf(status)) error << " (" << reason->reason << ")";
  error << "\n";
  const std::string hint = Hint(status, invocation);
  if (!hint.empty()) error << "hint: " << hint << "\n";
}

absl::StatusOr<ExitStatus> Call(const Invocation& invocation, const base::Clock& clock,
                                std::ostream& out, std::ostream& progress) {
  absl::StatusOr<std::unique_ptr<ControlClient>> client = ControlClient::Create(invocation.server);
  if (!client.ok()) return client.status();
  return std::visit(Executor(invocation, **client, clock, out, progress), invocation.request);
}

}  // namespace

std::string CodeName(absl::StatusCode code) { return absl::StatusCodeToString(code); }

ExitStatus Execute(const Invocation& invocation, const base::Clock& clock, std::ostream& out,
                   std::ostream& error) {
  const absl::StatusOr<ExitStatus> result = Call(invocation, clock, out, error);
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
