// storage/base/error_log.h
//
// The latched errors of a group: what GetError answers. Equal errors (same volume, operation, code and reason) are counted,
// with the newest message and range. At most kErrorsMax different ones; later ones are only counted in the last entry.
// Clearing  a call that clears what came before it (Start, Stop) takes Mark() when it begins and ClearBefore() when it has
//          succeeded: what was latched meanwhile, by the job that it started, stays; after a failed call everything does.
// Threads  none of its own; its owner's mutex guards it.
#ifndef UNDERSTUDY_STORAGE_BASE_ERROR_LOG_H_
#define UNDERSTUDY_STORAGE_BASE_ERROR_LOG_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

#include "storage/base/byte_range.h"

namespace understudy::base {

struct LatchedError {
  std::string volume;  // empty: of the group as a whole
  std::string
      operation;  // write, apply, commit, read, open, scrub, checkpoint, forward, connect, state
  absl::StatusCode code = absl::StatusCode::kUnknown;
  std::string message;
  std::string reason;  // as storage/base/reason.h; may be empty
  ByteRange range;     // the newest; empty: none
  absl::Time first;
  absl::Time last;
  uint64_t count = 0;
  uint64_t bytes = 0;       // of all ranges, overlaps counted again
  uint64_t generation = 0;  // of the log when it was latched
};

class ErrorLog {
 public:
  static constexpr size_t kErrorsMax = 64;

  // True when it is a new one, worth a log line.
  bool Latch(const std::string& volume, const std::string& operation, ByteRange range,
             const absl::Status& status, absl::Time now);
  // Those of an earlier run of the daemon; later equal ones are counted in them. REQUIRES: nothing was latched or marked yet.
  void Restore(std::vector<LatchedError> errors) { errors_ = std::move(errors); }
  // Errors of before and after it are kept apart.
  uint64_t Mark() { return ++generation_; }
  void ClearBefore(uint64_t mark);
  // Everything was read and found whole since `mark`.
  void ClearDataLossBefore(uint64_t mark);
  // A checkpoint has committed the resync of missed writes, which are errors of `operation`. DATA_LOSS stays.
  void ClearMissedWrites(const std::string& operation = "write");
  // Those of `seen`, but for what was counted again since then.
  void Forget(const std::vector<LatchedError>& seen);
  // What `operation` found has been made good.
  void ClearOperation(const std::string& operation);
  // Whether there are errors of an incomplete group.
  bool HasMissedWrites() const;

  // Which extents the errors of `operation` name, by volume: "volume vda: 2 times, 8192 bytes, the newest [4096, 8192)".
  // Empty: none.
  std::string Extents(const std::string& operation) const;

  const std::vector<LatchedError>& errors() const { return errors_; }

 private:
  std::vector<LatchedError> errors_;
  uint64_t generation_ = 0;
};

// The answer to who wants to acknowledge an error that is not over: kFailedPrecondition with the
// error and its `cause`.
absl::Status LastsError(const std::string& group, const LatchedError& error,
                        const std::string& cause);
// The answer to who has acknowledged errors and `stored` is why a restart would bring them back; OK
// when it is.
absl::Status ClearedUntilRestart(const std::string& group, const absl::Status& stored);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_ERROR_LOG_H_
