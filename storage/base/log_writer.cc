#include "storage/base/log_writer.h"

#include <algorithm>
#include <cerrno>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/clock.h"
#include "storage/base/log.h"

namespace understudy::base {
namespace {

// False: it cannot be written. Waits as long as the reader takes.
bool WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written > 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (written < 0 && errno == EAGAIN) {
      // Whoever shares the descriptor has made it non-blocking.
      pollfd room = {.fd = fd, .events = POLLOUT, .revents = 0};
      (void)poll(&room, 1, -1);
    } else if (written == 0 || errno != EINTR) {
      return false;
    }
  }
  return true;
}

uint64_t Lines(absl::string_view text) {
  return static_cast<uint64_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace

LogWriter::~LogWriter() {
  std::thread thread;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    wake_.NotifyAll();
    thread.swap(thread_);
  }
  if (thread.joinable()) thread.join();
}

void LogWriter::Append(absl::string_view line, bool last_word) {
  if (Forked()) {
    WriteAll(fd_, line);
    return;
  }
  MutexLock lock(mutex_);
  if (queued_.empty() && being_written_ == 0) full_ = false;  // as after a write that failed
  full_ = full_ || queued_.size() + being_written_ + line.size() > bytes_max_;
  if (full_ && !last_word) {
    ++dropped_;
    ++untold_;
    return;
  }
  queued_.append(line.data(), line.size());
  if (process_ == 0) StartLocked();
  wake_.NotifyOne();
}

bool LogWriter::Flush(absl::Duration patience) {
  const Clock& clock = Clock::Real();
  const absl::Duration until = clock.Monotonic() + patience;
  if (Forked()) return true;
  MutexLock lock(mutex_);
  while (!queued_.empty() || being_written_ > 0) {
    const absl::Duration left = until - clock.Monotonic();
    if (left <= absl::ZeroDuration()) return false;
    idle_.WaitFor(mutex_, left);
  }
  return true;
}

uint64_t LogWriter::lines_dropped() const {
  MutexLock lock(mutex_);
  return dropped_;
}

bool LogWriter::Forked() const { return process_ != 0 && process_ != getpid(); }

void LogWriter::StartLocked() {
  process_ = getpid();
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { Run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void LogWriter::Run() {
  pthread_setname_np(pthread_self(), "log");
  while (true) {
    std::string lines;
    uint64_t told = 0;
    {
      MutexLock lock(mutex_);
      while (!stopping_ && queued_.empty() && (untold_ == 0 || failed_)) wake_.Wait(mutex_);
      if (stopping_) return;
      lines.swap(queued_);
      full_ = false;
      told = std::exchange(untold_, 0);
      being_written_ = lines.size();
    }
    if (told > 0) {
      lines += FormatLogLine(LogLevel::kWarning, absl::StrCat("log_lines_dropped lines=", told));
    }
    const absl::string_view lost = Write(lines);
    MutexLock lock(mutex_);
    being_written_ = 0;
    failed_ = !lost.empty();
    if (failed_) {
      const uint64_t count = Lines(lost) - (told > 0 ? 1 : 0);  // what is to be told again is none
      dropped_ += count;
      untold_ += told + count;
    }
    idle_.NotifyAll();
  }
}

absl::string_view LogWriter::Write(absl::string_view lines) const {
  // One write(2) for each, so that a pipe with other writers does not mix them.
  while (!lines.empty()) {
    const absl::string_view line = lines.substr(0, lines.find('\n') + 1);
    if (!WriteAll(fd_, line)) return lines;
    lines.remove_prefix(line.size());
  }
  return lines;
}

}  // namespace understudy::base
