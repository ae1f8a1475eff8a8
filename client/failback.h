// client/failback.h
//
// The way back after a failover: the old primary's host becomes the standby of the new one, and only what may differ between their disks
// is compared. Each end of the pair that has ended knows a part of that: the service its failback map, the old primary's agent
// what its state directory says. Together they are where the new primary's agent begins (Primary, PrimaryOptions::failback).
//
// Order    each part is final when it is taken: the group is removed with its map, and the old agent gives up its disks.
// Threads  free functions; any.
#ifndef UNDERSTUDY_CLIENT_FAILBACK_H_
#define UNDERSTUDY_CLIENT_FAILBACK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "client/client_types.h"
#include "storage/base/byte_range.h"
#include "storage/base/file_system.h"

namespace understudy::client {

class AgentState;

// One end's part, as understudy.v1.FailbackMap.
struct FailbackMap {
  struct Volume {
    VolumeSpec spec;
    std::vector<ByteRange> ranges;  // in order
  };
  std::string group;
  bool of_primary = false;  // whose: the old primary's agent, or the service
  Incarnation incarnation;  // of the pair
  std::string agent_id;     // of its primary
  absl::Time taken;
  std::vector<Volume> volumes;
};

// That they are the two ends of one pair, of this group and these volumes. kInvalidArgument says what is wrong.
absl::Status CheckFailback(const std::vector<FailbackMap>& maps, const std::string& group,
                           const std::vector<VolumeSpec>& volumes);

// The old primary's part, from its state directory, which `state` has locked. From now on its agent refuses the VM's writes, over any
// restart, until a standby lets it in again, as another agent: with a takeover, if it is the old one. May be repeated. kFailedPrecondition when it was never a primary.
absl::StatusOr<FailbackMap> GiveUpDisks(base::FileSystem& file_system, AgentState& state,
                                        const std::string& group,
                                        const std::vector<VolumeSpec>& volumes);

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_FAILBACK_H_
