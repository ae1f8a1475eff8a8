// client/ctl/views.h
//
// What understudyctl prints for people. Every view ends in a newline.
#ifndef UNDERSTUDY_CLIENT_CTL_VIEWS_H_
#define UNDERSTUDY_CLIENT_CTL_VIEWS_H_

#include <string>

#include "absl/time/time.h"

#include "understudy/v1/replication.pb.h"

namespace understudy::ctl {

// Everything about each group: stage, epochs, lag, volumes with their overlays, jobs, errors. `now` turns instants into ages.
std::string StatusView(const v1::GetStatusResponse& response, absl::Time now);
// One line per group.
std::string ListView(const v1::GetStatusResponse& response, absl::Time now);
// "healthy", or a line per latched error.
std::string ErrorView(const std::string& group, const v1::GetErrorResponse& response,
                      absl::Time now);

// One line each: what the call did, with the figures it returned.
std::string OpenView(const std::string& group, const v1::OpenResponse& response);
std::string StartView(const std::string& group, const v1::StartResponse& response);
std::string CheckpointView(const v1::CheckpointRequest& request,
                           const v1::CheckpointResponse& response);
std::string StopView(const std::string& group, const v1::StopResponse& response);
std::string RemoveView(const std::string& group, const v1::RemoveResponse& response);

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_VIEWS_H_
