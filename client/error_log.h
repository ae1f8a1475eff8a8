// client/error_log.h
//
// The latched errors of a group, for GetError. Equal ones (volume, operation, code, message) are counted, so messages hold
// no changing figures; those are in LatchedError::range and count. At most 64 different ones are kept; later ones are logged
// and counted only. Thread-safe.
#ifndef UNDERSTUDY_CLIENT_ERROR_LOG_H_
#define UNDERSTUDY_CLIENT_ERROR_LOG_H_

#include <string>
#include <vector>

#include "client/client_types.h"
#include "storage/base/clock.h"
#include "storage/base/mutex.h"

namespace understudy::client {

class ErrorLog {
 public:
  // `clock` outlives this.
  ErrorLog(std::string group, const base::Clock& clock) : group_(std::move(group)), clock_(clock) {}

  void Latch(const std::string& volume, const std::string& operation, const absl::Status& status,
             ByteRange range = {});
  void Clear();
  std::vector<LatchedError> errors() const;  // oldest first
  bool empty() const;

 private:
  const std::string group_;
  const base::Clock& clock_;
  mutable base::Mutex mutex_;
  std::vector<LatchedError> errors_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_ERROR_LOG_H_
