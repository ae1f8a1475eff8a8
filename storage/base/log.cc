#include "storage/base/log.h"

#include <cstdlib>
#include <unistd.h>

#include "absl/time/clock.h"

#include "storage/base/mutex.h"

namespace understudy::base {
namespace {

struct Sink {
  Mutex mutex;
  std::function<void(LogLevel, absl::string_view)> function ABSL_GUARDED_BY(mutex);
};
Sink& TestSink() {
  static Sink* const sink = new Sink;
  return *sink;
}

char Letter(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo:
      return 'I';
    case LogLevel::kWarning:
      return 'W';
    case LogLevel::kError:
      return 'E';
  }
  return '?';
}

void WriteToStandardError(absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0) return;  // nowhere left to complain
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace

LogLine::LogLine(LogLevel level, absl::string_view event) : level_(level), text_(event) {}

LogLine& LogLine::With(absl::string_view key, absl::string_view value) {
  absl::StrAppend(&text_, " ", key, "=");
  const bool quoted = value.empty() || value.find_first_of(" \"\n\t=") != absl::string_view::npos;
  if (!quoted) {
    text_.append(value.data(), value.size());
    return *this;
  }
  text_.push_back('"');
  for (const char c : value) {
    if (c == '"' || c == '\\') text_.push_back('\\');
    if (c == '\n') {
      text_.append("\\n");
    } else {
      text_.push_back(c);
    }
  }
  text_.push_back('"');
  return *this;
}

LogLine::~LogLine() {
  {
    Sink& sink = TestSink();
    MutexLock lock(sink.mutex);
    if (sink.function) {
      sink.function(level_, text_);
      return;
    }
  }
  const std::string time =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  const char letter[] = {' ', Letter(level_), ' ', '\0'};
  WriteToStandardError(absl::StrCat(time, letter, text_, "\n"));
}

void SetLogSinkForTest(std::function<void(LogLevel, absl::string_view)> sink) {
  Sink& target = TestSink();
  MutexLock lock(target.mutex);
  target.function = std::move(sink);
}

void CheckFailed(const char* file, int line, absl::string_view condition,
                 absl::string_view message) {
  {
    LogError("check_failed")
        .With("at", absl::StrCat(file, ":", line))
        .With("condition", condition)
        .With("message", message);
  }
  std::abort();
}

}  // namespace understudy::base
