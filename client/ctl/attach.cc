#include "client/ctl/attach.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include <google/protobuf/struct.pb.h>

#include "client/ctl/interrupt.h"
#include "client/ctl/invocation.h"
#include "client/ctl/progress.h"
#include "client/ctl/qmp.h"
#include "storage/base/crc32c.h"
#include "storage/base/deadline.h"
#include "storage/base/status_macros.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::ctl {
namespace {

constexpr char kPrefix[] = "understudy-";
constexpr size_t kNodeNameMax = 31;
constexpr double kReconnectSeconds = 60;
constexpr absl::Duration kMirrorPoll = absl::Seconds(1);

// Where a volume is at the agent.
struct Target {
  std::string group;
  std::string volume;
  std::string nbd_socket;
  bool incomplete = false;
  std::vector<std::string> volumes;  // of the group that have no disk at the agent

  std::string name() const { return absl::StrCat(group, "/", volume); }
};

struct MirrorJob {
  uint64_t done = 0;
  uint64_t total = 0;
  bool ready = false;
};

template <typename Items>
std::string Names(const Items& items, absl::string_view prefix = "") {
  return absl::StrJoin(items, ", ", [&](std::string* out, const auto& item) {
    if constexpr (requires { item.group(); }) {
      absl::StrAppend(out, prefix, item.group());
    } else {
      absl::StrAppend(out, prefix, item.name());
    }
  });
}

absl::StatusOr<Target> FindTarget(const AttachCommand& command, const AgentCalls& agent) {
  ASSIGN_OR_RETURN(const v1::GetStatusResponse answer, agent.status(command.group));
  if (answer.groups_size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("which GROUP? the agent has: ", Names(answer.groups())));
  }
  const v1::GroupStatus& group = answer.groups(0);
  Target target = {
      .group = group.group(),
      .volume = command.volume,
      .nbd_socket = command.nbd_socket.empty() ? group.nbd_socket() : command.nbd_socket,
      .incomplete = group.incomplete(),
      .volumes = {}};
  bool local = false;
  for (const v1::VolumeStatus& volume : group.volumes()) {
    if (volume.disk_path().empty()) target.volumes.push_back(volume.name());
    local = local || (!volume.disk_path().empty() && volume.name() == target.volume);
  }
  if (group.mode() != v1::MODE_PRIMARY) {
    return absl::FailedPreconditionError(absl::StrCat(
        "group ", target.group,
        ": this is the standby's service; a VM is attached to the agent on its own host"));
  }
  if (local) {
    return absl::InvalidArgumentError(absl::StrCat(
        target.name(),
        " has a local disk at the agent (tee mode), which keeps the standby up to date by itself: "
        "the VM uses the agent's export as its disk"));
  }
  if (target.volume.empty() && target.volumes.size() == 1) target.volume = target.volumes[0];
  if (!std::count(target.volumes.begin(), target.volumes.end(), target.volume)) {
    return absl::InvalidArgumentError(absl::StrCat(
        target.volume.empty() ? "which volume? " : "no such volume: ", "the agent has ",
        Names(group.volumes(), target.group + "/")));
  }
  if (target.nbd_socket.empty()) {
    return absl::FailedPreconditionError(
        "the agent does not say where it serves NBD: give its --nbd-socket");
  }
  return target;
}

absl::StatusOr<std::optional<MirrorJob>> FindJob(Qmp& qmp, const std::string& id) {
  ASSIGN_OR_RETURN(const JsonValue jobs, qmp.Execute("query-block-jobs"));
  for (const JsonValue& value : jobs.list_value().values()) {
    const JsonObject& job = value.struct_value();
    if (TextOf(job, "device") != id) continue;
    return MirrorJob{.done = static_cast<uint64_t>(NumberOf(job, "offset")),
                     .total = static_cast<uint64_t>(NumberOf(job, "len")),
                     .ready = FlagOf(job, "ready")};
  }
  return std::optional<MirrorJob>();
}

