#include "client/error_log.h"

#include "storage/base/log.h"

namespace understudy::client {

void ErrorLog::Latch(const std::string& volume, const std::string& operation,
                     const absl::Status& status, ByteRange range) {
  {
    base::MutexLock lock(mutex_);
    if (!log_.Latch(volume, operation, range, status, clock_.Now())) return;
  }
  base::LogError("error_latched")
      .With("group", group_)
      .With("volume", volume)
      .With("operation", operation)
      .With("error", status);
}

void ErrorLog::Clear() {
  base::MutexLock lock(mutex_);
  log_.ClearBefore(log_.Mark());
}

std::vector<base::LatchedError> ErrorLog::errors() const {
  base::MutexLock lock(mutex_);
  return log_.errors();
}

bool ErrorLog::empty() const {
  base::MutexLock lock(mutex_);
  return log_.errors().empty();
}

}  // namespace understudy::client
