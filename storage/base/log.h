// storage/base/log.h
//
// A log line is an event and its keys, on standard error, with time and level in front:
//   2026-05-01T10:00:00.123Z I checkpoint_committed group=vm1 epoch=12 bytes=1560576 took=3.1ms
// Nothing logs per I/O.
//
// Who logs never waits for whoever reads standard error: a line is queued, and a thread writes it
// (log_writer.h). At most 1 MiB waits; beyond it lines are dropped and counted. A process that
// crashes may lose what is queued.
#ifndef UNDERSTUDY_STORAGE_BASE_LOG_H_
#define UNDERSTUDY_STORAGE_BASE_LOG_H_

#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace understudy::base {

// A fatal line is never dropped: the process ends.
enum class LogLevel { kInfo, kWarning, kError, kFatal };

// One line; queued when the object is destroyed, written in one write(2).
//   LogInfo("group_started").With("group", name).With("term", term);
class LogLine {
 public:
  LogLine(LogLevel level, absl::string_view event);
  ~LogLine();
  LogLine(LogLine&&) = delete;

  LogLine& With(absl::string_view key, absl::string_view value);  // quoted when it holds blanks
  LogLine& With(absl::string_view key, const std::string& value) {
    return With(key, absl::string_view(value));
  }
  LogLine& With(absl::string_view key, const char* value) {
    return With(key, absl::string_view(value));
  }
  LogLine& With(absl::string_view key, absl::Duration value) {
    return With(key, absl::FormatDuration(value));
  }
  LogLine& With(absl::string_view key, const absl::Status& status) {
    return With(key, status.ToString(absl::StatusToStringMode::kWithNoExtraData));
  }
  LogLine& With(absl::string_view key, bool value) { return With(key, value ? "true" : "false"); }
  template <typename Number>
  requires std::is_arithmetic_v<Number> LogLine& With(absl::string_view key, Number value) {
    return With(key, absl::StrCat(value));
  }

 private:
  LogLevel level_;
  std::string text_;
};

inline LogLine LogInfo(absl::string_view event) { return {LogLevel::kInfo, event}; }
inline LogLine LogWarning(absl::string_view event) { return {LogLevel::kWarning, event}; }
inline LogLine LogError(absl::string_view event) { return {LogLevel::kError, event}; }

// The text with time and level in front and a newline behind it.
std::string FormatLogLine(LogLevel level, absl::string_view text);

// Returns when what was logged so far was written, or after a second: its reader may stand still.
// Before an exec or an _exit; a process that returns from main() does it by itself.
void FlushLog();
// Lines that were dropped since the start, because nobody read or they could not be written.
uint64_t LogLinesDropped();
// Ends the process at once, without destructors of statics, which do not know the threads that were
// made. What was logged comes out first, then `last_words`, if any: a line for whoever started it.
// As FlushLog(), it waits a second at most.
[[noreturn]] void ExitWith(int exit_status, absl::string_view last_words = "");

// Where lines go instead of standard error, for tests; nullptr restores it.
void SetLogSinkForTest(std::function<void(LogLevel, absl::string_view)> sink);

// Ends the process with a message when `condition` does not hold: a promise of our own code is broken, and going on could
// damage data. On in every build.
[[noreturn]] void CheckFailed(const char* file, int line, absl::string_view condition,
                              absl::string_view message);

}  // namespace understudy::base

#define UNDERSTUDY_CHECK(condition, ...)                                              \
  do {                                                                                \
    if (!(condition)) [[unlikely]] {                                                  \
      ::understudy::base::CheckFailed(__FILE__, __LINE__, #condition,                 \
                                      ::absl::StrCat("" __VA_OPT__(, ) __VA_ARGS__)); \
    }                                                                                 \
  } while (false)

#endif  // UNDERSTUDY_STORAGE_BASE_LOG_H_
