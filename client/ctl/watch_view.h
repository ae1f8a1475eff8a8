// client/ctl/watch_view.h
//
// What `watch` knows and shows: the newest status of each group with its rates, and the last events. It neither asks nor waits.
#ifndef UNDERSTUDY_CLIENT_CTL_WATCH_VIEW_H_
#define UNDERSTUDY_CLIENT_CTL_WATCH_VIEW_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"

#include "storage/base/clock.h"

namespace understudy::v1 {
class WatchEvent;
}  // namespace understudy::v1

namespace understudy::ctl {

// Bytes per second of a counter that is looked at now and then. Times are Clock::Monotonic().
class Rate {
 public:
  // A counter that went back begins anew.
  void Add(uint64_t value, absl::Duration now);
  // Over the last half second or more; 0 when nobody has looked for a while. Nothing before the second look.
  std::optional<double> At(absl::Duration now) const;
  std::string Text(absl::Duration now) const;  // "85 MiB/s"; "" when it is not known

 private:
  uint64_t value_ = 0;
  std::optional<absl::Duration> since_;  // value_ was looked at
  absl::Duration seen_;                  // the last look
  std::optional<double> rate_;
};

class WatchView {
 public:
  explicit WatchView(const base::Clock& clock);  // which outlives this
  ~WatchView();

  // Takes in a message that has come from the daemon.
  void Add(const v1::WatchEvent& event);

  // The message as a line for a log, with the rates as they are after Add(); "" for one that tells people nothing.
  std::string Line(const v1::WatchEvent& event) const;
  // Everything, for a terminal of so many rows. `heading` is its first line.
  std::string Screen(const std::string& heading, int rows) const;

 private:
  struct Group;

  std::string Details(const Group& group) const;
  std::string Summary() const;

  const base::Clock& clock_;
  std::map<std::string, std::unique_ptr<Group>> groups_;
  std::deque<std::string> events_;  // lines, oldest first
};

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_WATCH_VIEW_H_
