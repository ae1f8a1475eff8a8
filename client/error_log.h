// client/error_log.h
//
// The latched errors of a group at the primary: base::ErrorLog for many threads, with a log line and an event for each new one.
// Messages hold no changing figures; those are in the range and the count. With KeepIn() they outlive the process.
//
// Threads  any, also under a leaf lock (the forwarder's): the line, one for each new error, and the
//          event are only queued in memory, and the file is written by a thread of its own.
#ifndef UNDERSTUDY_CLIENT_ERROR_LOG_H_
#define UNDERSTUDY_CLIENT_ERROR_LOG_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "storage/base/clock.h"
#include "storage/base/error_file.h"
#include "storage/base/error_log.h"
#include "storage/base/event_journal.h"
#include "storage/base/mutex.h"

namespace understudy::client {

class ErrorLog {
 public:
  // `clock` and `journal` (may be null) outlive this.
  ErrorLog(std::string group, const base::Clock& clock, base::EventJournal* journal = nullptr)
      : group_(std::move(group)), clock_(clock), journal_(journal) {}
  ~ErrorLog();

  void Latch(const std::string& volume, const std::string& operation, const absl::Status& status,
             ByteRange range = {});
  // All of them; what comes now belongs to `era` (storage/base/error_file.h).
  void Clear(const std::string& era = "");
  // Those of `seen`, which nobody has to know any more; see base::ErrorLog.
  void Forget(const std::vector<base::LatchedError>& seen);
  // Goes on with what `file` has of `era`, and follows from now on. Once, before anything else; `file` lives as long as this.
  void KeepIn(std::shared_ptr<base::ErrorFile> file, const std::string& era);
  // What was missed, or what a verify found, has been made good.
  void ClearMissed();
  void ClearVerify();
  // What the state directory could not take is in it now.
  void ClearState();
  // Brings what was latched to the file now: blocks. What fails was logged, and is tried again.
  absl::Status Store();
  std::vector<base::LatchedError> errors() const;  // oldest first
  bool empty() const;
  // As base::ErrorLog::Extents() of "forward": what was not forwarded.
  std::string MissedExtents() const;

 private:
  const std::string group_;
  const base::Clock& clock_;
  base::EventJournal* const journal_;
  mutable base::Mutex mutex_;
  base::ErrorLog log_ ABSL_GUARDED_BY(mutex_);
  std::string era_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<base::ErrorFile> file_;  // null: none; set before there are other threads
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_ERROR_LOG_H_
