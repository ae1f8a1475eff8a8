// client/ctl/follow.h
//
// `sync --wait` and `verify --wait`: what the agent does by itself, watched until it has ended.
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

// Until no write is missing at the standby; that status. An agent that restarts meanwhile is waited for, 10 s each time.
absl::StatusOr<v1::GroupStatus> FollowSync(const StatusCall& status, Progress& progress);
// Until the verify of this number has ended; kAborted when the agent has forgotten it.
absl::StatusOr<v1::GroupStatus> FollowVerify(uint64_t number, const StatusCall& status,
                                             Progress& progress);
std::string SyncView(const v1::GroupStatus& status);
std::string VerifyView(const v1::GroupStatus& status);

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_FOLLOW_H_
