#include "client/ctl/views.h"

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

#include "client/ctl/json.h"
#include "client/ctl/table.h"
#include "client/ctl/units.h"
#include "understudy/v1/replication.pb.h"

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

std::string Instant(int64_t unix_micros) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%SZ", absl::FromUnixMicros(unix_micros),
                          absl::UTCTimeZone());
}

// Names of groups, clones and volumes need no escaping; a path may.
std::string NbdUri(const std::string& name, const std::string& socket) {
  std::string uri = absl::StrCat("nbd+unix:///", name, "?socket=");
  for (const unsigned char c : socket) {
    if (absl::ascii_isalnum(c) || absl::StrContains("/._~-", c)) {
      uri.push_back(static_cast<char>(c));
    } else {
      absl::StrAppend(&uri, absl::StrFormat("%%%02X", c));
    }
  }
  return uri;
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
  Table table(
      {"VOLUME", "SIZE", "HIDDEN", "ACTIVE", "TO APPLY", "HISTORY", "RECEIVED", "EXPORT", "DISK"});
  for (const v1::VolumeStatus& volume : group.volumes()) {
    table.Add({volume.name(), HumanBytes(volume.size_bytes()), HumanBytes(volume.hidden_bytes()),
               HumanBytes(volume.active_bytes()), HumanBytes(volume.committed_unapplied_bytes()),
               HumanBytes(volume.history_bytes()), absl::StrCat("#", volume.received_sequence()),
               volume.top_id(), volume.disk_path()});
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

std::string NotConnected(double seconds) {
  return seconds == 0 ? "not connected" : absl::StrCat("not connected for ", HumanSeconds(seconds));
}

std::string SyncLine(const v1::GroupStatus& group) {
  return absl::StrCat(Name(group.sync_state()), ", ",
                      group.connected() ? "connected" : NotConnected(group.disconnected_seconds()),
                      group.incomplete() ? ", incomplete: no checkpoint can commit" : "");
}

// The states whose name alone promises more than is known.
std::string SyncWords(v1::SyncState state) {
  switch (state) {
    case v1::SYNC_STATE_ASSUMED:
      return "nothing is known to differ, but the disks were never compared; verify proves it";
    case v1::SYNC_STATE_DIVERGED:
      return "the disks differ, or another primary has the standby: get-error at the agent says";
    default:
      return "";
  }
}

std::string TrafficLine(const v1::GroupStatus& group, const std::string& rate) {
  if (group.mode() == v1::MODE_PRIMARY) {
    return Line("queue", absl::StrCat(HumanBytes(group.forward_queue_bytes()),
                                      " not acknowledged; received there up to #",
                                      group.acknowledged_sequence()));
  }
  return Line("received",
              absl::StrCat(HumanBytes(group.received_bytes()), " in ", group.received_operations(),
                           " operations", rate.empty() ? "" : ", ", rate));
}

std::string ScrubLine(const v1::GroupStatus& group, absl::Time now) {
  const v1::ScrubStatus& scrub = group.scrub();
  const int64_t clean = scrub.last_clean_unix_seconds();
  return absl::StrCat(EnumName(*v1::ScrubOutcome_descriptor(), scrub.outcome()), ", ",
                      scrub.damages(), " damages, last clean ",
                      clean == 0 ? "never" : Age(absl::FromUnixSeconds(clean), now));
}

std::string VerifyLine(const v1::GroupStatus& group, absl::Time now) {
  const v1::VerifyStatus& verify = group.verify();
  const int64_t equal = verify.last_equal_unix_seconds();
  return absl::StrCat(EnumName(*v1::VerifyOutcome_descriptor(), verify.outcome()), ", ",
                      HumanBytes(verify.different_bytes()), " different, last equal ",
                      equal == 0 ? "never" : Age(absl::FromUnixSeconds(equal), now));
}

Table CloneTable(const google::protobuf::RepeatedPtrField<v1::CloneStatus>& clones,
                 absl::Time now) {
  Table table({"CLONE", "EPOCH", "WRITTEN", "OF", "ENDS IN", "EXPORTS"});
  for (const v1::CloneStatus& clone : clones) {
    const absl::Duration left = absl::FromUnixMicros(clone.expires_unix_micros()) - now;
    table.Add({clone.name(), absl::StrCat(clone.epoch()), HumanBytes(clone.written_bytes()),
               HumanBytes(clone.bytes_max()), HumanSeconds(absl::ToDoubleSeconds(left)),
               absl::StrJoin(clone.exports(), " ")});
  }
  return table;
}

// What the standby keeps besides the newest state, and the space that all of it takes.
std::string KeptLines(const v1::GroupStatus& group) {
  uint64_t history_bytes = 0;
  for (const v1::VolumeStatus& volume : group.volumes()) history_bytes += volume.history_bytes();
  std::string overlays = HumanBytes(group.overlay_bytes());
  if (group.overlay_bytes_max() != 0) {
    absl::StrAppend(&overlays, " of ", HumanBytes(group.overlay_bytes_max()));
  }
  if (group.overlay_soft_mark()) {
    absl::StrAppend(&overlays, ", NEARLY FULL: over 80 % of the limit; take a checkpoint");
  }
  const std::string prepared =
      group.prepared_epoch() == 0
          ? ""
          : Line("prepared", absl::StrCat("epoch ", group.prepared_epoch(), " waits for --commit"));
  uint64_t failback_bytes = 0;
  for (const v1::VolumeStatus& volume : group.volumes()) failback_bytes += volume.failback_bytes();
  const std::string failback =
      failback_bytes == 0 ? ""
                          : Line("failback", absl::StrCat(HumanBytes(failback_bytes),
                                                          " may differ from the old primary's"));
  return absl::StrCat(prepared, failback,
                      Line("history", absl::StrCat(group.history_epochs(), " epochs kept, ",
                                                   HumanBytes(history_bytes))),
                      Line("overlays", overlays),
                      Line("nbd", absl::StrCat(group.nbd_connections(), " connections")));
}

std::string GroupView(const v1::GroupStatus& group, absl::Time now) {
  std::string text = GroupHead(group, now);
  absl::StrAppend(&text, Line("term", absl::StrCat(group.term())));
  if (group.handed_over()) {
    absl::StrAppend(&text,
                    Line("handed over", "the primary takes no writes; the standby has them all"));
  }
  if (!group.incarnation().empty()) {
    absl::StrAppend(&text, Line("incarnation", absl::BytesToHexString(group.incarnation())));
  }
  if (!group.agent_id().empty()) absl::StrAppend(&text, Line("agent", group.agent_id()));
  if (group.scrub().number() > 0) absl::StrAppend(&text, Line("scrub", ScrubLine(group, now)));
  if (group.verify().number() > 0) absl::StrAppend(&text, Line("verify", VerifyLine(group, now)));
  const bool primary = group.mode() == v1::MODE_PRIMARY;
  if (!primary) absl::StrAppend(&text, KeptLines(group));
  absl::StrAppend(&text, (primary ? PrimaryVolumes(group) : SecondaryVolumes(group)).Render(2),
                  CloneTable(group.clones(), now).Render(2), JobTable(group).Render(2));
  return text + ErrorLines(group, now);
}

std::string Ignored(const std::string& group, v1::Stage stage) {
  return absl::StrCat(group, ": ignored in stage ", Name(stage), "; nothing changed\n");
}

}  // namespace

std::string GroupHead(const v1::GroupStatus& group, absl::Time now, const std::string& rate) {
  const std::string words = SyncWords(group.sync_state());
  return absl::StrCat(group.group(), ": ", Name(group.mode()), ", ", Name(group.stage()), "\n",
                      Line("sync", SyncLine(group)), words.empty() ? "" : Line("", words),
                      Line("epoch", absl::StrCat(group.epoch(), " open")),
                      Line("committed", Committed(group, now)),
                      Line("lag", HumanSeconds(group.lag_seconds())), TrafficLine(group, rate));
}

std::string ErrorLines(const v1::GroupStatus& group, absl::Time now) {
  if (group.errors().empty()) return Line("errors", "none");
  return ErrorTable(group.errors(), now).Render(2);
}

std::string GroupLine(const v1::GroupStatus& group, absl::Time now, const std::string& rate) {
  std::string text =
      absl::StrCat(Name(group.mode()), ", ", Name(group.stage()), ", ", SyncLine(group), ", epoch ",
                   group.epoch(), " open, committed ", Committed(group, now), ", lag ",
                   HumanSeconds(group.lag_seconds()));
  if (group.mode() == v1::MODE_PRIMARY) {
    absl::StrAppend(&text, ", queue ", HumanBytes(group.forward_queue_bytes()));
  } else {
    absl::StrAppend(&text, ", received ", HumanBytes(group.received_bytes()));
  }
  if (!rate.empty()) absl::StrAppend(&text, ", ", rate);
  for (const v1::JobStatus& job : group.jobs()) {
    absl::StrAppend(&text, ", ", job.kind(), " ", HumanBytes(job.done_bytes()), " of ",
                    HumanBytes(job.total_bytes()));
  }
  if (!group.errors().empty()) absl::StrAppend(&text, ", ", group.errors_size(), " errors");
  return text;
}

std::string ErrorLine(const v1::ReplicationError& error) {
  std::string text = absl::StrCat(error.code(), " of ");
  if (!error.volume().empty()) absl::StrAppend(&text, error.volume(), " ");
  absl::StrAppend(&text, error.operation());
  if (const std::string range = Range(error); !range.empty()) absl::StrAppend(&text, " ", range);
  return absl::StrCat(text, ": ", error.message());
}

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
  const std::string stage = absl::StrCat("stage ", Name(response.stage()));
  const absl::Duration gone = absl::Seconds(response.disconnected_seconds());
  const bool errors = !response.errors().empty();
  const std::string table = errors ? ErrorTable(response.errors(), now).Render() : "";
  const std::string known = absl::StrCat(table, group, ": ", errors ? "" : "no errors, ", stage);
  if (response.handed_over()) {
    return absl::StrCat(
        known, ", but handed over: its VM's writes are refused until the standby gives it back\n");
  }
  if (gone != absl::ZeroDuration()) {
    return absl::StrCat(
        known, ", but the other end is not there: ", NotConnected(response.disconnected_seconds()),
        ", since ", Instant(absl::ToUnixMicros(now - gone)), "\n");
  }
  if (errors) return table;
  if (response.stage() != v1::STAGE_RUNNING) {
    return absl::StrCat(known, ": nothing is replicated\n");
  }
  return absl::StrCat(group, ": healthy, ", stage, "\n");
}

