#include "client/metrics/metrics.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include <prometheus/metric_family.h>

#include "client/differences.h"
#include "client/intent_log.h"
#include "client/primary.h"
#include "storage/base/clock.h"

namespace understudy::client {
namespace {

using Labels = std::vector<std::pair<std::string, std::string>>;
using prometheus::MetricType;

struct Series {
  const char* name;
  MetricType type;
  const char* help;
};

constexpr Series kSeries[] = {
    {"understudy_volume_info", MetricType::Gauge, "Always 1: a volume of this agent and its peer."},
    {"understudy_volume_size_bytes", MetricType::Gauge, "Size of the volume."},
    {"understudy_volume_role", MetricType::Gauge,
     "1 for the role this end of the volume has, else 0."},
    {"understudy_volume_state", MetricType::Gauge,
     "1 for the stage of the volume's group, else 0."},
    {"understudy_volume_sync_state", MetricType::Gauge,
     "1 for the agreement with the peer, else 0; all 0 when not replicating."},
    {"understudy_volume_epoch", MetricType::Gauge, "The open epoch; 0: none."},
    {"understudy_volume_term", MetricType::Gauge, "The term of the primaryship; 0: none granted."},
    {"understudy_replication_lag_seconds", MetricType::Gauge,
     "Age of the oldest write that is not known to be durable on the peer; 0 if none."},
    {"understudy_replication_lag_bytes", MetricType::Gauge,
     "Bytes written and not known to be durable on the peer, missed ones included."},
    {"understudy_replication_lag_target_seconds", MetricType::Gauge,
     "Configured recovery point objective; 0: none."},
    {"understudy_replication_last_contact_timestamp_seconds", MetricType::Gauge,
     "When the peer was last heard of, heartbeats included, unix time; 0: never since the agent "
     "started."},
    {"understudy_replication_silence_seconds", MetricType::Gauge,
     "How long the peer has not been heard, since the agent's start at most. None while no word is "
     "due: not running, or handed over."},
    {"understudy_replication_connected", MetricType::Gauge, "1 while the write stream is up."},
    {"understudy_replication_handed_over", MetricType::Gauge,
     "1 while this primary has given up writing: its VM's writes fail with EIO. Else 0."},
    {"understudy_replication_sessions_total", MetricType::Counter,
     "Connection attempts, by result."},
    {"understudy_replication_inflight_bytes", MetricType::Gauge,
     "Bytes in the window: queued or sent, not known durable on the peer."},
    {"understudy_replication_window_bytes", MetricType::Gauge, "What the window may hold."},
    {"understudy_replication_sent_bytes_total", MetricType::Counter,
     "Bytes of volume ranges put on the wire, repetitions included, by kind."},
    {"understudy_replication_errors_total", MetricType::Counter,
     "Replication failures, by reason, counted once."},
    {"understudy_latched_errors", MetricType::Gauge,
     "Errors that GetError tells of the volume, or without a volume of the group; over a restart "
     "too. "
     "0 is healthy."},
    {"understudy_io_requests_total", MetricType::Counter, "Requests of the primary VM."},
    {"understudy_io_bytes_total", MetricType::Counter, "Bytes of requests of the primary VM."},
    {"understudy_io_errors_total", MetricType::Counter,
     "I/O failures, local or in forwarding, also those hidden from the guest."},
    {"understudy_resync_remaining_bytes", MetricType::Gauge,
     "Missing at the peer, or to be compared with it; 0: none."},
    {"understudy_resync_applied_bytes_total", MetricType::Counter,
     "Sent by resyncs, bytes of the volume."},
    {"understudy_resyncs_total", MetricType::Counter,
     "Resyncs of the group that ended, by result; one that a broken connection ends is failed."},
    {"understudy_verify_last_equal_timestamp_seconds", MetricType::Gauge,
     "End of the last verify that found no difference, unix time; 0: none since the start."},
    {"understudy_verify_different_bytes", MetricType::Gauge,
     "What the newest verify found different."},
    {"understudy_verify_refuted", MetricType::Gauge,
     "1 since a verify has found a difference and until a full sync has mended it, over restarts "
     "too; else 0."},
    {"understudy_intent_bytes", MetricType::Gauge,
     "Marked in the write-intent log: what would be compared after a crash; all disks while the "
     "log is lost."},
    {"understudy_intent_log_lost", MetricType::Gauge,
     "1 while the state directory takes nothing, so that the write-intent log had to be removed: "
     "the VM is served, and everything is compared after the agent's next end."},
    {"understudy_intent_log_failed", MetricType::Gauge,
     "1 while the write-intent log can be neither written nor removed: the VM's writes fail, all "
     "or those to regions (4 MiB) that are not marked in it."},
    {"understudy_clock_seconds", MetricType::Gauge, "What this host's clock says, unix time."},
    {"understudy_fenced_requests_total", MetricType::Counter,
     "Requests refused because another primary has taken over."},
    {"understudy_checkpoints_total", MetricType::Counter, "Checkpoints of the group, by result."},
    {"understudy_checkpoint_last_success_timestamp_seconds", MetricType::Gauge,
     "When the newest checkpoint was known to be committed, unix time; 0: none yet."},
    {"understudy_checkpoint_age_seconds", MetricType::Gauge,
     "How old the newest checkpoint is: what a failover now would lose. None while none is known, "
     "and while none is due: not running, or handed over."},
    {"understudy_checkpoint_interval_target_seconds", MetricType::Gauge,
     "Configured checkpoint interval; 0: on demand only."},
};

constexpr const char* kIoNames[kIoKinds] = {"read", "write", "flush", "discard", "write_zeroes"};
constexpr std::pair<SyncState, const char*> kSyncStates[] = {
    {SyncState::kAssumed, "assumed"},
    {SyncState::kInSync, "in_sync"},
    {SyncState::kBehind, "behind"},
    {SyncState::kResyncing, "resyncing"},
    {SyncState::kDisconnected, "disconnected"},
    {SyncState::kDiverged, "diverged"},
};

class Families {
 public:
  Families() {
    for (const Series& series : kSeries) {
      families_[series.name] = {
          .name = series.name, .help = series.help, .type = series.type, .metric = {}};
    }
  }