absl::StatusOr<std::vector<std::string>> Attachments(Qmp& qmp) {
  ASSIGN_OR_RETURN(const JsonValue nodes,
                   qmp.Execute("query-named-block-nodes", QmpArguments().Flag("flat", true)));
  std::vector<std::string> names;
  for (const JsonValue& node : nodes.list_value().values()) {
    std::string name = TextOf(node.struct_value(), "node-name");
    if (absl::StartsWith(name, kPrefix)) names.push_back(std::move(name));
  }
  return names;
}

absl::Status DeleteNode(Qmp& qmp, const std::string& id) {
  return qmp.Execute("blockdev-del", QmpArguments().Text("node-name", id)).status();
}

// Why the job of this name is gone; drops all other events.
absl::Status EndOfJob(Qmp& qmp, const std::string& id) {
  std::string why;
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<QmpEvent> event, qmp.NextEvent(absl::ZeroDuration()));
    if (!event) break;
    if (TextOf(*event->data, "device") != id) continue;
    if (event->name == "BLOCK_JOB_COMPLETED") why = TextOf(*event->data, "error");
    if (event->name == "BLOCK_JOB_CANCELLED") why = "it was cancelled";
  }
  return absl::AbortedError(absl::StrCat("qmp ", qmp.socket(), ": the mirror job ", id,
                                         " has ended", why.empty() ? "" : ": ", why));
}

// Waits for something to happen to a job, `wait` at most.
absl::Status WaitForNews(Qmp& qmp, absl::Duration wait) {
  const base::Deadline until = base::Deadline::After(wait);
  while (!until.over() && !CatchSignals::interrupted()) {
    ASSIGN_OR_RETURN(const std::optional<QmpEvent> event,
                     qmp.NextEvent(std::min(until.left(), absl::Milliseconds(100))));
    if (event && absl::StartsWith(event->name, "BLOCK_JOB_")) return absl::OkStatus();
  }
  return absl::OkStatus();
}

// Cancels the job, if it is there, and returns when it is gone. Without `force` a job that is ready completes what it has.
absl::Status EndJob(Qmp& qmp, const std::string& id, bool force, absl::Duration timeout) {
  const absl::Status cancelled =
      qmp.Execute("block-job-cancel", QmpArguments().Text("device", id).Flag("force", force))
          .status();
  if (absl::IsNotFound(cancelled)) return absl::OkStatus();
  RETURN_IF_ERROR(cancelled);
  const base::Deadline deadline = base::Deadline::After(timeout);
  while (!deadline.over()) {
    ASSIGN_OR_RETURN(const std::optional<MirrorJob> job, FindJob(qmp, id));
    if (!job) return absl::OkStatus();
    absl::SleepFor(absl::Milliseconds(50));
  }
  return absl::DeadlineExceededError(
      absl::StrCat("qmp ", qmp.socket(), ": the mirror job ", id, " does not end"));
}

// One attach, from the agent's status to the declaration.
class Attacher {
 public:
  Attacher(const AttachCommand& command, const Invocation& invocation, const AgentCalls& agent,
           Target target, Qmp& qmp, std::ostream& out, std::ostream& progress)
      : command_(command),
        invocation_(invocation),
        agent_(agent),
        target_(std::move(target)),
        qmp_(qmp),
        out_(out),
        progress_(progress),
        id_(AttachmentName(target_.volume)) {}

  absl::Status Run() {
    ASSIGN_OR_RETURN(std::optional<MirrorJob> job, FindJob(qmp_, id_));
    if (!job) {
      const absl::Status begun = Begin();
      if (!begun.ok()) return Undo(begun);
    }
    if (!command_.wait) return TellBegun();
    const absl::Status ready = Follow();
    if (!ready.ok()) return Undo(ready);
    return Declare();
  }

