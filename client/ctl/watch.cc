#include "client/ctl/watch.h"

#include <deque>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"

#include "client/ctl/interrupt.h"
#include "client/ctl/invocation.h"
#include "client/ctl/json.h"
#include "client/ctl/terminal.h"
#include "client/ctl/watch_view.h"
#include "client/rpc/control_client.h"
#include "storage/base/clock.h"
#include "storage/base/mutex.h"

namespace understudy::ctl {
namespace {

using client::ControlClient;
using client::WatchCall;

constexpr absl::Duration kRetry = absl::Milliseconds(500);
constexpr absl::Duration kSignalPoll = absl::Milliseconds(100);  // for signals
constexpr absl::Duration kRedraw = absl::Seconds(1);             // ages grow without a message
constexpr absl::Duration kRedrawMin = absl::Milliseconds(50);
constexpr size_t kQueueMax = 256;  // full: it reads no further, and the daemon waits

// The connection is lost, and made again; `over`: it is not, and this is the last thing told.
struct Lost {
  absl::Status status;
  bool over = false;
};
using News = std::variant<v1::WatchEvent, Lost>;

// Reads the stream on a thread of its own, and the next one when it breaks.
class Follower {
 public:
  Follower(ControlClient& client, v1::WatchRequest request, absl::Duration timeout,
           const base::Clock& clock)
      : client_(client),
        request_(std::move(request)),
        timeout_(timeout),
        clock_(clock),
        last_contact_(clock.Monotonic()),
        thread_([this] { Run(); }) {}
  ~Follower() {
    {
      base::MutexLock lock(mutex_);
      stopping_ = true;
      changed_.NotifyAll();
      if (call_ != nullptr) call_->Cancel();
    }
    thread_.join();
  }

  // Nothing when nothing has come for `wait`.
  std::optional<News> Next(absl::Duration wait) {
    base::MutexLock lock(mutex_);
    if (queue_.empty()) changed_.WaitFor(mutex_, wait);
    if (queue_.empty()) return std::nullopt;
    News news = std::move(queue_.front());
    queue_.pop_front();
    changed_.NotifyAll();
    return news;
  }

 private:
  void Run() {
    while (true) {
      const absl::Status status = RunOnce();
      const bool passes = absl::IsUnavailable(status) || absl::IsCancelled(status);
      const bool over = !passes || clock_.Monotonic() - last_contact_ >= timeout_;
      if (!Push(Lost{.status = status, .over = over}) || over || !Pause()) return;
    }
  }

  // One stream, to its end.
  absl::Status RunOnce() {
    WatchCall* call = nullptr;
    {
      base::MutexLock lock(mutex_);
      if (stopping_) return absl::CancelledError("interrupted");
      call_ = client_.Watch(request_);
      call = call_.get();
    }
    bool begun = false;
    while (std::optional<v1::WatchEvent> event = call->Read()) {
      begun = true;
      if (!event->resume_token().empty()) request_.set_resume_token(event->resume_token());
      if (!Push(*std::move(event))) call->Cancel();
    }
    const absl::Status status = call->Finish();
    // A stream that has begun had contact to its end, whether there was something to tell or not.
    if (begun) last_contact_ = clock_.Monotonic();
    return status;
  }

  bool Push(News news) {
    base::MutexLock lock(mutex_);
    while (queue_.size() >= kQueueMax && !stopping_) changed_.Wait(mutex_);
    if (stopping_) return false;
    queue_.push_back(std::move(news));
    changed_.NotifyAll();
    return true;
  }

  // False when it is to stop.
  bool Pause() {
    const absl::Duration until = clock_.Monotonic() + kRetry;
    base::MutexLock lock(mutex_);
    while (!stopping_ && clock_.Monotonic() < until) {
      changed_.WaitFor(mutex_, until - clock_.Monotonic());
    }
    return !stopping_;
  }

  ControlClient& client_;
  v1::WatchRequest request_;  // of the thread, as last_contact_
  const absl::Duration timeout_;
  const base::Clock& clock_;
  absl::Duration last_contact_;

  base::Mutex mutex_;
  base::CondVar changed_;
  std::deque<News> queue_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<WatchCall> call_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last
};

std::string Text(const absl::Status& status) {
  return absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message());
}

// Where the news go: a line each, or a screen.
class Printer {
 public:
  Printer(bool live, bool json, const std::string& server, const base::Clock& clock,
          std::ostream& out, std::ostream& error)
      : json_(json), server_(server), clock_(clock), out_(out), error_(error) {
    if (live) terminal_.emplace(out);
  }

  void Print(const News& news) {
    if (const auto* event = std::get_if<v1::WatchEvent>(&news)) {
      lost_.reset();
      view_.Add(*event);
      if (!terminal_) {
        out_ << (json_ ? ToJson(*event) + "\n" : view_.Line(*event)) << std::flush;
      }
    } else {
      Tell(std::get<Lost>(news));
    }
    changed_ = true;
  }

  // The screen, when it is time: at once after news, but not faster than eyes follow; else every second.
  void Draw() {
    const absl::Duration since = clock_.Monotonic() - drawn_;
    if (!terminal_ || since < (changed_ ? kRedrawMin : kRedraw)) return;
    DrawNow();
  }
  void DrawNow() {
    if (!terminal_) return;
    terminal_->Draw(view_.Screen(Heading(), terminal_->size().rows));
    drawn_ = clock_.Monotonic();
    changed_ = false;
  }

 private:
  // Once per outage.
  void Tell(const Lost& lost) {
    if (!terminal_ && !lost_ && !lost.over) {
      error_ << "connection lost, trying again: " << Text(lost.status) << std::endl;
    }
    lost_ = lost.status;
  }

  std::string Heading() const {
    const std::string now = absl::FormatTime("%H:%M:%SZ", clock_.Now(), absl::UTCTimeZone());
    if (lost_) {
      return absl::StrCat(server_, "  ", now, "  CONNECTION LOST, trying again: ", Text(*lost_));
    }
    return absl::StrCat(server_, "  ", now, "  live; Ctrl-C ends");
  }

  const bool json_;
  const std::string& server_;
  const base::Clock& clock_;
  std::ostream& out_;
  std::ostream& error_;
  WatchView view_{clock_};
  std::optional<Terminal> terminal_;
  std::optional<absl::Status> lost_;  // since then no message has come
  bool changed_ = true;
  absl::Duration drawn_ = -absl::InfiniteDuration();
};

// As the errors of calls that find nobody: see ControlClient::Reached().
absl::Status Unreached(const absl::Status& status, const std::string& address) {
  if (!absl::IsUnavailable(status) && !absl::IsCancelled(status)) return status;
  return absl::UnavailableError(absl::StrCat("cannot reach ", address, ": ", status.message()));
}

}  // namespace

absl::Status Watch(const WatchCommand& command, const Invocation& invocation, ControlClient& client,
                   const base::Clock& clock, std::ostream& out, std::ostream& error) {
  const CatchSignals signals;
  Printer printer(command.live, invocation.json, invocation.server, clock, out, error);
  Follower follower(client, command.request, invocation.timeout, clock);
  while (!CatchSignals::interrupted() && out.good()) {
    const std::optional<News> news = follower.Next(kSignalPoll);
    if (news) printer.Print(*news);
    printer.Draw();
    const Lost* const lost = news ? std::get_if<Lost>(&*news) : nullptr;
    if (lost == nullptr || !lost->over) continue;
    printer.DrawNow();
    return Unreached(lost->status, invocation.server);
  }
  printer.DrawNow();
  return absl::OkStatus();
}

}  // namespace understudy::ctl
