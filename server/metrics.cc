#include "server/metrics.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include <prometheus/metric_family.h>

#include "server/service.h"

namespace understudy::server {
namespace {

using Labels = std::vector<std::pair<std::string, std::string>>;
using prometheus::MetricType;

constexpr std::array<Stage, 5> kStages = {Stage::kNone, Stage::kRunning, Stage::kFailover,
                                          Stage::kFailoverFailed, Stage::kDone};
constexpr std::array<std::pair<SyncState, const char*>, 6> kSyncStates = {{
    {SyncState::kAssumed, "assumed"},
    {SyncState::kInSync, "in_sync"},
    {SyncState::kBehind, "behind"},
    {SyncState::kResyncing, "resyncing"},
    {SyncState::kDisconnected, "disconnected"},
    {SyncState::kDiverged, "diverged"},
}};

// Families in the making, by name; a family exists once its help is declared, with or without series.
class Families {
 public:
  void Declare(const std::string& name, MetricType type, const std::string& help) {
    families_[name] = {.name = name, .help = help, .type = type, .metric = {}};
  }
  void Add(const std::string& name, const Labels& labels, double value) {
    prometheus::MetricFamily& family = families_.at(name);
    prometheus::ClientMetric& metric = NewMetric(family, labels);
    if (family.type == MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
  }
  void AddHistogram(const std::string& name, const Labels& labels,
                    const DurationHistogram::View& view) {
    prometheus::ClientMetric::Histogram& histogram =
        NewMetric(families_.at(name), labels).histogram;
    for (size_t i = 0; i < view.cumulative.size(); ++i) {
      const double bound = i < DurationHistogram::kBoundsSeconds.size()
                               ? DurationHistogram::kBoundsSeconds[i]
                               : std::numeric_limits<double>::infinity();
      histogram.bucket.push_back({.cumulative_count = view.cumulative[i], .upper_bound = bound});
    }
    histogram.sample_count = view.cumulative.back();
    histogram.sample_sum = view.sum_seconds;
  }
  std::vector<prometheus::MetricFamily> Take() {
    std::vector<prometheus::MetricFamily> taken;
    for (auto& [name, family] : families_) taken.push_back(std::move(family));
    return taken;
  }

 private:
  static prometheus::ClientMetric& NewMetric(prometheus::MetricFamily& family,
                                             const Labels& labels) {
    prometheus::ClientMetric& metric = family.metric.emplace_back();
    for (const auto& [name, value] : labels) {
      metric.label.push_back({.name = name, .value = value});
    }
    return metric;
  }

  std::map<std::string, prometheus::MetricFamily> families_;
};

Labels With(Labels labels, const std::string& name, absl::string_view value) {
  labels.emplace_back(name, std::string(value));
  return labels;
}

void DeclareVolumes(Families& families) {
  const auto gauge = [&](const char* name, const char* help) {
    families.Declare(name, MetricType::Gauge, help);
  };
  gauge("understudy_volume_info",
        "Always 1: a volume that is open here, and the agent its group is bound to.");
  gauge("understudy_volume_size_bytes", "Size of the volume.");
  gauge("understudy_volume_role", "1 for the role this end of the volume has, else 0.");
  gauge("understudy_volume_state", "1 for the stage of the volume's group, else 0.");
  gauge("understudy_volume_sync_state",
        "1 for the agreement with the primary, else 0; all 0 when not replicating.");
  gauge("understudy_volume_epoch", "The open epoch.");
  gauge("understudy_volume_term", "The term of the primaryship.");
  gauge("understudy_overlay_bytes", "Bytes of volume ranges that an overlay holds.");
  gauge(
      "understudy_failback_bytes",
      "After a failover: what may differ from the old primary's disk, as far as it is known here.");
  gauge("understudy_apply_backlog_bytes",
        "Committed bytes that are not on the secondary disk yet.");
  gauge("understudy_apply_backlog_epochs",
        "Committed epochs that are not on the secondary disk yet.");
  gauge("understudy_overlay_used_bytes",
        "Disk space that the overlays of the group take, history and clones included.");
  gauge("understudy_overlay_limit_bytes",
        "What they may take, --overlay-bytes-max; 0: no limit of the group's own.");
  gauge("understudy_overlay_soft_mark",
        "1 while that is over 80 % of its limit or of --overlay-bytes-total, else 0.");
  gauge("understudy_history_epochs", "Committed epochs that are kept as history.");
  gauge("understudy_clones", "Clones of the group that exist.");
  gauge("understudy_clone_written_bytes", "Bytes written into the clones that exist.");
  gauge("understudy_failover_merge_remaining_bytes",
        "Bytes that the commit job after a failover still has to copy; 0 when none runs.");
  gauge("understudy_checkpoint_last_success_timestamp_seconds",
        "When the newest checkpoint was committed, unix time; 0: none yet.");
  gauge(
      "understudy_checkpoint_age_seconds",
      "How old the newest checkpoint is, or the start before the first one: what a failover now "
      "would lose. None during a first sync, and while none is due: not running, or handed over.");
}

void DeclareReplication(Families& families) {
  const auto gauge = [&](const char* name, const char* help) {
    families.Declare(name, MetricType::Gauge, help);
  };
  const auto counter = [&](const char* name, const char* help) {
    families.Declare(name, MetricType::Counter, help);
  };
  gauge("understudy_replication_lag_seconds",
        "At the standby: how long the oldest received write has waited to be durable; while no "
        "write stream is "
        "attached, the time since the last one (or since Start). 0 when the group is not running.");
  gauge("understudy_replication_last_contact_timestamp_seconds",
        "When the agent was last heard of, heartbeats included, unix time, over a restart too; 0: "
        "never.");
  gauge("understudy_replication_silence_seconds",
        "How long the agent has not been heard, over a restart too. None while no word is due: not "
        "running, handed over, or no agent has called yet.");
  gauge("understudy_replication_connected", "1 while a write stream is attached.");
  gauge("understudy_replication_handed_over",
        "1 while the primary has given up writing and the standby has everything, else 0.");
  counter("understudy_replication_received_bytes_total", "Payload taken from write streams.");
  counter("understudy_replication_received_operations_total",
          "Operations taken from write streams.");
  counter("understudy_replication_sessions_total",
          "Write streams that were attached (ok) or refused (failed); without a group when it was "
          "unknown.");
  counter("understudy_replication_errors_total",
          "Replication operations that failed, by reason, counted once; without a volume: of the "
          "group's write stream.");
  gauge(
      "understudy_latched_errors",
      "Errors that GetError tells of the volume, or without a volume of the group; over a restart "
      "too. 0 is healthy.");
  counter(
      "understudy_fenced_requests_total",
      "Requests refused because of an old term, incarnation or agent; counted without a volume, "
      "as they concern the whole group.");
  counter("understudy_checksum_failures_total",
          "Data that did not match its checksum: frames on the wire, blocks on disk.");
  counter("understudy_checkpoints_total", "Checkpoints of the group, by result.");
  counter("understudy_failovers_total",
          "Failovers begun (ok), and those refused or stopped at an error (failed).");
  families.Declare("understudy_checkpoint_duration_seconds", MetricType::Histogram,
                   "commit: from the marker's arrival to the commit; total: from a Checkpoint call "
                   "to its answer.");
}

void DeclareIoAndStore(Families& families) {
  const auto counter = [&](const char* name, const char* help) {
    families.Declare(name, MetricType::Counter, help);
  };
  counter("understudy_io_requests_total", "Requests of the secondary VM.");
  counter("understudy_io_bytes_total", "Bytes of requests of the secondary VM that succeeded.");
  counter("understudy_io_errors_total", "Requests of the secondary VM that failed.");
  counter("understudy_scrub_errors_total", "Damages that scrubs of the group have found.");
  families.Declare("understudy_scrub_last_clean_timestamp_seconds", MetricType::Gauge,
                   "When the last clean scrub of the group ended, unix time; 0: none since the "
                   "service started.");
  families.Declare("understudy_scrub_last_damage_timestamp_seconds", MetricType::Gauge,
                   "When a scrub of the group last found damage, unix time, over a restart too "
                   "while get-error tells of it; 0: never.");
  counter("understudy_clone_io_requests_total", "Requests to clones of the group.");
  counter("understudy_clone_io_bytes_total", "Bytes of requests to clones that succeeded.");
  counter("understudy_clone_io_errors_total",
          "Requests to clones that failed; also because one was full or had ended.");
  families.Declare("understudy_clock_seconds", MetricType::Gauge,
                   "What this host's clock says, unix time.");
  families.Declare("understudy_store_capacity_bytes", MetricType::Gauge,
                   "Size of the file system that holds the data directory.");
  families.Declare("understudy_store_free_bytes", MetricType::Gauge,
                   "Free space of the file system that holds the data directory.");
  families.Declare("understudy_store_extent_memory_bytes", MetricType::Gauge,
                   "Memory of the extent maps and the view cache of all groups.");
  families.Declare("understudy_store_extent_memory_limit_bytes", MetricType::Gauge,
                   "What they may take of --index-memory-max; exceeded only by what is not in the "
                   "index yet.");
  counter("understudy_store_extent_cold_reads_total",
          "Ranges that were looked up on disk because their part of an extent map was not in "
          "memory.");
}

void AddIo(Families& families, const Labels& volume, const IoStats& stats) {
  for (size_t i = 0; i < kIoKindNames.size(); ++i) {
    const Labels labels = With(volume, "op", kIoKindNames[i]);
    const IoStats::PerKind& kind = stats.kinds[i];
    families.Add("understudy_io_requests_total", labels,
                 static_cast<double>(kind.requests.value()));
    families.Add("understudy_io_bytes_total", labels, static_cast<double>(kind.bytes.value()));
    families.Add("understudy_io_errors_total", With(labels, "where", "local"),
                 static_cast<double>(kind.errors.value()));
  }
}

void AddOverlays(Families& families, const Labels& volume, const storage::VolumeUsage& usage,
                 const storage::ReplicaState& state) {
  const std::pair<const char*, uint64_t> overlays[] = {{"active", usage.active_bytes},
                                                       {"hidden", usage.hidden_bytes},
                                                       {"committed", usage.committed_bytes},
                                                       {"history", usage.history_bytes}};
  for (const auto& [overlay, bytes] : overlays) {
    families.Add("understudy_overlay_bytes", With(volume, "overlay", overlay),
                 static_cast<double>(bytes));
  }
  families.Add("understudy_failback_bytes", volume, static_cast<double>(usage.failback_bytes));
  families.Add("understudy_apply_backlog_bytes", volume,
               static_cast<double>(usage.committed_bytes));
  families.Add("understudy_apply_backlog_epochs", volume,
               static_cast<double>(state.backlog_epochs));
  const bool merging = state.stage == Stage::kFailover || state.stage == Stage::kFailoverFailed;
  families.Add("understudy_failover_merge_remaining_bytes", volume,
               merging ? static_cast<double>(usage.active_bytes + usage.committed_bytes) : 0);
}

void AddPointInTime(Families& families, const Labels& group, const GroupStatus& status,
                    const IoStats& clone_io) {
  const storage::ReplicaState& state = status.replica;
  families.Add("understudy_overlay_used_bytes", group, static_cast<double>(state.overlay_bytes));
  families.Add("understudy_overlay_limit_bytes", group,
               static_cast<double>(state.overlay_bytes_max));
  families.Add("understudy_overlay_soft_mark", group, state.overlay_soft_mark);
  families.Add("understudy_history_epochs", group, static_cast<double>(state.history_epochs));
  families.Add("understudy_clones", group, static_cast<double>(status.clones.size()));
  uint64_t written_bytes = 0;
  for (const storage::CloneInfo& clone : status.clones) written_bytes += clone.written_bytes;
  families.Add("understudy_clone_written_bytes", group, static_cast<double>(written_bytes));
  for (size_t i = 0; i < kIoKindNames.size(); ++i) {
    const Labels labels = With(group, "op", kIoKindNames[i]);
    const IoStats::PerKind& kind = clone_io.kinds[i];
    families.Add("understudy_clone_io_requests_total", labels,
                 static_cast<double>(kind.requests.value()));
    families.Add("understudy_clone_io_bytes_total", labels,
                 static_cast<double>(kind.bytes.value()));
    families.Add("understudy_clone_io_errors_total", labels,
                 static_cast<double>(kind.errors.value()));
  }
}

void AddStates(Families& families, const Labels& volume, const std::string& peer,
               const GroupStatus& status) {
  const Stage stage = status.replica.stage;
  for (const Stage other : kStages) {
    families.Add("understudy_volume_state",
                 With(volume, "state", absl::AsciiStrToLower(StageName(other))), stage == other);
  }
  for (const auto& [state, name] : kSyncStates) {
    families.Add("understudy_volume_sync_state", With(With(volume, "peer", peer), "state", name),
                 status.sync_state == state);
  }
  // Who has taken over is the primary now.
  const bool promoted = stage == Stage::kFailover || stage == Stage::kFailoverFailed;
  const char* const role = stage == Stage::kRunning ? "secondary" : (promoted ? "primary" : "none");
  for (const char* const other : {"primary", "secondary", "none"}) {
    families.Add("understudy_volume_role", With(volume, "role", other),
                 std::string_view(role) == other);
  }
}

void AddFailures(Families& families, const Labels& volume, const std::string& peer,
                 const std::array<Counter, base::kErrorReasonNames.size()>& errors, uint64_t fenced,
                 uint64_t wire_checksums, uint64_t disk_checksums) {
  const Labels with_peer = With(volume, "peer", peer);
  for (size_t i = 0; i < base::kErrorReasonNames.size(); ++i) {
    families.Add("understudy_replication_errors_total",
                 With(with_peer, "reason", base::kErrorReasonNames[i]),
                 static_cast<double>(errors[i].value()));
  }
  families.Add("understudy_fenced_requests_total", volume, static_cast<double>(fenced));
  families.Add("understudy_checksum_failures_total", With(volume, "where", "wire"),
               static_cast<double>(wire_checksums));
  families.Add("understudy_checksum_failures_total", With(volume, "where", "disk"),
               static_cast<double>(disk_checksums));
}

// `volume` "": those of the group as a whole.
void AddLatchedErrors(Families& families, const std::string& volume, const GroupStatus& status) {
  const auto count =
      std::count_if(status.errors.begin(), status.errors.end(),
                    [&](const base::LatchedError& error) { return error.volume == volume; });
  families.Add("understudy_latched_errors", {{"group", status.group}, {"volume", volume}},
               static_cast<double>(count));
}

void AddVolume(Families& families, Group& group, const GroupStatus& status,
               const storage::VolumeInfo& info) {
  const storage::ReplicaState& state = status.replica;
  const std::string& peer = state.agent_id;
  const Labels volume = {{"group", status.group}, {"volume", info.name}};
  const Labels with_peer = With(volume, "peer", peer);
  const size_t index = info.id.value();
  families.Add("understudy_volume_info", with_peer, 1);
  families.Add("understudy_volume_size_bytes", volume, static_cast<double>(info.size_bytes));
  AddStates(families, volume, peer, status);
  families.Add("understudy_volume_epoch", volume, static_cast<double>(state.epoch.value()));
  families.Add("understudy_volume_term", volume, static_cast<double>(state.term.value()));
  AddOverlays(families, volume,
              index < state.usage.size() ? state.usage[index] : storage::VolumeUsage{}, state);
  families.Add("understudy_checkpoint_last_success_timestamp_seconds", volume,
               absl::ToDoubleSeconds(state.committed_time - absl::UnixEpoch()));
  families.Add("understudy_replication_lag_seconds", with_peer, absl::ToDoubleSeconds(status.lag));
  families.Add("understudy_replication_last_contact_timestamp_seconds", with_peer,
               absl::ToDoubleSeconds(status.last_contact - absl::UnixEpoch()));
  if (status.silence.has_value() && !state.agent_id.empty()) {  // else nobody is expected to call
    families.Add("understudy_replication_silence_seconds", with_peer,
                 absl::ToDoubleSeconds(*status.silence));
  }
  if (status.checkpoint_age.has_value()) {
    families.Add("understudy_checkpoint_age_seconds", volume,
                 absl::ToDoubleSeconds(*status.checkpoint_age));
  }
  IoStats& io = group.io_stats(info.id);
  AddLatchedErrors(families, info.name, status);
  AddFailures(families, volume, peer, io.replication_errors, 0, 0,
              io.disk_checksum_failures.value());
  AddIo(families, volume, io);
}

// What a scrub of an earlier process has found is in the errors that it has latched.
absl::Time LastDamage(const GroupStatus& status) {
  absl::Time last = status.replica.scrub.last_damage;
  for (const base::LatchedError& error : status.errors) {
    if (error.operation == "scrub" && error.code == absl::StatusCode::kDataLoss)
      last = std::max(last, error.last);
  }
  return last;
}

// 0: never.
double UnixSeconds(absl::Time time) {
  return time == absl::InfinitePast() ? 0 : absl::ToDoubleSeconds(time - absl::UnixEpoch());
}

void AddGroup(Families& families, Group& group) {
  const GroupStatus status = group.Status();
  const GroupStats& stats = group.stats();
  const Labels labels = {{"group", status.group}};
  const Labels with_peer = With(labels, "peer", status.replica.agent_id);
  const auto result = [&](const char* name, const Labels& base, const char* word,
                          const Counter& count) {
    families.Add(name, With(base, "result", word), static_cast<double>(count.value()));
  };
  families.Add("understudy_replication_connected", with_peer, status.connected);
  families.Add("understudy_replication_handed_over", labels, status.replica.handed_over);
  families.Add("understudy_replication_received_bytes_total", labels,
               static_cast<double>(stats.received_bytes.value()));
  families.Add("understudy_replication_received_operations_total", labels,
               static_cast<double>(stats.received_operations.value()));
  result("understudy_replication_sessions_total", with_peer, "ok", stats.sessions_ok);
  result("understudy_replication_sessions_total", with_peer, "failed", stats.sessions_failed);
  for (size_t i = 0; i < kCheckpointOutcomeNames.size(); ++i) {
    families.Add("understudy_checkpoints_total", With(labels, "result", kCheckpointOutcomeNames[i]),
                 static_cast<double>(stats.checkpoints[i].value()));
  }
  const storage::ScrubState& scrub = status.replica.scrub;
  families.Add("understudy_scrub_errors_total", labels, static_cast<double>(scrub.damages_total));
  families.Add("understudy_scrub_last_clean_timestamp_seconds", labels,
               UnixSeconds(scrub.last_clean));
  families.Add("understudy_scrub_last_damage_timestamp_seconds", labels,
               UnixSeconds(LastDamage(status)));
  result("understudy_failovers_total", labels, "ok", stats.failovers_ok);
  result("understudy_failovers_total", labels, "failed", stats.failovers_failed);
  AddPointInTime(families, labels, status, stats.clone_io);
  // A stream carries all volumes of a group: what fails on it is counted once, for no volume, so that sums stay true.
  AddFailures(families, With(labels, "volume", ""), status.replica.agent_id, stats.errors,
              stats.fenced_requests.value(), stats.wire_checksum_failures.value(), 0);
  AddLatchedErrors(families, "", status);
  for (const storage::VolumeInfo& volume : group.volumes())
    AddVolume(families, group, status, volume);
}

void AddStore(Families& families, const storage::StoreSpace& space) {
  const auto add = [&](const char* name, uint64_t value) {
    families.Add(name, {}, static_cast<double>(value));
  };
  add("understudy_store_capacity_bytes", space.capacity_bytes);
  add("understudy_store_free_bytes", space.free_bytes);
  add("understudy_store_extent_memory_bytes", space.extent_memory_bytes);
  add("understudy_store_extent_memory_limit_bytes", space.extent_memory_limit_bytes);
  add("understudy_store_extent_cold_reads_total", space.extent_cold_reads);
}

}  // namespace

std::vector<prometheus::MetricFamily> Metrics::Collect() const {
  Families families;
  DeclareVolumes(families);
  DeclareReplication(families);
  DeclareIoAndStore(families);
  for (const auto& group : service_.groups()) AddGroup(families, *group);
  const ServiceStats& stats = service_.stats();
  families.Add("understudy_replication_sessions_total",
               {{"group", ""}, {"peer", ""}, {"result", "failed"}},
               static_cast<double>(stats.sessions_refused.value()));
  families.AddHistogram("understudy_checkpoint_duration_seconds", {{"phase", "commit"}},
                        stats.checkpoint_commit.view());
  families.AddHistogram("understudy_checkpoint_duration_seconds", {{"phase", "total"}},
                        stats.checkpoint_total.view());
  families.Add("understudy_clock_seconds", {}, UnixSeconds(service_.clock().Now()));
  if (const auto space = service_.Space(); space.ok()) AddStore(families, *space);
  return families.Take();
}

}  // namespace understudy::server
