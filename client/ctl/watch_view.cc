#include "client/ctl/watch_view.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "client/ctl/json.h"
#include "client/ctl/progress.h"
#include "client/ctl/table.h"
#include "client/ctl/units.h"
#include "client/ctl/views.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::ctl {
namespace {

constexpr absl::Duration kRateSpan = absl::Milliseconds(500);
constexpr absl::Duration kRateStale = absl::Milliseconds(2500);
constexpr size_t kEventsKept = 200;
constexpr int kEventsShown = 8;

std::string StageOf(const v1::WatchEvent& event) {
  return EnumName(*v1::Stage_descriptor(), event.stage());
}

std::string KindOf(const v1::WatchEvent& event) {
  return EnumName(*v1::WatchKind_descriptor(), event.kind());
}

std::string CheckpointText(const v1::WatchEvent& event) {
  std::string text = absl::StrCat("epoch ", event.epoch(), " committed");
  if (event.duration_micros() == 0) return text;
  return absl::StrCat(text, ", ", HumanBytes(event.bytes()), " in ",
                      HumanSeconds(static_cast<double>(event.duration_micros()) / 1e6));
}

std::string WithDetail(const std::string& text, const v1::WatchEvent& event) {
  return event.detail().empty() ? text : absl::StrCat(text, ": ", event.detail());
}

// What an event says, without its group and time; "" for what is no event.
std::string EventText(const v1::WatchEvent& event) {
  switch (event.kind()) {
    case v1::WATCH_KIND_GAP:
      return WithDetail("events may be missing here; the state as it is now follows", event);
    case v1::WATCH_KIND_OPENED:
      return "opened";
    case v1::WATCH_KIND_REMOVED:
      return "removed";
    case v1::WATCH_KIND_STAGE:
      return event.term() == 0 ? StageOf(event)
                               : absl::StrCat(StageOf(event), ", term ", event.term());
    case v1::WATCH_KIND_CHECKPOINT:
      return CheckpointText(event);
    case v1::WATCH_KIND_CONNECTED:
      return WithDetail(absl::StrCat("connected in term ", event.term()), event);
    case v1::WATCH_KIND_DISCONNECTED:
      return WithDetail("disconnected", event);
    case v1::WATCH_KIND_INCOMPLETE:
      return "operations are missing: no checkpoint can commit";
    case v1::WATCH_KIND_COMPLETE:
      return "no operations are missing any more";
    case v1::WATCH_KIND_FENCED:
      return WithDetail("fenced", event);
    case v1::WATCH_KIND_ERROR:
      return ErrorLine(event.error());
    case v1::WATCH_KIND_JOB_BEGUN:
      return absl::StrCat(event.job(), " job begun");
    case v1::WATCH_KIND_JOB_ENDED:
      return WithDetail(absl::StrCat(event.job(), " job ended"), event);
    case v1::WATCH_KIND_HANDED_OVER:
      return "the primary has handed over: the standby can be promoted without loss";
    case v1::WATCH_KIND_HANDOVER_TAKEN_BACK:
      return "the hand-over was taken back: the primary may write again";
    default:
      return "";
  }
}

std::string LogLine(const v1::WatchEvent& event, const std::string& text) {
  const std::string time = absl::FormatTime(
      "%Y-%m-%dT%H:%M:%E3SZ", absl::FromUnixMicros(event.unix_micros()), absl::UTCTimeZone());
  return absl::StrFormat("%s %-12s %s\n", time, KindOf(event),
                         event.group().empty() ? text : absl::StrCat(event.group(), ": ", text));
}

double ShareOf(const v1::JobStatus& job) {
  if (job.total_bytes() == 0) return 1;
  return std::min(1.0,
                  static_cast<double>(job.done_bytes()) / static_cast<double>(job.total_bytes()));
}

std::string JobLine(const v1::JobStatus& job, const std::string& rate) {
  const double share = ShareOf(job);
  return absl::StrFormat("  %-11s %s %.0f %%, %s of %s%s%s\n", job.kind(), Bar(share), 100 * share,
                         HumanBytes(job.done_bytes()), HumanBytes(job.total_bytes()),
                         rate.empty() ? "" : ", ", rate);
}

int LinesOf(const std::string& text) {
  return static_cast<int>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace

void Rate::Add(uint64_t value, absl::Duration now) {
  seen_ = now;
  if (!since_.has_value() || value < value_) {
    value_ = value;
    since_ = now;
    rate_.reset();
    return;
  }
  if (now - *since_ < kRateSpan) return;
  rate_ = static_cast<double>(value - value_) / absl::ToDoubleSeconds(now - *since_);
  value_ = value;
  since_ = now;
}

std::optional<double> Rate::At(absl::Duration now) const {
  if (!rate_) return rate_;
  return now - seen_ > kRateStale ? 0 : *rate_;
}

std::string Rate::Text(absl::Duration now) const {
  const std::optional<double> rate = At(now);
  return rate ? HumanBytes(static_cast<uint64_t>(*rate)) + "/s" : "";
}

struct WatchView::Group {
  v1::GroupStatus status;
  Rate received;
  std::map<std::string, Rate> jobs;  // by kind
  bool stale = false;                // from before a GAP: gone unless a SNAPSHOT follows
};

WatchView::WatchView(const base::Clock& clock) : clock_(clock) {}
WatchView::~WatchView() = default;

void WatchView::Add(const v1::WatchEvent& event) {
  const absl::Duration now = clock_.Monotonic();
  if (event.kind() == v1::WATCH_KIND_GAP) {
    for (auto& [name, group] : groups_) group->stale = true;
  }
  if (event.kind() == v1::WATCH_KIND_CURRENT) {
    std::erase_if(groups_, [](const auto& entry) { return entry.second->stale; });
  }
  if (event.has_status()) {
    std::unique_ptr<Group>& known = groups_[event.group()];
    if (known == nullptr) known = std::make_unique<Group>();
    Group& group = *known;
    group.stale = false;
    group.status = event.status();
    group.received.Add(group.status.received_bytes(), now);
    std::map<std::string, Rate> jobs;  // of those that run
    for (const v1::JobStatus& job : group.status.jobs()) {
      Rate& rate = jobs[job.kind()] = group.jobs[job.kind()];
      rate.Add(job.done_bytes(), now);
    }
    group.jobs = std::move(jobs);
  } else if (event.kind() == v1::WATCH_KIND_REMOVED) {
    groups_.erase(event.group());
  }
  const std::string text = EventText(event);
  if (text.empty()) return;
  events_.push_back(LogLine(event, text));
  if (events_.size() > kEventsKept) events_.pop_front();
}

std::string WatchView::Line(const v1::WatchEvent& event) const {
  if (const std::string text = EventText(event); !text.empty()) return LogLine(event, text);
  const auto group = groups_.find(event.group());
  if (!event.has_status() || group == groups_.end()) return "";
  return LogLine(event, GroupLine(event.status(), clock_.Now(),
                                  group->second->received.Text(clock_.Monotonic())));
}

std::string WatchView::Details(const Group& group) const {
  const absl::Duration steady = clock_.Monotonic();
  const absl::Time now = clock_.Now();
  std::string text = GroupHead(group.status, now, group.received.Text(steady));
  for (const v1::JobStatus& job : group.status.jobs()) {
    const auto rate = group.jobs.find(job.kind());
    absl::StrAppend(&text, JobLine(job, rate == group.jobs.end() ? "" : rate->second.Text(steady)));
  }
  return text + ErrorLines(group.status, now);
}

// One line per group, for when not all of each has room.
std::string WatchView::Summary() const {
  const absl::Duration now = clock_.Monotonic();
  Table table({"GROUP", "STAGE", "SYNC", "CONNECTED", "COMMITTED", "LAG", "RATE", "JOB", "ERRORS"});
  for (const auto& [name, group] : groups_) {
    const v1::GroupStatus& status = group->status;
    std::string job;
    for (const v1::JobStatus& running : status.jobs()) {
      absl::StrAppend(&job, job.empty() ? "" : ", ",
                      absl::StrFormat("%s %.0f %%", running.kind(), 100 * ShareOf(running)));
    }
    table.Add({name, EnumName(*v1::Stage_descriptor(), status.stage()),
               status.sync_state() == v1::SYNC_STATE_UNSPECIFIED
                   ? ""
                   : EnumName(*v1::SyncState_descriptor(), status.sync_state()),
               status.connected() ? "yes" : "no", absl::StrCat(status.committed_epoch()),
               HumanSeconds(status.lag_seconds()), group->received.Text(now), job,
               status.errors().empty() ? "" : absl::StrCat(status.errors_size())});
  }
  return table.Render();
}

std::string WatchView::Screen(const std::string& heading, int rows) const {
  const int room = rows - 3;  // the heading, a blank line, the cursor's
  std::string groups;
  for (const auto& [name, group] : groups_) {
    absl::StrAppend(&groups, groups.empty() ? "" : "\n", Details(*group));
    if (LinesOf(groups) > room) break;
  }
  if (LinesOf(groups) > room) groups = Summary();
  if (groups_.empty()) groups = "no groups\n";
  std::string text = absl::StrCat(heading, "\n\n", groups);
  const int events =
      std::min({room - LinesOf(groups) - 1, kEventsShown, static_cast<int>(events_.size())});
  if (events <= 0) return text;
  text += "\n";
  for (size_t i = events_.size() - static_cast<size_t>(events); i < events_.size(); ++i) {
    text += events_[i];
  }
  return text;
}

}  // namespace understudy::ctl
