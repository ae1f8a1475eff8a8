// client/ctl/follow.h
//
// `sync --wait` and `verify --wait`: what the agent does by itself, watched until it has ended.
#ifndef UNDERSTUDY_CLIENT_CTL_FOLLOW_H_
#define UNDERSTUDY_CLIENT_CTL_FOLLOW_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"

#include "client/ctl/progress.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::ctl {

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
