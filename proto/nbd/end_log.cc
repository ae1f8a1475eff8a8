#include "proto/nbd/end_log.h"

#include <utility>

#include "storage/base/clock.h"
#include "storage/base/log.h"

namespace understudy::nbd {

void EndLog::Ended(const Peer& peer, const std::string& name, End why, absl::string_view text) {
  uint64_t left_out = 0;
  {
    base::MutexLock lock(mutex_);
    const absl::Duration now = base::Clock::Real().Monotonic();
    if (now - since_ >= kInterval) {
      since_ = now;
      lines_ = 0;
    }
    if (++lines_ > kLinesMax) {
      ++left_out_;
      return;
    }
    left_out = std::exchange(left_out_, 0);
  }
  base::LogLine line(base::LogLevel::kWarning, "nbd_client_ended");
  line.With("why", kEndNames[static_cast<size_t>(why)]).With("pid", peer.pid).With("uid", peer.uid);
  if (!name.empty()) line.With("export", name);
  line.With("reason", text);
  if (left_out > 0) line.With("left_out", left_out);
}

}  // namespace understudy::nbd
