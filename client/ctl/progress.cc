#include "client/ctl/progress.h"

#include <algorithm>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "client/ctl/units.h"
#include "storage/base/clock.h"

namespace understudy::ctl {
namespace {
constexpr int kBarWidth = 30;
}  // namespace

std::string Bar(double share) {
  const int filled = std::clamp(static_cast<int>(share * kBarWidth), 0, kBarWidth);
  return absl::StrCat("[", std::string(static_cast<size_t>(filled), '#'),
                      std::string(static_cast<size_t>(kBarWidth - filled), '.'), "]");
}

std::string ProgressLine(const std::string& what, uint64_t done, uint64_t total,
                         double bytes_per_second) {
  const uint64_t left = total - std::min(done, total);
  const double share = total == 0 ? 1 : 1 - static_cast<double>(left) / static_cast<double>(total);
  std::string text = absl::StrFormat("%s %s %.0f %%, %s of %s", what, Bar(share), 100 * share,
                                     HumanBytes(done), HumanBytes(total));
  if (bytes_per_second >= 1) {
    absl::StrAppend(&text, ", ", HumanBytes(static_cast<uint64_t>(bytes_per_second)), "/s, ",
                    HumanSeconds(static_cast<double>(left) / bytes_per_second), " left");
  }
  return text + "\n";
}

Progress::Progress(bool live, std::ostream& out, std::ostream& lines) : lines_(lines) {
  if (live) terminal_.emplace(out);
}

void Progress::Show(const std::string& what, uint64_t done, uint64_t total) {
  const absl::Duration now = base::Clock::Real().Monotonic();
  if (!begun_.has_value() || done < done_at_begin_) {
    begun_ = now;
    done_at_begin_ = done;
  }
  const double seconds = absl::ToDoubleSeconds(now - *begun_);
  const double rate = seconds > 0 ? static_cast<double>(done - done_at_begin_) / seconds : 0;
  Say(ProgressLine(what, done, total, rate));
}

void Progress::Say(const std::string& text) {
  if (terminal_.has_value()) {
    terminal_->Draw(text);
  } else {
    if (text != said_) lines_ << text << std::flush;
    said_ = text;
  }
}

}  // namespace understudy::ctl
