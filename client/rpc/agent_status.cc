#include "client/rpc/agent_status.h"

#include <string>

#include "client/rpc/frame_encoder.h"
#include "storage/base/reason.h"

namespace understudy::client {
namespace {

void AddVolume(const Volume& volume, const ForwarderState& state, v1::GroupStatus& status) {
  v1::VolumeStatus& out = *status.add_volumes();
  out.set_name(volume.options().name);
  out.set_disk_path(volume.disk_path());
  out.set_size_bytes(volume.options().size_bytes);
  out.set_received_sequence(state.received_sequence);
  out.set_dirty_bytes(state.volumes[volume.options().index].missed_bytes);
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
  const SyncState sync = primary.fenced() ? SyncState::kDiverged : state.sync_state;
  status.set_sync_state(static_cast<v1::SyncState>(sync));
  for (const base::LatchedError& error : primary.errors()) *status.add_errors() = ToProto(error);
  for (const auto& volume : primary.volumes()) AddVolume(*volume, state, status);
  status.set_forward_queue_bytes(state.unreceived_bytes);
  status.set_acknowledged_sequence(state.received_sequence);
  status.set_incomplete(state.incomplete);
  status.set_handed_over(primary.handed_over());
  status.set_lag_seconds(absl::ToDoubleSeconds(state.lag));
  return status;
}

}  // namespace understudy::client
