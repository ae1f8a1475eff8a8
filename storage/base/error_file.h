// storage/base/error_file.h
//
// ErrorFile keeps the latched errors of one group in a small file, so that GetError tells the truth after a restart of the daemon
// too. The file is replaced atomically, behind the events: latching an error never waits for it.
//
//     understudy errors 1
//     era TEXT
//     error VOLUME OPERATION CODE REASON OFFSET LENGTH FIRST LAST COUNT BYTES MESSAGE     one line each, fields by tabs, C escapes
//     crc32c HEX                                                                          of everything before this line
//
// Era      names the run that the errors belong to, in the owner's words. Clearing the errors changes the era at once, so a file
//          that a crash has left from before is known for what it is: Load() gives its era, and the owner drops what is not its own.
// Durable  a change is on its way at most kDelay after Changed(), many in one write; a crash loses at most that. A store that fails
//          (a full disk may be the very error) is tried again every kRetry; until then memory is all there is.
// Damage   is logged and read as "no errors": it never keeps a group from opening.
// Threads  all methods from any thread; Store() does I/O, one at a time. Changed() takes a leaf lock and may be called under the
//          lock that the snapshot takes; Store() and Close() must not.
#ifndef UNDERSTUDY_STORAGE_BASE_ERROR_FILE_H_
#define UNDERSTUDY_STORAGE_BASE_ERROR_FILE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "storage/base/error_log.h"
#include "storage/base/file_system.h"
#include "storage/base/mutex.h"
#include "storage/base/turn.h"
#include "storage/base/worker_pool.h"

namespace understudy::base {

struct KeptErrors {
  std::string era;
  std::vector<LatchedError> errors;
};

std::string EncodeErrors(const KeptErrors& kept);
// kDataLoss when the bytes are not such a file, or not whole.
absl::StatusOr<KeptErrors> DecodeErrors(absl::string_view text);

class ErrorFile : public std::enable_shared_from_this<ErrorFile> {
 public:
  static constexpr absl::Duration kDelay = absl::Milliseconds(500);
  static constexpr absl::Duration kRetry = absl::Seconds(10);

  // `file_system` and `pool` outlive the file; its directory is made with the first error. `group` is for the log.
  static std::shared_ptr<ErrorFile> Create(FileSystem& file_system, std::string path,
                                           WorkerPool& pool, std::string group);

  // What the file says; nothing when there is none or it is damaged.
  KeptErrors Load();
  // Its errors, each logged, when they are of this era. Of another one they were cleared: a crash came between a Start or Stop and the
  // new file.
  std::vector<LatchedError> Restore(absl::string_view era);
  // `snapshot` gives what the file should say, until Close(), which waits for a store that runs. Without errors there is no file.
  void Follow(std::function<KeptErrors()> snapshot);
  void Close();
  void Changed();
  // Now, when something has changed since the last time.
  absl::Status Store();

 private:
  ErrorFile(FileSystem& file_system, std::string path, WorkerPool& pool, std::string group)
      : file_system_(file_system), path_(std::move(path)), pool_(pool), group_(std::move(group)) {}
  void Schedule(absl::Duration delay);
  void StoreInBackground();
  absl::Status Write(const KeptErrors& kept);

  FileSystem& file_system_;
  const std::string path_;
  WorkerPool& pool_;
  const std::string group_;
  Turn turn_;  // one store at a time; guards the two below
  std::function<KeptErrors()> snapshot_;
  bool failing_ = false;
  Mutex mutex_;
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;
  bool scheduled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_ERROR_FILE_H_
