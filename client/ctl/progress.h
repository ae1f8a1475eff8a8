// client/ctl/progress.h
//
// Progress shows how far a long job is: a bar with rate and time left, drawn in place on a terminal, else a line each time.
#ifndef UNDERSTUDY_CLIENT_CTL_PROGRESS_H_
#define UNDERSTUDY_CLIENT_CTL_PROGRESS_H_

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>

#include "absl/time/time.h"

#include "client/ctl/terminal.h"

namespace understudy::ctl {

// "[######....]", `share` of it full.
std::string Bar(double share);

// "vm1: resync [######....] 60 %, 6.0 GiB of 10 GiB, 200 MiB/s, 20 s left"; rate and time left from 1 byte per second on.
std::string ProgressLine(const std::string& what, uint64_t done, uint64_t total,
                         double bytes_per_second);

class Progress {
 public:
  // `live`: in place on `out`, else lines on `lines`. Both outlive this.
  Progress(bool live, std::ostream& out, std::ostream& lines);

  // Rates are since the first Show() of a job.
  void Show(const std::string& what, uint64_t done, uint64_t total);
  void Say(
      const std::string& text);  // instead of a bar; a line that is the last one again is left out

 private:
  std::optional<Terminal> terminal_;
  std::ostream& lines_;
  std::optional<absl::Duration> begun_;  // as Clock::Monotonic()
  uint64_t done_at_begin_ = 0;
  std::string said_;
};

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_PROGRESS_H_
