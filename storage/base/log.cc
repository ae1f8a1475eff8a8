#include "storage/base/log.h"

#include <algorithm>
#include <cstdlib>
#include <unistd.h>

#include "absl/time/clock.h"

#include "storage/base/log_writer.h"
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
    case LogLevel::kFatal:
      return 'F';
  }
  return '?';
}

constexpr size_t kQueuedBytesMax = 1 << 20;
// For a reader that is slow; one that stands still must not keep the process.
constexpr absl::Duration kFlushPatience = absl::Seconds(1);

// Never deleted: whoever ends may still log.
LogWriter& Writer() {
  static LogWriter* const writer = [] {
    std::atexit(FlushLog);
    return new LogWriter(STDERR_FILENO, kQueuedBytesMax);
  }();
  return *writer;
}

}  // namespace

LogLine::LogLine(LogLevel level, absl::string_view event) : level_(level), text_(event) {}

LogLine& LogLine::With(absl::string_view key, absl::string_view value) {
  absl::StrAppend(&text_, " ", key, "=");
  const auto plain = [](unsigned char c) { return c > ' ' && c != '"' && c != '=' && c != 0x7f; };
  if (!value.empty() && std::all_of(value.begin(), value.end(), plain)) {
    text_.append(value.data(), value.size());
    return *this;
  }
  text_.push_back('"');
  for (const char c : value) {
    if (c == '"' || c == '\\') text_.push_back('\\');
    if (c == '\n') {
      text_.append("\\n");
    } else if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) {  // a terminal would obey it
      absl::StrAppend(&text_, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
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
  Writer().Append(FormatLogLine(level_, text_), /*last_word=*/level_ == LogLevel::kFatal);
}

std::string FormatLogLine(LogLevel level, absl::string_view text) {
  const std::string time =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  const char letter[] = {' ', Letter(level), ' ', '\0'};
  return absl::StrCat(time, letter, text, "\n");
}

void FlushLog() { Writer().Flush(kFlushPatience); }

uint64_t LogLinesDropped() { return Writer().lines_dropped(); }

void ExitWith(int exit_status, absl::string_view last_words) {
  if (!last_words.empty()) Writer().Append(absl::StrCat(last_words, "\n"), /*last_word=*/true);
  FlushLog();
  _exit(exit_status);
}

void SetLogSinkForTest(std::function<void(LogLevel, absl::string_view)> sink) {
  Sink& target = TestSink();
  MutexLock lock(target.mutex);
  target.function = std::move(sink);
}

void CheckFailed(const char* file, int line, absl::string_view condition,
                 absl::string_view message) {
  LogLine(LogLevel::kFatal, "check_failed")
      .With("at", absl::StrCat(file, ":", line))
      .With("condition", condition)
      .With("message", message);
  FlushLog();
  std::abort();
}

}  // namespace understudy::base