std::string ClearErrorView(const std::string& group, const v1::ClearErrorResponse& response,
                           absl::Time now) {
  if (response.ignored()) return absl::StrCat(group, ": no error was latched; nothing changed\n");
  return absl::StrCat(ErrorTable(response.errors(), now).Render(), group, ": cleared\n");
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
  std::string text =
      absl::StrCat(group, ": ", Name(response.stage()), ", term ", response.term(),
                   ", incarnation ", absl::BytesToHexString(response.incarnation()), "\n");
  for (const std::string& warning : response.warnings()) {
    absl::StrAppend(&text, "warning: ", warning, "\n");
  }
  return text;
}

std::string CheckpointView(const v1::CheckpointRequest& request,
                           const v1::CheckpointResponse& response) {
  if (response.ignored()) return Ignored(request.group(), response.stage());
  if (response.epoch() == 0) {
    return absl::StrCat(request.group(), ": nothing to do in stage ", Name(response.stage()), "\n");
  }
  const std::string epoch = absl::StrCat(request.group(), ": epoch ", response.epoch());
  switch (request.mode()) {
    case v1::CHECKPOINT_MODE_PREPARE:
      return absl::StrCat(epoch, " prepared; at the service: checkpoint ", request.group(),
                          " --commit ", response.epoch(), "\n");
    case v1::CHECKPOINT_MODE_ABANDON:
      return absl::StrCat(epoch, " abandoned, its data goes to the next one\n");
    default:
      return absl::StrCat(epoch, " committed, ", HumanBytes(response.bytes()), ", ",
                          HumanSeconds(static_cast<double>(response.duration_micros()) * 1e-6),
                          "\n");
  }
}