 private:
  absl::Status Begin() {
    ASSIGN_OR_RETURN(const std::vector<std::string> left, Attachments(qmp_));
    if (std::count(left.begin(), left.end(), id_)) RETURN_IF_ERROR(DeleteNode(qmp_, id_));
    // From here on the standby is told not to take what it receives for a whole disk. Not while another volume's mirror has missed
    // writes: its copy would count as begun anew.
    ASSIGN_OR_RETURN(const std::vector<std::string> others, OthersWithoutCopy(/*begun=*/true));
    ASSIGN_OR_RETURN(const Target now, FindTarget(command_, agent_));
    if (!now.incomplete || others.size() + 1 == target_.volumes.size()) {
      RETURN_IF_ERROR(agent_.sync(target_.group, v1::SYNC_MODE_FULL).status());
    }
    RETURN_IF_ERROR(
        qmp_.Execute(
                "blockdev-add",
                QmpArguments()
                    .Text("driver", "nbd")
                    .Text("node-name", id_)
                    .Object("server",
                            QmpArguments().Text("type", "unix").Text("path", target_.nbd_socket))
                    .Text("export", target_.name())
                    .Number("reconnect-delay", kReconnectSeconds)
                    .Text("discard", "unmap"))
            .status());
    node_added_ = true;
    RETURN_IF_ERROR(qmp_.Execute("blockdev-mirror", QmpArguments()
                                                        .Text("job-id", id_)
                                                        .Text("device", command_.device)
                                                        .Text("target", id_)
                                                        .Text("sync", "full")
                                                        .Text("copy-mode", "write-blocking"))
                        .status());
    job_begun_ = true;
    return absl::OkStatus();
  }

  // Until the job is ready.
  absl::Status Follow() {
    Progress progress(command_.live, out_, progress_);
    while (true) {
      ASSIGN_OR_RETURN(const std::optional<MirrorJob> job, FindJob(qmp_, id_));
      if (!job) return EndOfJob(qmp_, id_);
      progress.Show(absl::StrCat(target_.name(), ": copy"), job->done, job->total);
      if (job->ready) return absl::OkStatus();
      if (CatchSignals::interrupted()) return absl::AbortedError("interrupted");
      RETURN_IF_ERROR(WaitForNews(qmp_, kMirrorPoll));
    }
  }

  // The other volumes of the group whose mirror is not ready, or with `begun` not even there.
  absl::StatusOr<std::vector<std::string>> OthersWithoutCopy(bool begun) {
    std::vector<std::string> others;
    for (const std::string& volume : target_.volumes) {
      if (volume == target_.volume) continue;
      ASSIGN_OR_RETURN(const std::optional<MirrorJob> job, FindJob(qmp_, AttachmentName(volume)));
      if (!job || (!begun && !job->ready)) others.push_back(volume);
    }
    return others;
  }

  absl::Status Declare() {
    ASSIGN_OR_RETURN(const std::vector<std::string> others, OthersWithoutCopy(/*begun=*/false));
    if (!others.empty()) {
      Tell(absl::StrCat("copied; the group is complete when these are attached, too: ",
                        absl::StrJoin(others, ", ")),
           /*epoch=*/0);
      return absl::OkStatus();
    }
    const auto declared = agent_.sync(target_.group, v1::SYNC_MODE_DECLARE_COMPLETE);
    if (!declared.ok()) {
      const bool lost = absl::IsAborted(declared.status());
      progress_ << target_.name() << ": the copy is ready and goes on; "
                << (lost ? "it lacks writes: to copy anew, detach all volumes and attach them: "
                         : "to declare the group complete, run attach again; to end it: ")
                << invocation_.ctl << " detach " << target_.name() << " --qmp " << qmp_.socket()
                << "\n";
      return declared.status();
    }
    Tell(declared->epoch() == 0
             ? "was complete already"
             : absl::StrCat("complete at the standby with epoch ", declared->epoch()),
         declared->epoch());
    return absl::OkStatus();
  }

