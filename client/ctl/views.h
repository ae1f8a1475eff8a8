// client/ctl/views.h
//
// What understudyctl prints for people. Every view ends in a newline. `ctl` is what the commands
// that it names begin with: Invocation::ctl.
#ifndef UNDERSTUDY_CLIENT_CTL_VIEWS_H_
#define UNDERSTUDY_CLIENT_CTL_VIEWS_H_

#include <string>

#include "absl/time/time.h"

namespace understudy::v1 {
class CheckpointRequest;
class CheckpointResponse;
class ClearErrorResponse;
class CloneResponse;
class GetErrorResponse;
class GetStatusResponse;
class GroupStatus;
class HistoryResponse;
class ListClonesResponse;
class OpenResponse;
class RemoveResponse;
class ReplicationError;
class StartResponse;
class StopResponse;
}  // namespace understudy::v1

namespace understudy::ctl {

// The first lines of a group in StatusView(): stage, epochs, lag, traffic. `rate`: what it receives now; empty: not known.
std::string GroupHead(const v1::GroupStatus& group, absl::Time now, const std::string& rate = "");
// Its latched errors, or that there are none.
std::string ErrorLines(const v1::GroupStatus& group, absl::Time now);
// "RUNNING, ASSUMED, connected, epoch 13 open, committed 12, 2 s ago, lag 0 s", and what else there is to say in one line.
std::string GroupLine(const v1::GroupStatus& group, absl::Time now, const std::string& rate = "");
// "DATA_LOSS of vda read [0, 512): message"
std::string ErrorLine(const v1::ReplicationError& error);

// Everything about each group: stage, epochs, lag, volumes with their overlays, jobs, errors. `now` turns instants into ages.
std::string StatusView(const v1::GetStatusResponse& response, absl::Time now);
// One line per group.
std::string ListView(const v1::GetStatusResponse& response, absl::Time now);
// From so long without the other end on, get-error is no success.
inline constexpr absl::Duration kDisconnectedMax = absl::Minutes(1);
// A line per latched error, and how long the other end has not been there. "healthy" when there is
// nothing to say.
std::string ErrorView(const std::string& group, const v1::GetErrorResponse& response,
                      absl::Time now);
std::string ClearErrorView(const std::string& group, const v1::ClearErrorResponse& response,
                           absl::Time now);

// One line each: what the call did, with the figures it returned.
std::string OpenView(const std::string& group, const v1::OpenResponse& response);
std::string StartView(const std::string& group, const v1::StartResponse& response);
std::string CheckpointView(const v1::CheckpointRequest& request,
                           const v1::CheckpointResponse& response);
std::string StopView(const std::string& group, const v1::StopResponse& response);
// Where the scrub is, or how it ended.
std::string ScrubView(const std::string& ctl, const v1::GroupStatus& status);
// What can be gone back to, newest first, and how.
std::string HistoryView(const std::string& ctl, const std::string& group,
                        const v1::HistoryResponse& response, absl::Time now);
// What a new clone is and the commands that use it.
std::string CloneView(const std::string& ctl, const std::string& group,
                      const v1::CloneResponse& response, absl::Time now);
std::string ClonesView(const std::string& group, const v1::ListClonesResponse& response,
                       absl::Time now);
std::string RemoveView(const std::string& group, const v1::RemoveResponse& response);

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_VIEWS_H_
