// client/error_log.h
//
// The latched errors of a group at the primary: base::ErrorLog for many threads, with a log line for each new one. Messages hold
// no changing figures; those are in the range and the count.
#ifndef UNDERSTUDY_CLIENT_ERROR_LOG_H_
#define UNDERSTUDY_CLIENT_ERROR_LOG_H_

#include <string>
#include <utility>
#include <vector>

#include "storage/base/clock.h"
#include "storage/base/error_log.h"
#include "storage/base/mutex.h"

namespace understudy::client {

class ErrorLog {
 public:
  // `clock` outlives this.
  ErrorLog(std::string group, const base::Clock& clock) : group_(std::move(group)), clock_(clock) {}

  void Latch(const std::string& volume, const std::string& operation, const absl::Status& status,
             ByteRange range = {});
  void Clear();
  std::vector<base::LatchedError> errors() const;  // oldest first
  bool empty() const;

 private:
  const std::string group_;
  const base::Clock& clock_;
  mutable base::Mutex mutex_;
  base::ErrorLog log_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_ERROR_LOG_H_
