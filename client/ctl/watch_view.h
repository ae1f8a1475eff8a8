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

namespace understudy::v1 {
class WatchEvent;
}  // namespace understudy::v1

namespace understudy::ctl {

// Bytes per second of a counter that is looked at now and then.
class Rate {
 public:
  // A counter that went back begins anew.
  void Add(uint64_t value, absl::Time now);
  // Over the last half second or more; 0 when nobody has looked for a while. Nothing before the second look.
  std::optional<double> At(absl::Time now) const;
  std::string Text(absl::Time now) const;  // "85 MiB/s"; "" when it is not known

 private:
  uint64_t value_ = 0;
  absl::Time since_ = absl::InfinitePast();  // value_ was looked at
  absl::Time seen_ = absl::InfinitePast();   // the last look
  std::optional<double> rate_;
};

class WatchView {
 public:
  WatchView();
  ~WatchView();

  // Takes in a message that came at `now`, from the daemon.
  void Add(const v1::WatchEvent& event, absl::Time now);

  // The message as a line for a log, with the rates as they are after Add(); "" for one that tells people nothing.
  std::string Line(const v1::WatchEvent& event, absl::Time now) const;
  // Everything, for a terminal of so many rows. `heading` is its first line.
  std::string Screen(const std::string& heading, int rows, absl::Time now) const;

 private:
  struct Group;

  std::string Details(const Group& group, absl::Time now) const;
  std::string Summary(absl::Time now) const;

  std::map<std::string, std::unique_ptr<Group>> groups_;
  std::deque<std::string> events_;  // lines, oldest first
};

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_WATCH_VIEW_H_
