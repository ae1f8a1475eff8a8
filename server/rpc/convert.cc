#include "server/rpc/convert.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <variant>

#include "absl/time/clock.h"

#include "storage/base/status_macros.h"
#include "storage/base/text.h"

namespace understudy::server {
namespace {

constexpr absl::Duration kTimeToLiveMax = absl::Hours(24 * 365);

void StoreBigEndian(uint64_t value, char* to) {
  value = __builtin_bswap64(value);
  std::memcpy(to, &value, sizeof(value));
}

uint64_t LoadBigEndian(const char* from) {
  uint64_t value;
  std::memcpy(&value, from, sizeof(value));
  return __builtin_bswap64(value);
}

v1::SyncState ToProto(SyncState state) {
  switch (state) {
    case SyncState::kNone:
      return v1::SYNC_STATE_UNSPECIFIED;
    case SyncState::kAssumed:
      return v1::SYNC_STATE_ASSUMED;
    case SyncState::kInSync:
      return v1::SYNC_STATE_IN_SYNC;
    case SyncState::kBehind:
      return v1::SYNC_STATE_BEHIND;
    case SyncState::kResyncing:
      return v1::SYNC_STATE_RESYNCING;
    case SyncState::kDisconnected:
      return v1::SYNC_STATE_DISCONNECTED;
    case SyncState::kDiverged:
      return v1::SYNC_STATE_DIVERGED;
  }
  return v1::SYNC_STATE_UNSPECIFIED;
}

void PutVolume(const GroupStatus& status, const storage::VolumeInfo& info, v1::VolumeStatus& to) {
  to.set_name(info.name);
  to.set_top_id(info.top_id);
  to.set_disk_path(base::ToUtf8(info.disk_path));  // of a link of that name, the file
  to.set_size_bytes(info.size_bytes);
  to.set_received_sequence(status.replica.received_sequence);
  if (info.id.value() >= status.replica.usage.size()) return;
  const storage::VolumeUsage& usage = status.replica.usage[info.id.value()];
  to.set_hidden_bytes(usage.hidden_bytes);
  to.set_active_bytes(usage.active_bytes);
  to.set_committed_unapplied_bytes(usage.committed_bytes);
  to.set_history_bytes(usage.history_bytes);
  to.set_failback_bytes(usage.failback_bytes);
}

int64_t UnixSeconds(absl::Time time) {
  return time == absl::InfinitePast() ? 0 : absl::ToUnixSeconds(time);
}

void PutScrub(const storage::ScrubState& scrub, v1::ScrubStatus& to) {
  // Both count the same outcomes in the same order.
  to.set_outcome(static_cast<v1::ScrubOutcome>(scrub.outcome));
  to.set_number(scrub.number);
  to.set_started_unix_seconds(UnixSeconds(scrub.started));
  to.set_ended_unix_seconds(UnixSeconds(scrub.ended));
  to.set_last_clean_unix_seconds(UnixSeconds(scrub.last_clean));
  to.set_extents(scrub.extents);
  to.set_bytes(scrub.bytes);
  to.set_damages(scrub.damages);
  to.set_message(base::ToUtf8(scrub.message));
}

storage::VolumeSpec VolumeSpecFrom(const v1::VolumeSpec& from) {
  const bool sync = from.initial() == v1::INITIAL_SYNC ||
                    (from.initial() == v1::INITIAL_UNSPECIFIED && from.create());
  return {.name = from.name(),
          .top_id = from.top_id(),
          .disk_path = from.disk_path(),
          .size_bytes = from.size_bytes(),
          .create = from.create(),
          .initial = sync ? Initial::kSync : Initial::kEqual};
}

void Put(const HandshakeReply& reply, v1::WriteResponse& response) {
  v1::HandshakeReply& to = *response.mutable_handshake();
  to.set_incarnation(ToBytes(reply.incarnation));
  to.set_term(reply.term.value());
  to.set_received_sequence(reply.received_sequence);
  to.set_durable_sequence(reply.durable_sequence);
  to.set_committed_epoch(reply.committed_epoch.value());
  to.set_committed_sequence(reply.committed_sequence);
  to.set_incomplete(reply.incomplete);
  to.mutable_volume_ids()->Add(reply.volume_ids.begin(), reply.volume_ids.end());
  to.set_frame_payload_bytes_max(kFramePayloadBytesMax);
  to.set_committed_micros(static_cast<uint64_t>(absl::ToUnixMicros(reply.committed_time)));
  to.set_committed_age_micros(
      static_cast<uint64_t>(std::max<int64_t>(absl::ToInt64Microseconds(reply.committed_age), 1)));
}

void Put(const Ack& ack, v1::WriteResponse& response) {
  v1::Ack& to = *response.mutable_ack();
  to.set_received_sequence(ack.received_sequence);
  to.set_durable_sequence(ack.durable_sequence);
  to.set_committed_epoch(ack.committed_epoch);
  to.set_committed_sequence(ack.committed_sequence);
  to.set_committed_bytes(ack.committed_bytes);
  to.set_committed_duration_micros(ack.committed_duration_micros);
  to.set_incomplete(ack.incomplete);
  to.set_aborted_sequence(ack.aborted_sequence);
  to.set_echo_micros(ack.echo_micros);
  to.set_prepared_epoch(ack.prepared_epoch);
  to.set_prepared_sequence(ack.prepared_sequence);
}

void Put(const CheckpointWanted&, v1::WriteResponse& response) {
  response.mutable_checkpoint_wanted();
}

void Put(const HandoverWanted&, v1::WriteResponse& response) { response.mutable_handover_wanted(); }

}  // namespace

std::string ToBytes(const Incarnation& incarnation) {
  if (incarnation.none()) return "";
  std::string bytes(16, '\0');
  StoreBigEndian(incarnation.high, bytes.data());
  StoreBigEndian(incarnation.low, bytes.data() + 8);
  return bytes;
}

absl::StatusOr<Incarnation> IncarnationFrom(const std::string& bytes) {
  if (bytes.empty()) return Incarnation{};
  if (bytes.size() != 16) {
    return absl::InvalidArgumentError(
        absl::StrCat("an incarnation has 16 bytes, this one has ", bytes.size()));
  }
  return Incarnation{.high = LoadBigEndian(bytes.data()), .low = LoadBigEndian(bytes.data() + 8)};
}

Mode ModeFrom(v1::Mode mode) {
  switch (mode) {
    case v1::MODE_UNSPECIFIED:
      return Mode::kMissing;
    case v1::MODE_PRIMARY:
      return Mode::kPrimary;
    case v1::MODE_SECONDARY:
      return Mode::kSecondary;
    default:
      return Mode::kUnknown;
  }
}

template <typename Request>
storage::GroupSpec GroupSpecFrom(const Request& request) {
  storage::GroupSpec spec{.name = request.group(), .volumes = {}};
  for (const v1::VolumeSpec& volume : request.volumes())
    spec.volumes.push_back(VolumeSpecFrom(volume));
  return spec;
}
template storage::GroupSpec GroupSpecFrom(const v1::OpenRequest& request);
template storage::GroupSpec GroupSpecFrom(const v1::StartRequest& request);

absl::StatusOr<Expected> ExpectedFrom(const v1::Expected& expected) {
  ASSIGN_OR_RETURN(const Incarnation incarnation, IncarnationFrom(expected.incarnation()));
  return Expected{.incarnation = incarnation, .term = Term(expected.term())};
}

v1::GroupStatus ToProto(const GroupStatus& status) {
  const storage::ReplicaState& state = status.replica;
  v1::GroupStatus to;
  to.set_group(status.group);
  to.set_mode(v1::MODE_SECONDARY);
  to.set_stage(ToProto(state.stage));
  to.set_term(state.term.value());
  to.set_epoch(state.epoch.value());
  to.set_committed_epoch(state.committed_epoch.value());
  to.set_committed_unix_seconds(absl::ToUnixSeconds(state.committed_time));
  to.set_connected(status.connected);
  to.set_disconnected_seconds(absl::ToDoubleSeconds(status.disconnected()));
  to.set_sync_state(ToProto(status.sync_state));
  for (const base::LatchedError& error : status.errors) *to.add_errors() = ToProto(error);
  for (const storage::VolumeInfo& volume : status.volumes)
    PutVolume(status, volume, *to.add_volumes());
  to.set_incarnation(ToBytes(state.incarnation));
  to.set_agent_id(state.agent_id);
  to.set_acknowledged_sequence(0);
  for (const storage::JobProgress& job : state.jobs) {
    v1::JobStatus& job_to = *to.add_jobs();
    job_to.set_kind(job.kind);
    job_to.set_done_bytes(job.done_bytes);
    job_to.set_total_bytes(job.total_bytes);
  }
  to.set_incomplete(state.incomplete);
  to.set_received_bytes(status.received_bytes);
  to.set_received_operations(status.received_operations);
  to.set_lag_seconds(absl::ToDoubleSeconds(status.lag));
  PutScrub(state.scrub, *to.mutable_scrub());
  to.set_history_epochs(state.history_epochs);
  for (const storage::CloneInfo& clone : status.clones) {
    *to.add_clones() = ToProto(clone, status.group, status.volumes);
  }
  to.set_overlay_bytes(state.overlay_bytes);
  to.set_overlay_bytes_max(state.overlay_bytes_max);
  to.set_overlay_soft_mark(state.overlay_soft_mark);
  to.set_prepared_epoch(state.prepared_epoch.value());
  to.set_nbd_connections(status.nbd_connections);
  to.set_handed_over(state.handed_over);
  return to;
}

v1::HistoryEpoch ToProto(const storage::EpochInfo& epoch,
                         const std::vector<storage::VolumeInfo>& volumes) {
  v1::HistoryEpoch to;
  to.set_epoch(epoch.epoch.value());
  to.set_committed_unix_micros(absl::ToUnixMicros(epoch.time));
  to.set_on_disk(epoch.on_disk);
  for (size_t i = 0; i < epoch.bytes.size() && i < volumes.size(); ++i) {
    v1::VolumeChange& change = *to.add_volumes();
    change.set_volume(volumes[i].name);
    change.set_bytes(epoch.bytes[i]);
    to.set_bytes(to.bytes() + epoch.bytes[i]);
  }
  return to;
}

v1::FailbackMap ToProto(const storage::FailbackRegions& failback, const std::string& group,
                        const std::vector<storage::VolumeInfo>& volumes) {
  v1::FailbackMap to;
  to.set_group(group);
  to.set_mode(v1::MODE_SECONDARY);
  to.set_incarnation(ToBytes(failback.incarnation));
  to.set_agent_id(failback.agent_id);
  to.set_taken_unix_micros(absl::ToUnixMicros(absl::Now()));
  for (const storage::VolumeInfo& info : volumes) {
    v1::FailbackVolume& volume = *to.add_volumes();
    volume.set_name(info.name);
    volume.set_size_bytes(info.size_bytes);
  }
  proto::PutRuns(failback.runs, &to);
  return to;
}

v1::CloneStatus ToProto(const storage::CloneInfo& clone, const std::string& group,
                        const std::vector<storage::VolumeInfo>& volumes) {
  v1::CloneStatus to;
  to.set_name(clone.spec.name);
  to.set_epoch(clone.spec.epoch.value());
  to.set_written_bytes(clone.written_bytes);
  to.set_bytes_max(clone.spec.bytes_max);
  to.set_expires_unix_micros(absl::ToUnixMicros(clone.expires));
  for (std::string& name : CloneExportNames(group, clone.spec.name, volumes)) {
    to.add_exports(std::move(name));
  }
  return to;
}

absl::StatusOr<storage::CloneSpec> CloneSpecFrom(const v1::CloneRequest& request) {
  storage::CloneSpec spec{.name = request.name(), .epoch = Epoch(request.epoch())};
  if (request.bytes_max() != 0) spec.bytes_max = request.bytes_max();
  if (request.time_to_live_micros() == 0) return spec;
  if (request.time_to_live_micros() >
      static_cast<uint64_t>(absl::ToInt64Microseconds(kTimeToLiveMax))) {
    return absl::InvalidArgumentError(absl::StrCat("clone ", request.name(), ": a time to live of ",
                                                   request.time_to_live_micros(),
                                                   " us is longer than a year"));
  }
  spec.time_to_live = absl::Microseconds(static_cast<int64_t>(request.time_to_live_micros()));
  return spec;
}

absl::StatusOr<Handshake> HandshakeFrom(const v1::Handshake& handshake) {
  ASSIGN_OR_RETURN(const Incarnation incarnation, IncarnationFrom(handshake.incarnation()));
  Handshake to{.group = handshake.group(),
               .incarnation = incarnation,
               .term = Term(handshake.term()),
               .agent_id = handshake.agent_id(),
               .stream_id = handshake.stream_id(),
               .volumes = {},
               .first_available_sequence = handshake.first_available_sequence(),
               .takeover = handshake.takeover(),
               .may_checkpoint = handshake.may_checkpoint()};
  for (const v1::StreamVolume& volume : handshake.volumes()) {
    to.volumes.push_back({.name = volume.name(), .size_bytes = volume.size_bytes()});
  }
  return to;
}

v1::WriteResponse ToProto(const Answer& answer) {
  v1::WriteResponse response;
  std::visit([&](const auto& value) { Put(value, response); }, answer);
  return response;
}

}  // namespace understudy::server