std::string StopView(const std::string& group, const v1::StopResponse& response) {
  if (response.ignored()) return Ignored(group, response.stage());
  return absl::StrCat(group, ": ", Name(response.stage()), ", at epoch ", response.epoch(),
                      ", term ", response.term(), "\n");
}

std::string ScrubView(const std::string& ctl, const v1::GroupStatus& status) {
  const std::string& group = status.group();
  const v1::ScrubStatus& scrub = status.scrub();
  if (scrub.outcome() == v1::SCRUB_OUTCOME_RUNNING) {
    for (const v1::JobStatus& job : status.jobs()) {
      if (job.kind() != "scrub") continue;
      return absl::StrCat(group, ": scrub ", scrub.number(), ", ", HumanBytes(job.done_bytes()),
                          " of ", HumanBytes(job.total_bytes()), ", ", scrub.damages(),
                          " damages\n");
    }
  }
  std::string text = absl::StrCat(group, ": scrub ", scrub.number(), " ",
                                  EnumName(*v1::ScrubOutcome_descriptor(), scrub.outcome()), ", ",
                                  HumanBytes(scrub.bytes()), " in ", scrub.extents(), " extents, ",
                                  scrub.damages(), " damages");
  if (!scrub.message().empty()) absl::StrAppend(&text, ": ", scrub.message());
  if (scrub.damages() > 0) absl::StrAppend(&text, "; see ", ctl, " get-error ", group);
  return text + "\n";
}

