#include "server/refusal_log.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/reason.h"

namespace understudy::server {
namespace {

constexpr size_t kNameBytesMax = 64;

constexpr size_t kStatusBytesMax = 512;  // it may name the group, too

std::string Cut(absl::string_view text, size_t bytes_max = kNameBytesMax) {
  return std::string(text.substr(0, bytes_max));
}

std::string KindOf(const absl::Status& status) {
  const std::optional<Reason> reason = ReasonOf(status);
  return absl::StrCat(absl::StatusCodeToString(status.code()), " ", reason ? reason->reason : "");
}

}  // namespace

void RefusalLog::Refused(absl::string_view group, absl::string_view agent,
                         const absl::Status& status) {
  const std::string group_name = Cut(group);
  const std::string agent_name = Cut(agent);
  const absl::Duration now = clock_.Monotonic();
  bool shared = false;
  uint64_t times = 0;
  {
    base::MutexLock lock(mutex_);
    Key key(group_name, agent_name, KindOf(status));
    if (!entries_.contains(key) && entries_.size() >= kEntriesMax) {
      std::erase_if(entries_, [&](const auto& each) { return now - each.second.at >= kInterval; });
      shared = entries_.size() >= kEntriesMax;
    }
    Entry& entry = shared ? others_ : entries_[key];
    entry.at = now;
    ++entry.untold;
    if (entry.told_at && now - *entry.told_at < kInterval) return;
    entry.told_at = now;
    times = std::exchange(entry.untold, 0);
  }
  base::LogWarning(shared ? "streams_refused" : "stream_refused")
      .With("group", group_name)
      .With("agent", agent_name)
      .With("times", times)
      .With("status",
            Cut(status.ToString(absl::StatusToStringMode::kWithNoExtraData), kStatusBytesMax));
}

void RefusalLog::LetIn(absl::string_view group, absl::string_view agent) {
  const std::string group_name = Cut(group);
  const std::string agent_name = Cut(agent);
  uint64_t times = 0;
  {
    base::MutexLock lock(mutex_);
    auto next = entries_.lower_bound(Key(group_name, agent_name, ""));
    while (next != entries_.end() && std::get<0>(next->first) == group_name &&
           std::get<1>(next->first) == agent_name) {
      times += next->second.untold;
      next = entries_.erase(next);
    }
  }
  if (times == 0) return;
  base::LogInfo("stream_refusals_over")
      .With("group", group_name)
      .With("agent", agent_name)
      .With("times", times);
}

}  // namespace understudy::server
