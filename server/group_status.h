// server/group_status.h
//
// One look at a group, for GetStatus and the metrics.
#ifndef UNDERSTUDY_SERVER_GROUP_STATUS_H_
#define UNDERSTUDY_SERVER_GROUP_STATUS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

#include "storage/base/error_log.h"
#include "storage/replica.h"

namespace understudy::server {

enum class SyncState { kNone, kAssumed, kInSync, kBehind, kResyncing, kDisconnected, kDiverged };

struct GroupStatus {
  std::string group;
  storage::ReplicaState replica;
  std::vector<storage::VolumeInfo> volumes;  // by VolumeId, as replica.usage
  std::vector<storage::CloneInfo> clones;    // by name
  bool connected = false;                    // a write stream is attached
  SyncState sync_state = SyncState::kNone;
  std::vector<base::LatchedError> errors;
  // For people: of the last message of a stream, also of before a restart; the epoch: never.
  absl::Time last_contact = absl::UnixEpoch();
  // How long the agent has said nothing: since the last message of a stream, or since Start when
  // there was none. By the steady clock. A restart of the service counts on from the contact that
  // was stored; of an agent without one, from the restart. Nothing while no word is due: not
  // RUNNING, or handed over.
  std::optional<absl::Duration> silence;
  // How old the newest checkpoint is, or Start before the first one: by the steady clock, over a
  // restart too. Nothing during a first sync, while not RUNNING, and once handed over.
  std::optional<absl::Duration> checkpoint_age;
  // How far the standby may be behind, as it can know itself: how long the oldest operation it received has waited to be
  // durable; without a stream, the time since it lost the last one (or was started). Zero when not RUNNING.
  absl::Duration lag;
  uint64_t received_bytes = 0;
  uint64_t received_operations = 0;
  uint64_t nbd_connections = 0;  // to the group's own exports, clones apart

  // Zero: a stream is attached, or none is due.
  absl::Duration disconnected() const {
    return connected ? absl::ZeroDuration() : silence.value_or(absl::ZeroDuration());
  }
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_GROUP_STATUS_H_