  void Add(const std::string& name, const Labels& labels, double value) {
    prometheus::MetricFamily& family = families_.at(name);
    prometheus::ClientMetric& metric = family.metric.emplace_back();
    for (const auto& [label, text] : labels) metric.label.push_back({.name = label, .value = text});
    (family.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  }

  std::vector<prometheus::MetricFamily> Take() {
    std::vector<prometheus::MetricFamily> taken;
    for (auto& [name, family] : families_) taken.push_back(std::move(family));
    return taken;
  }

 private:
  std::map<std::string, prometheus::MetricFamily> families_;
};

Labels With(Labels labels, const std::string& name, const std::string& value) {
  labels.emplace_back(name, value);
  return labels;
}

double Number(uint64_t value) { return static_cast<double>(value); }
double Number(const std::atomic<uint64_t>& value) {
  return static_cast<double>(value.load(std::memory_order_relaxed));
}
double UnixSeconds(absl::Time time) { return absl::ToDoubleSeconds(time - absl::UnixEpoch()); }

void AddStates(Families& families, const Labels& volume, const Labels& with_peer, Stage stage,
               SyncState sync) {
  for (const char* role : {"primary", "secondary", "none"}) {
    const bool is_primary = std::string(role) == "primary";
    const bool is_none = std::string(role) == "none";
    const bool running = stage == Stage::kRunning;
    families.Add("understudy_volume_role", With(volume, "role", role),
                 (is_primary && running) || (is_none && !running) ? 1 : 0);
  }
  for (const Stage other :
       {Stage::kNone, Stage::kRunning, Stage::kFailover, Stage::kFailoverFailed, Stage::kDone}) {
    families.Add("understudy_volume_state",
                 With(volume, "state", absl::AsciiStrToLower(StageName(other))),
                 stage == other ? 1 : 0);
  }
  for (const auto& [state, name] : kSyncStates) {
    families.Add("understudy_volume_sync_state", With(with_peer, "state", name),
                 sync == state ? 1 : 0);
  }
}

void AddIo(Families& families, const Labels& volume, const IoFigures& figures) {
  for (size_t i = 0; i < kIoKinds; ++i) {
    const Labels labels = With(volume, "op", kIoNames[i]);
    families.Add("understudy_io_requests_total", labels, Number(figures.requests[i]));
    families.Add("understudy_io_bytes_total", labels, Number(figures.bytes[i]));
    families.Add("understudy_io_errors_total", With(labels, "where", "local"),
                 Number(figures.local_errors[i]));
    families.Add("understudy_io_errors_total", With(labels, "where", "remote"),
                 Number(figures.remote_errors[i]));
  }
  families.Add("understudy_fenced_requests_total", volume, Number(figures.fenced_requests));
}

void AddReplication(Families& families, const Labels& with_peer, const ForwarderState& state,
                    const ForwarderVolumeState& figures, uint64_t missing_bytes) {
  families.Add("understudy_replication_lag_seconds", with_peer, absl::ToDoubleSeconds(state.lag));
  families.Add("understudy_replication_lag_bytes", with_peer,
               Number(figures.unacknowledged_bytes + missing_bytes));
  families.Add("understudy_replication_last_contact_timestamp_seconds", with_peer,
               UnixSeconds(state.last_contact));
  if (state.silence.has_value()) {
    families.Add("understudy_replication_silence_seconds", with_peer,
                 absl::ToDoubleSeconds(*state.silence));
  }
  const auto sent = [&](const char* kind, uint64_t bytes) {
    families.Add("understudy_replication_sent_bytes_total", With(with_peer, "kind", kind),
                 Number(bytes));
  };
  sent("write", figures.sent_data_bytes);
  sent("zero", figures.sent_zero_bytes);
  // One stream carries all volumes of the group, so what fails on it fails for each of them.
  for (const auto& [reason, count] : state.failures) {
    families.Add("understudy_replication_errors_total", With(with_peer, "reason", reason),
                 Number(count));
  }
}

void AddSync(Families& families, const Labels& with_peer, const Primary& primary, uint32_t volume) {
  const Resync& resync = primary.resync();
  const uint64_t sent = resync.sent_bytes(volume);
  families.Add("understudy_replication_sent_bytes_total", With(with_peer, "kind", "resync"),
               Number(sent));
  families.Add("understudy_resync_applied_bytes_total", with_peer, Number(sent));
  families.Add("understudy_resync_remaining_bytes", with_peer,
               Number(primary.differences().missing_bytes(volume) +
                      primary.differences().suspect_bytes(volume)));
  families.Add("understudy_resyncs_total", With(with_peer, "result", "ok"),
               Number(resync.ended_ok()));
  families.Add("understudy_resyncs_total", With(with_peer, "result", "failed"),
               Number(resync.ended_failed()));
}

void AddVerify(Families& families, const Labels& group, const Primary& primary) {
  const Resync& resync = primary.resync();
  const VerifyState verify = resync.verify();
  families.Add("understudy_verify_last_equal_timestamp_seconds", group,
               UnixSeconds(verify.last_equal));
  families.Add("understudy_verify_different_bytes", group, Number(verify.different_bytes));
  families.Add("understudy_verify_refuted", group, resync.proof() == Proof::kRefuted);
  if (primary.intents() == nullptr) return;
  families.Add("understudy_intent_bytes", group, Number(primary.intents()->set_bytes()));
  families.Add("understudy_intent_log_lost", group, primary.intents()->lost() ? 1 : 0);
  families.Add("understudy_intent_log_failed", group, primary.intents()->failure().ok() ? 0 : 1);
}

// `volume` "": those of the group as a whole.
void AddLatchedErrors(Families& families, const Labels& group, const std::string& volume,
                      const std::vector<base::LatchedError>& errors) {
  const auto count = std::count_if(errors.begin(), errors.end(),
                                   [&](const auto& error) { return error.volume == volume; });
  families.Add("understudy_latched_errors", With(group, "volume", volume),
               static_cast<double>(count));
}

std::string HostOf(const std::string& server) {
  if (server.starts_with("unix:")) return "local";
  return server.substr(0, server.rfind(':'));
}

}  // namespace

Metrics::Metrics(Primary* primary, const std::string& server, absl::Duration checkpoint_interval)
    : primary_(*primary), peer_(HostOf(server)), checkpoint_interval_(checkpoint_interval) {}

prometheus::MetricFamily Metrics::CheckpointDurations() const {
  prometheus::MetricFamily family{
      .name = "understudy_checkpoint_duration_seconds",
      .help = "total: from queuing the marker to its commit on the peer.",
      .type = MetricType::Histogram,
      .metric = {}};
  prometheus::ClientMetric& metric = family.metric.emplace_back();
  metric.label.push_back({.name = "phase", .value = "total"});
  base::MutexLock lock(mutex_);
  for (const absl::Duration duration : primary_.forwarder().TakeCheckpointDurations()) {
    const double seconds = absl::ToDoubleSeconds(duration);
    size_t bucket = 0;
    while (bucket < kBoundsSeconds.size() && seconds > kBoundsSeconds[bucket]) ++bucket;
    ++counts_[bucket];
    sum_seconds_ += seconds;
  }
  uint64_t cumulative = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    cumulative += counts_[i];
    const double bound =
        i < kBoundsSeconds.size() ? kBoundsSeconds[i] : std::numeric_limits<double>::infinity();
    metric.histogram.bucket.push_back({.cumulative_count = cumulative, .upper_bound = bound});
  }
  metric.histogram.sample_count = cumulative;
  metric.histogram.sample_sum = sum_seconds_;
  return family;
}

std::vector<prometheus::MetricFamily> Metrics::Collect() const {
  Families families;
  const ForwarderState state = primary_.forwarder().state();
  const Stage stage = primary_.stage();
  const SyncState sync = primary_.sync_state();
  const Labels group = {{"group", primary_.group()}};
  const Labels group_peer = With(group, "peer", peer_);
  const std::vector<base::LatchedError> errors = primary_.errors();
  const uint64_t epoch = stage == Stage::kRunning ? state.committed_epoch.value() + 1 : 0;
  for (const auto& volume : primary_.volumes()) {
    const Labels labels = With(group, "volume", volume->options().name);
    const Labels with_peer = With(labels, "peer", peer_);
    families.Add("understudy_volume_info", with_peer, 1);
    families.Add("understudy_volume_size_bytes", labels, Number(volume->options().size_bytes));
    AddStates(families, labels, with_peer, stage, sync);
    families.Add("understudy_volume_epoch", labels, Number(epoch));
    families.Add("understudy_volume_term", labels, Number(state.grant.term.value()));
    families.Add("understudy_replication_lag_target_seconds", labels,
                 absl::ToDoubleSeconds(checkpoint_interval_));
    const uint32_t index = volume->options().index;
    AddReplication(families, with_peer, state, state.volumes[index],
                   primary_.differences().missing_bytes(index));
    AddSync(families, with_peer, primary_, index);
    families.Add("understudy_checkpoint_last_success_timestamp_seconds", labels,
                 UnixSeconds(state.committed_time));
    if (state.checkpoint_age.has_value()) {
      families.Add("understudy_checkpoint_age_seconds", labels,
                   absl::ToDoubleSeconds(*state.checkpoint_age));
    }
    families.Add("understudy_checkpoint_interval_target_seconds", labels,
                 absl::ToDoubleSeconds(checkpoint_interval_));
    AddIo(families, labels, volume->figures());
    AddLatchedErrors(families, group, volume->options().name, errors);
  }
  AddLatchedErrors(families, group, "", errors);
  families.Add("understudy_clock_seconds", {}, UnixSeconds(base::Clock::Real().Now()));
  AddVerify(families, group, primary_);
  families.Add("understudy_replication_connected", group_peer, state.connected ? 1 : 0);
  families.Add("understudy_replication_handed_over", group, primary_.handed_over() ? 1 : 0);
  families.Add("understudy_replication_sessions_total", With(group_peer, "result", "ok"),
               Number(state.sessions_ok));
  families.Add("understudy_replication_sessions_total", With(group_peer, "result", "failed"),
               Number(state.sessions_failed));
  families.Add("understudy_replication_inflight_bytes", group_peer, Number(state.window_bytes));
  families.Add("understudy_replication_window_bytes", group_peer,
               Number(primary_.forwarder().options().window_bytes));
  for (const auto& [result, count] : state.checkpoints) {
    families.Add("understudy_checkpoints_total", With(group, "result", result), Number(count));
  }
  std::vector<prometheus::MetricFamily> collected = families.Take();
  collected.push_back(CheckpointDurations());
  return collected;
}

}  // namespace understudy::client
