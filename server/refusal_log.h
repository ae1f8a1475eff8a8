// server/refusal_log.h
//
// RefusalLog is what the log says of refused write streams. An agent that is refused asks again
// twice a second, for days when nobody declares its group: so each refusal is a line the first
// time, and then a count once an hour. The count also comes when the agent is let in.
//
// Same     a refusal is the same as one before when group, agent, code and reason are. The text may
//          differ.
// Memory   at most kEntriesMax of them, with names cut to what a name may be long. One that did not
//          come for an hour makes room, and what comes beyond them is counted together
//          ("streams_refused", with the newest names).
// Threads  all methods from any thread.
#ifndef UNDERSTUDY_SERVER_REFUSAL_LOG_H_
#define UNDERSTUDY_SERVER_REFUSAL_LOG_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "storage/base/clock.h"
#include "storage/base/mutex.h"

namespace understudy::server {

class RefusalLog {
 public:
  static constexpr size_t kEntriesMax = 1024;
  static constexpr absl::Duration kInterval = absl::Hours(1);

  // `clock` outlives it.
  explicit RefusalLog(const base::Clock& clock) : clock_(clock) {}

  // `group` and `agent` as they came: they may be of any length and hold any bytes.
  void Refused(absl::string_view group, absl::string_view agent, const absl::Status& status);
  // Tells what was not told yet. What is refused from now on is new.
  void LetIn(absl::string_view group, absl::string_view agent);

 private:
  struct Entry {
    uint64_t untold = 0;  // refusals since the last line
    absl::Duration at;    // of the newest refusal
    std::optional<absl::Duration> told_at;
  };
  using Key = std::tuple<std::string, std::string, std::string>;  // group, agent, code and reason

  const base::Clock& clock_;
  base::Mutex mutex_;
  std::map<Key, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  Entry others_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_REFUSAL_LOG_H_
