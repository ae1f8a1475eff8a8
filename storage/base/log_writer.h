// storage/base/log_writer.h
//
// LogWriter brings log lines to a file descriptor whose reader may stand still: nobody who logs
// ever waits for it.
//
// Bound    of what is queued and being written, in bytes. A line that does not fit is dropped and
//          counted, and so are those after it, until the writer has taken what is queued: then one
//          line, log_lines_dropped, says how many are missing at that place.
// Threads  Any may call, also while it holds a leaf lock: the lock here is one itself, and no I/O
//          is done under it. One thread of its own writes, made with the first line, with every
//          signal blocked. A child that was forked afterwards has none, and writes itself.
// Errors   A line that cannot be written (the reader has gone, the disk is full) counts as dropped.
#ifndef UNDERSTUDY_STORAGE_BASE_LOG_WRITER_H_
#define UNDERSTUDY_STORAGE_BASE_LOG_WRITER_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <sys/types.h>
#include <thread>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "storage/base/mutex.h"

namespace understudy::base {

class LogWriter {
 public:
  // `fd` is the caller's, and open as long as this lives.
  LogWriter(int fd, size_t bytes_max) : fd_(fd), bytes_max_(bytes_max) {}
  // Waits for the line that is being written; the rest is lost.
  ~LogWriter();

  // `line` ends in its only newline. A last word is queued whatever the bound says: the process is
  // about to end.
  void Append(absl::string_view line, bool last_word = false);
  // Returns when everything so far was written, or has failed: true. False: not within `patience`.
  bool Flush(absl::Duration patience);
  uint64_t lines_dropped() const;  // since the start

 private:
  // Asked without the mutex, which the writer may have held when the process was forked.
  bool Forked() const;
  void StartLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Run();
  // What could not be written, beginning with the line that was torn.
  absl::string_view Write(absl::string_view lines) const;

  const int fd_;
  const size_t bytes_max_;
  mutable Mutex mutex_;
  CondVar wake_;  // the writer
  CondVar idle_;  // Flush()
  std::string queued_ ABSL_GUARDED_BY(mutex_);
  size_t being_written_ ABSL_GUARDED_BY(mutex_) = 0;  // bytes
  bool full_ ABSL_GUARDED_BY(mutex_) = false;         // lines are dropped until `queued_` was taken
  uint64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t untold_ ABSL_GUARDED_BY(mutex_) = 0;  // of those
  bool failed_ ABSL_GUARDED_BY(mutex_) =
      false;  // the last write: what is untold waits for the next line
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<pid_t> process_ = 0;  // that `thread_` runs in; 0: there is none yet
  std::thread thread_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_LOG_WRITER_H_
