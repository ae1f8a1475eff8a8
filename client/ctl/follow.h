// client/ctl/follow.h
//
// `sync --wait`, `verify --wait` and `scrub --wait`: what a daemon does by itself, watched until it
// has ended. `ctl` as in client/ctl/views.h.
#ifndef UNDERSTUDY_CLIENT_CTL_FOLLOW_H_
#define UNDERSTUDY_CLIENT_CTL_FOLLOW_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace understudy::v1 {
class GroupStatus;
}  // namespace understudy::v1

namespace understudy::ctl {

class Progress;

// The group's status now.
using StatusCall = std::function<absl::StatusOr<v1::GroupStatus>()>;

// In all of them a daemon that restarts meanwhile is waited for, 10 s each time.

// Until the standby could take over with everything: connected, complete, with a committed state.
// That status; the disks may differ all the same when a verify has said so. kFailedPrecondition
// when that cannot come: fenced, or handed over.
absl::StatusOr<v1::GroupStatus> FollowSync(const std::string& ctl, const StatusCall& status,
                                           Progress& progress);
// Until the verify of this number has ended; kAborted when the agent has forgotten it.
absl::StatusOr<v1::GroupStatus> FollowVerify(uint64_t number, const StatusCall& status,
                                             Progress& progress);
// Until the scrub of this number has ended; kAborted when the service has forgotten it.
absl::StatusOr<v1::GroupStatus> FollowScrub(const std::string& ctl, uint64_t number,
                                            const StatusCall& status, Progress& progress);
std::string SyncView(const std::string& ctl, const v1::GroupStatus& status);
std::string VerifyView(const std::string& ctl, const v1::GroupStatus& status);

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_FOLLOW_H_
