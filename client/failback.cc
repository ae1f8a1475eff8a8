#include "client/failback.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "client/agent_state.h"
#include "client/differences.h"
#include "client/intent_log.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

constexpr uint64_t kDirtyMapBytes = 64 << 20;
constexpr uint64_t kAll = UINT64_MAX;

absl::Status CheckVolumes(const FailbackMap& map, const std::vector<VolumeSpec>& volumes) {
  const auto missing = std::find_if(volumes.begin(), volumes.end(), [&](const VolumeSpec& wanted) {
    return std::none_of(map.volumes.begin(), map.volumes.end(), [&](const auto& volume) {
      return volume.spec.name == wanted.name && volume.spec.size_bytes == wanted.size_bytes;
    });
  });
  if (missing == volumes.end() && map.volumes.size() == volumes.size()) return absl::OkStatus();
  const std::string which =
      missing != volumes.end()
          ? absl::StrCat("none is ", missing->name, " of ", missing->size_bytes, " bytes")
          : absl::StrCat("they are ", map.volumes.size(), ", not ", volumes.size());
  return absl::InvalidArgumentError(
      absl::StrCat("the failback maps are of other volumes than this agent's: ", which,
                   "; give none, and everything is compared"));
}

// What the state directory of an agent that has ended says.
absl::Status LoadAll(base::FileSystem& file_system, const AgentState& state,
                     const std::vector<VolumeSpec>& volumes, Differences* differences) {
  ASSIGN_OR_RETURN(const auto intents, IntentLog::Open(file_system, state.PathOf(kIntentFile),
                                                       volumes, 1, state.record().intent));
  ASSIGN_OR_RETURN(const bool known,
                   LoadDifferences(file_system, state, !intents->was_missing(), differences));
  if (!known) differences->SuspectAll();
  if (!known || state.record().clean) return absl::OkStatus();
  for (uint32_t i = 0; i < volumes.size(); ++i) {
    for (const ByteRange& range : intents->Loaded(i)) differences->AddSuspect(i, range);
  }
  return absl::OkStatus();
}

std::vector<ByteRange> RangesOf(const Differences& differences, uint32_t volume) {
  std::vector<ByteRange> ranges;
  for (uint64_t from = 0; auto range = differences.NextMissing(volume, from, kAll);) {
    ranges.push_back(*range);
    from = range->end;
  }
  for (uint64_t from = 0; auto suspect = differences.NextSuspect(volume, from, kAll);) {
    ranges.push_back(suspect->range);
    from = suspect->range.end;
  }
  std::sort(ranges.begin(), ranges.end());
  return ranges;
}

}  // namespace

absl::Status CheckFailback(const std::vector<FailbackMap>& maps, const std::string& group,
                           const std::vector<VolumeSpec>& volumes) {
  if (maps.size() != 2 || maps[0].of_primary == maps[1].of_primary) {
    return absl::InvalidArgumentError(
        "the failback maps of both ends of the old pair are needed: understudyctl remove "
        "--failback-map writes the standby's, understudy-agent --write-failback-map the old "
        "primary's; without the one or the other give none, and everything is compared");
  }
  if (maps[0].incarnation != maps[1].incarnation || maps[0].agent_id != maps[1].agent_id) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the failback maps are of different pairs (", maps[0].incarnation.ToHex(), " of ",
        maps[0].agent_id, ", ", maps[1].incarnation.ToHex(), " of ", maps[1].agent_id,
        "): take them anew, or give none, and everything is compared"));
  }
  for (const FailbackMap& map : maps) {
    if (map.group != group) {
      return absl::InvalidArgumentError(
          absl::StrCat("a failback map is of group ", map.group, ", not of ", group));
    }
    RETURN_IF_ERROR(CheckVolumes(map, volumes));
  }
  return absl::OkStatus();
}

absl::StatusOr<FailbackMap> GiveUpDisks(base::FileSystem& file_system, AgentState& state,
                                        const std::string& group,
                                        const std::vector<VolumeSpec>& volumes) {
  const AgentRecord record = state.record();
  if (record.pair.none()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "group ", group, ": the agent of this state directory was never a standby's primary"));
  }
  Differences differences(volumes, kDirtyMapBytes);
  RETURN_IF_ERROR(LoadAll(file_system, state, volumes, &differences));
  // A verify has said that there is more, and not all of where.
  if (record.proof == Proof::kRefuted) differences.SuspectAll();
  // What had no local disk nobody followed.
  const std::vector<std::string> forward = absl::StrSplit(record.forward, ',', absl::SkipEmpty());
  for (uint32_t i = 0; i < volumes.size(); ++i) {
    if (std::count(forward.begin(), forward.end(), volumes[i].name) > 0) {
      differences.AddSuspect(i, {0, volumes[i].size_bytes});
    }
  }
  // Whoever comes back after this has to take over, and is another primary than the one that the map is of.
  RETURN_IF_ERROR(state.Update([](AgentRecord& stored) {
    stored.handed_over = true;
    stored.agent_id = NewAgentId();
  }));
  FailbackMap map{.group = group,
                  .of_primary = true,
                  .incarnation = record.pair,
                  .agent_id = record.pair_agent,
                  .taken = absl::Now()};
  for (uint32_t i = 0; i < volumes.size(); ++i) {
    map.volumes.push_back({.spec = volumes[i], .ranges = RangesOf(differences, i)});
  }
  return map;
}

}  // namespace understudy::client
