#include "server/rpc/convert.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <variant>

#include "absl/time/clock.h"

#include "storage/base/status_macros.h"

namespace understudy::server {
namespace {

constexpr absl::Duration kDefaultDeadline = absl::Minutes(1);
constexpr absl::Duration kAnswerMargin = absl::Milliseconds(100);

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
  to.set_disk_path(info.disk_path);
  to.set_size_bytes(info.size_bytes);
  to.set_received_sequence(status.replica.received_sequence);
  if (info.id.value() >= status.replica.usage.size()) return;
  const storage::VolumeUsage& usage = status.replica.usage[info.id.value()];
  to.set_hidden_bytes(usage.hidden_bytes);
  to.set_active_bytes(usage.active_bytes);
  to.set_committed_unapplied_bytes(usage.committed_bytes);
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
}

void Put(const CheckpointWanted&, v1::WriteResponse& response) {
  response.mutable_checkpoint_wanted();
}

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
  return to;
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
               .takeover = handshake.takeover()};
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

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline >= std::chrono::system_clock::now() + std::chrono::hours(24 * 365)) {
    return absl::Now() + kDefaultDeadline;
  }
  // The answer that time is up must reach the client before its own clock says so.
  const absl::Time given = absl::FromChrono(deadline);
  const absl::Duration left = std::max(absl::ZeroDuration(), given - absl::Now());
  return given - std::min(left / 10, kAnswerMargin);
}

}  // namespace understudy::server
