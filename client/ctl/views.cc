#include "client/ctl/views.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "client/ctl/json.h"
#include "client/ctl/table.h"
#include "client/ctl/units.h"

namespace understudy::ctl {
namespace {

std::string Name(v1::Stage stage) { return EnumName(*v1::Stage_descriptor(), stage); }
std::string Name(v1::Mode mode) { return EnumName(*v1::Mode_descriptor(), mode); }
std::string Name(v1::SyncState state) {
  if (state == v1::SYNC_STATE_UNSPECIFIED) return "-";
  return EnumName(*v1::SyncState_descriptor(), state);
}

std::string Age(absl::Time then, absl::Time now) {
  return absl::StrCat(HumanSeconds(absl::ToDoubleSeconds(now - then)), " ago");
}

std::string Committed(const v1::GroupStatus& group, absl::Time now) {
  if (group.committed_epoch() == 0) return "none yet";
  const std::string epoch = absl::StrCat(group.committed_epoch());
  if (group.committed_unix_seconds() == 0) return epoch;
  return absl::StrCat(epoch, ", ", Age(absl::FromUnixSeconds(group.committed_unix_seconds()), now));
}

std::string Range(const v1::ReplicationError& error) {
  if (error.offset() == 0 && error.length() == 0) return "";
  return absl::StrCat("[", error.offset(), ", ", error.offset() + error.length(), ")");
}

Table ErrorTable(const google::protobuf::RepeatedPtrField<v1::ReplicationError>& errors,
                 absl::Time now) {
  Table table({"ERROR", "VOLUME", "OPERATION", "REASON", "COUNT", "LAST", "RANGE", "MESSAGE"});
  for (const v1::ReplicationError& error : errors) {
    const int64_t last = error.last_unix_micros();
    table.Add({error.code(), error.volume(), error.operation(), error.reason(),
               absl::StrCat(error.count()), last == 0 ? "" : Age(absl::FromUnixMicros(last), now),
               Range(error), error.message()});
  }
  return table;
}

Table JobTable(const v1::GroupStatus& group) {
  Table table({"JOB", "DONE", "OF", "PROGRESS"});
  for (const v1::JobStatus& job : group.jobs()) {
    const double total = static_cast<double>(job.total_bytes());
    const double share = total == 0 ? 1 : static_cast<double>(job.done_bytes()) / total;
    table.Add({job.kind(), HumanBytes(job.done_bytes()), HumanBytes(job.total_bytes()),
               absl::StrFormat("%.0f %%", 100 * share)});
  }
  return table;
}

Table SecondaryVolumes(const v1::GroupStatus& group) {
  Table table({"VOLUME", "SIZE", "HIDDEN", "ACTIVE", "TO APPLY", "RECEIVED", "EXPORT", "DISK"});
  for (const v1::VolumeStatus& volume : group.volumes()) {
    table.Add({volume.name(), HumanBytes(volume.size_bytes()), HumanBytes(volume.hidden_bytes()),
               HumanBytes(volume.active_bytes()), HumanBytes(volume.committed_unapplied_bytes()),
               absl::StrCat("#", volume.received_sequence()), volume.top_id(), volume.disk_path()});
  }
  return table;
}

Table PrimaryVolumes(const v1::GroupStatus& group) {
  Table table({"VOLUME", "SIZE", "DIRTY", "DISK"});
  for (const v1::VolumeStatus& volume : group.volumes()) {
    table.Add({volume.name(), HumanBytes(volume.size_bytes()), HumanBytes(volume.dirty_bytes()),
               volume.disk_path().empty() ? "(forwarded only)" : volume.disk_path()});
  }
  return table;
}

std::string Line(const char* key, const std::string& value) {
  return absl::StrFormat("  %-11s %s\n", key, value);
}

std::string SyncLine(const v1::GroupStatus& group) {
  return absl::StrCat(Name(group.sync_state()),
                      group.connected() ? ", connected" : ", not connected",
                      group.incomplete() ? ", incomplete: no checkpoint can commit" : "");
}

std::string TrafficLine(const v1::GroupStatus& group) {
  if (group.mode() == v1::MODE_PRIMARY) {
    return Line("queue", absl::StrCat(HumanBytes(group.forward_queue_bytes()),
                                      " not acknowledged; received there up to #",
                                      group.acknowledged_sequence()));
  }
  return Line("received", absl::StrCat(HumanBytes(group.received_bytes()), " in ",
                                       group.received_operations(), " operations"));
}

std::string GroupView(const v1::GroupStatus& group, absl::Time now) {
  std::string text =
      absl::StrCat(group.group(), ": ", Name(group.mode()), ", ", Name(group.stage()), "\n");
  absl::StrAppend(&text, Line("sync", SyncLine(group)),
                  Line("epoch", absl::StrCat(group.epoch(), " open")),
                  Line("committed", Committed(group, now)),
                  Line("lag", HumanSeconds(group.lag_seconds())), TrafficLine(group));
  absl::StrAppend(&text, Line("term", absl::StrCat(group.term())));
  if (!group.incarnation().empty()) {
    absl::StrAppend(&text, Line("incarnation", absl::BytesToHexString(group.incarnation())));
  }
  if (!group.agent_id().empty()) absl::StrAppend(&text, Line("agent", group.agent_id()));
  const bool primary = group.mode() == v1::MODE_PRIMARY;
  absl::StrAppend(&text, (primary ? PrimaryVolumes(group) : SecondaryVolumes(group)).Render(2),
                  JobTable(group).Render(2));
  if (group.errors().empty()) return text + Line("errors", "none");
  return text + ErrorTable(group.errors(), now).Render(2);
}

std::string Ignored(const std::string& group, v1::Stage stage) {
  return absl::StrCat(group, ": ignored in stage ", Name(stage), "; nothing changed\n");
}

const char* CheckpointVerb(v1::CheckpointMode mode) {
  switch (mode) {
    case v1::CHECKPOINT_MODE_PREPARE:
      return "prepared";
    case v1::CHECKPOINT_MODE_ABANDON:
      return "abandoned";
    default:
      return "committed";
  }
}

}  // namespace

std::string StatusView(const v1::GetStatusResponse& response, absl::Time now) {
  if (response.groups().empty()) return "no groups\n";
  std::string text;
  for (const v1::GroupStatus& group : response.groups()) {
    absl::StrAppend(&text, text.empty() ? "" : "\n", GroupView(group, now));
  }
  return text;
}

std::string ListView(const v1::GetStatusResponse& response, absl::Time now) {
  if (response.groups().empty()) return "no groups\n";
  Table table({"GROUP", "MODE", "STAGE", "SYNC", "EPOCH", "COMMITTED", "LAG", "VOLUMES", "ERRORS"});
  for (const v1::GroupStatus& group : response.groups()) {
    table.Add({group.group(), Name(group.mode()), Name(group.stage()), Name(group.sync_state()),
               absl::StrCat(group.epoch()), Committed(group, now),
               HumanSeconds(group.lag_seconds()), absl::StrCat(group.volumes_size()),
               absl::StrCat(group.errors_size())});
  }
  return table.Render();
}

std::string ErrorView(const std::string& group, const v1::GetErrorResponse& response,
                      absl::Time now) {
  if (response.errors().empty()) {
    return absl::StrCat(group, ": healthy, stage ", Name(response.stage()), "\n");
  }
  return ErrorTable(response.errors(), now).Render();
}

std::string OpenView(const std::string& group, const v1::OpenResponse& response) {
  if (response.ignored()) return Ignored(group, response.stage());
  return absl::StrCat(group, ": open, stage ", Name(response.stage()), "\n");
}

std::string StartView(const std::string& group, const v1::StartResponse& response) {
  if (response.ignored()) return Ignored(group, response.stage());
  if (response.incarnation().empty()) {
    return absl::StrCat(group, ": ", Name(response.stage()),
                        ", the secondary has not been reached yet\n");
  }
  return absl::StrCat(group, ": ", Name(response.stage()), ", term ", response.term(),
                      ", incarnation ", absl::BytesToHexString(response.incarnation()), "\n");
}

std::string CheckpointView(const v1::CheckpointRequest& request,
                           const v1::CheckpointResponse& response) {
  if (response.ignored()) return Ignored(request.group(), response.stage());
  if (response.epoch() == 0) {
    return absl::StrCat(request.group(), ": nothing to do in stage ", Name(response.stage()), "\n");
  }
  return absl::StrCat(request.group(), ": epoch ", response.epoch(), " ",
                      CheckpointVerb(request.mode()), ", ", HumanBytes(response.bytes()), ", ",
                      HumanSeconds(static_cast<double>(response.duration_micros()) * 1e-6), "\n");
}

std::string StopView(const std::string& group, const v1::StopResponse& response) {
  if (response.ignored()) return Ignored(group, response.stage());
  return absl::StrCat(group, ": ", Name(response.stage()), ", at epoch ", response.epoch(),
                      ", term ", response.term(), "\n");
}

std::string RemoveView(const std::string& group, const v1::RemoveResponse& response) {
  if (response.ignored()) return absl::StrCat(group, ": ignored; nothing changed\n");
  return absl::StrCat(group, ": removed; its disks stay\n");
}

}  // namespace understudy::ctl
