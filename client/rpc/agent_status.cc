#include "client/rpc/agent_status.h"

#include <string>

#include "client/differences.h"
#include "client/intent_log.h"
#include "client/rpc/frame_encoder.h"
#include "storage/base/reason.h"
#include "storage/base/text.h"

namespace understudy::client {
namespace {

void AddVolume(const Primary& primary, const Volume& volume, const ForwarderState& state,
               v1::GroupStatus& status) {
  v1::VolumeStatus& out = *status.add_volumes();
  out.set_name(volume.options().name);
  out.set_disk_path(volume.disk_path());
  out.set_size_bytes(volume.options().size_bytes);
  out.set_received_sequence(state.received_sequence);
  out.set_dirty_bytes(primary.differences().missing_bytes(volume.options().index));
  out.set_suspect_bytes(primary.differences().suspect_bytes(volume.options().index));
}

void AddJob(const std::string& kind, const SyncJob& job, v1::GroupStatus& status) {
  if (!job.running) return;
  v1::JobStatus& out = *status.add_jobs();
  out.set_kind(kind);
  out.set_done_bytes(job.done_bytes);
  out.set_total_bytes(job.total_bytes);
}

void SetVerify(const VerifyState& verify, v1::VerifyStatus& out) {
  const auto seconds = [](absl::Time time) { return absl::ToUnixSeconds(time); };
  out.set_outcome(static_cast<v1::VerifyOutcome>(verify.outcome));
  out.set_number(verify.number);
  out.set_started_unix_seconds(seconds(verify.started));
  out.set_ended_unix_seconds(seconds(verify.ended));
  out.set_last_equal_unix_seconds(seconds(verify.last_equal));
  out.set_bytes(verify.bytes);
  out.set_different_bytes(verify.different_bytes);
  out.set_message(base::ToUtf8(verify.message));
}

}  // namespace

v1::GroupStatus StatusOf(Primary& primary) {
  const ForwarderState state = primary.forwarder().state();
  const Stage stage = primary.stage();
  const Grant grant = primary.grant();
  v1::GroupStatus status;
  status.set_group(primary.group());
  status.set_mode(v1::MODE_PRIMARY);
  status.set_stage(ToProto(stage));
  status.set_term(grant.term.value());
  if (!grant.none()) status.set_incarnation(EncodeIncarnation(grant.incarnation));
  status.set_agent_id(primary.agent_id());
  if (stage == Stage::kRunning) status.set_epoch(state.committed_epoch.value() + 1);
  status.set_committed_epoch(state.committed_epoch.value());
  status.set_committed_unix_seconds(absl::ToUnixSeconds(state.committed_time));
  status.set_connected(state.connected);
  status.set_disconnected_seconds(absl::ToDoubleSeconds(state.disconnected()));
  status.set_sync_state(static_cast<v1::SyncState>(primary.sync_state()));
  for (const base::LatchedError& error : primary.errors()) *status.add_errors() = ToProto(error);
  for (const auto& volume : primary.volumes()) AddVolume(primary, *volume, state, status);
  status.set_forward_queue_bytes(state.unreceived_bytes);
  status.set_acknowledged_sequence(state.received_sequence);
  status.set_incomplete(state.incomplete);
  status.set_handed_over(primary.handed_over());
  AddJob("resync", primary.resync().resync_job(), status);
  AddJob("verify", primary.resync().verify_job(), status);
  SetVerify(primary.resync().verify(), *status.mutable_verify());
  status.set_lag_seconds(absl::ToDoubleSeconds(state.lag));
  return status;
}

}  // namespace understudy::client