std::string HistoryView(const std::string& ctl, const std::string& group,
                        const v1::HistoryResponse& response, absl::Time now) {
  if (response.epochs().empty()) {
    return absl::StrCat(group, ": nothing to go back to in stage ", Name(response.stage()), "\n");
  }
  Table table({"EPOCH", "COMMITTED", "AGE", "CHANGED", "VOLUMES"});
  for (const v1::HistoryEpoch& epoch : response.epochs()) {
    const int64_t micros = epoch.committed_unix_micros();
    std::vector<std::string> volumes;
    for (const v1::VolumeChange& change : epoch.volumes()) {
      volumes.push_back(absl::StrCat(change.volume(), " ", HumanBytes(change.bytes())));
    }
    table.Add({absl::StrCat(epoch.epoch()), micros == 0 ? "" : Instant(micros),
               micros == 0 ? "" : Age(absl::FromUnixMicros(micros), now),
               epoch.on_disk() ? "" : HumanBytes(epoch.bytes()),
               epoch.on_disk() ? "applied: the secondary disk" : absl::StrJoin(volumes, ", ")});
  }
  const std::string oldest = absl::StrCat(response.epochs().rbegin()->epoch());
  return absl::StrCat(
      table.Render(), "to test one, while replication goes on: ", ctl, " clone ", group,
      " --epoch ", oldest,
      " --name NAME\nto go back to one for good: stop with --failover --epoch E; it "
      "ends replication and drops what is newer\n");
}

std::string CloneView(const std::string& ctl, const std::string& group,
                      const v1::CloneResponse& response, absl::Time now) {
  const v1::CloneStatus& clone = response.clone();
  const absl::Duration left = absl::FromUnixMicros(clone.expires_unix_micros()) - now;
  std::string text =
      absl::StrCat(group, "@", clone.name(), ": a writable view of epoch ", clone.epoch(), ", for ",
                   HumanSeconds(absl::ToDoubleSeconds(left)), " and ",
                   HumanBytes(clone.bytes_max()), " of writes\n");
  const std::string socket = response.nbd_socket();
  for (const std::string& name : clone.exports()) {
    absl::StrAppend(&text, Line("export", name));
    if (!socket.empty()) absl::StrAppend(&text, Line("uri", NbdUri(name, socket)));
  }
  if (socket.empty()) {
    absl::StrAppend(&text, Line("nbd", "not served: start understudyd with --nbd-socket"));
  } else if (!clone.exports().empty()) {
    absl::StrAppend(&text, Line("look at it", absl::StrCat("qemu-img info '",
                                                           NbdUri(clone.exports(0), socket), "'")));
  }
  return absl::StrCat(
      text, Line("end it", absl::StrCat(ctl, " clone ", group, " --remove ", clone.name())));
}

std::string ClonesView(const std::string& group, const v1::ListClonesResponse& response,
                       absl::Time now) {
  if (response.clones().empty()) return absl::StrCat(group, ": no clones\n");
  return CloneTable(response.clones(), now).Render();
}

std::string RemoveView(const std::string& group, const v1::RemoveResponse& response) {
  if (response.ignored()) return absl::StrCat(group, ": ignored; nothing changed\n");
  return absl::StrCat(group, ": removed; its disks stay\n");
}

}  // namespace understudy::ctl
