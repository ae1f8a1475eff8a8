#include "client/forwarder_options.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace understudy::client {
namespace {

void CheckVolumes(const std::vector<VolumeSpec>& volumes, std::vector<std::string>& problems) {
  if (volumes.empty()) problems.emplace_back("no volume is given");
  std::set<std::string> names;
  for (const VolumeSpec& volume : volumes) {
    if (const absl::Status status = CheckName("volume", volume.name); !status.ok()) {
      problems.emplace_back(status.message());
    }
    if (!names.insert(volume.name).second) {
      problems.push_back(absl::StrCat("volume \"", volume.name, "\" is given twice"));
    }
    if (volume.size_bytes == 0 || volume.size_bytes % kSectorBytes != 0) {
      problems.push_back(absl::StrCat("volume \"", volume.name, "\": size ", volume.size_bytes,
                                      " is not a positive multiple of 512"));
    }
  }
}

}  // namespace

absl::Status ForwarderOptions::Validate() const {
  std::vector<std::string> problems;
  if (const absl::Status status = CheckName("group", group); !status.ok()) {
    problems.emplace_back(status.message());
  }
  if (const absl::Status status = CheckName("agent id", agent_id); !status.ok()) {
    problems.emplace_back(status.message());
  }
  CheckVolumes(volumes, problems);
  if (window_bytes < kWindowBytesMin) {
    problems.push_back(
        absl::StrCat("window of ", window_bytes, " bytes is below ", kWindowBytesMin));
  }
  if (stall_timeout <= absl::ZeroDuration()) problems.emplace_back("stall timeout is not positive");
  if (heartbeat <= absl::ZeroDuration()) problems.emplace_back("heartbeat is not positive");
  if (lost_peer <= heartbeat) problems.emplace_back("lost peer time is not above the heartbeat");
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(problems, "; "));
}

}  // namespace understudy::client