  absl::Status TellBegun() {
    Tell(
        absl::StrCat("the copy has begun; to follow and complete it: ", invocation_.ctl, " attach ",
                     target_.name(), " --qmp ", qmp_.socket(), " --device ", command_.device),
        /*epoch=*/0);
    return absl::OkStatus();
  }

  void Tell(const std::string& text, uint64_t epoch) {
    if (invocation_.json) {
      out_ << absl::StrFormat(
          "{\"group\": \"%s\", \"volume\": \"%s\", \"job\": \"%s\", \"epoch\": %d}\n",
          target_.group, target_.volume, id_, epoch);
    } else {
      out_ << target_.name() << ": " << text << "\n";
    }
  }

  // Takes back what this call has begun, says so, and returns `cause`.
  absl::Status Undo(const absl::Status& cause) {
    if (!node_added_) return cause;
    absl::Status undone;
    if (job_begun_) undone = EndJob(qmp_, id_, /*force=*/true, invocation_.timeout);
    if (undone.ok()) undone = DeleteNode(qmp_, id_);
    progress_ << target_.name() << ": "
              << (undone.ok() ? "undone: the VM is as it was before"
                              : absl::StrCat("could not be undone: ", undone.message(),
                                             "; try: ", invocation_.ctl, " detach ", target_.name(),
                                             " --qmp ", qmp_.socket()))
              << "\n";
    return cause;
  }

  const AttachCommand& command_;
  const Invocation& invocation_;
  const AgentCalls& agent_;
  const Target target_;
  Qmp& qmp_;
  std::ostream& out_;
  std::ostream& progress_;
  const std::string id_;
  bool node_added_ = false;
  bool job_begun_ = false;
};

}  // namespace

std::string AttachmentName(absl::string_view volume) {
  std::string name = absl::StrCat(kPrefix, volume);
  if (name.size() <= kNodeNameMax) return name;
  const std::string checksum = absl::StrFormat(".%08x", base::Crc32c(volume.data(), volume.size()));
  return absl::StrCat(name.substr(0, kNodeNameMax - checksum.size()), checksum);
}

absl::Status Attach(const AttachCommand& command, const Invocation& invocation,
                    const AgentCalls& agent, std::ostream& out, std::ostream& progress) {
  const CatchSignals signals;
  ASSIGN_OR_RETURN(Target target, FindTarget(command, agent));
  ASSIGN_OR_RETURN(const std::unique_ptr<Qmp> qmp, Qmp::Connect(command.qmp, invocation.timeout));
  return Attacher(command, invocation, agent, std::move(target), *qmp, out, progress).Run();
}

absl::Status Detach(const DetachCommand& command, const Invocation& invocation, std::ostream& out) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Qmp> qmp, Qmp::Connect(command.qmp, invocation.timeout));
  ASSIGN_OR_RETURN(const std::vector<std::string> attached, Attachments(*qmp));
  std::string id = command.volume.empty() ? "" : AttachmentName(command.volume);
  if (id.empty() && attached.size() == 1) id = attached[0];
  if (!std::count(attached.begin(), attached.end(), id)) {
    return absl::NotFoundError(absl::StrCat(
        "qmp ", command.qmp, ": ",
        id.empty() ? "which GROUP/VOLUME?" : absl::StrCat("no node ", id),
        attached.empty() ? " nothing is attached"
                         : absl::StrCat(" attached are: ", absl::StrJoin(attached, ", "))));
  }
  RETURN_IF_ERROR(EndJob(*qmp, id, command.force, invocation.timeout));
  RETURN_IF_ERROR(DeleteNode(*qmp, id));
  if (invocation.json) {
    out << absl::StrFormat("{\"job\": \"%s\"}\n", id);
  } else {
    out << id << ": detached; what the VM writes from now on does not reach the standby\n";
  }
  return absl::OkStatus();
}

}  // namespace understudy::ctl
