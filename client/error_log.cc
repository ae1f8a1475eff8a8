#include "client/error_log.h"

#include "storage/base/log.h"

namespace understudy::client {
namespace {
constexpr size_t kErrorsMax = 64;

bool SameText(const LatchedError& error, const std::string& volume, const std::string& operation,
              const absl::Status& status) {
  return error.volume == volume && error.operation == operation &&
         error.status.code() == status.code() && error.status.message() == status.message();
}
}  // namespace

void ErrorLog::Latch(const std::string& volume, const std::string& operation,
                     const absl::Status& status, ByteRange range) {
  const absl::Time now = clock_.Now();
  {
    base::MutexLock lock(mutex_);
    for (LatchedError& error : errors_) {
      if (!SameText(error, volume, operation, status)) continue;
      error.last = now;
      error.range = range;
      ++error.count;
      return;
    }
    if (errors_.size() < kErrorsMax) {
      errors_.push_back({.volume = volume,
                         .operation = operation,
                         .status = status,
                         .range = range,
                         .first = now,
                         .last = now});
    }
  }
  base::LogError("error_latched")
      .With("group", group_)
      .With("volume", volume)
      .With("operation", operation)
      .With("error", status);
}

void ErrorLog::Clear() {
  base::MutexLock lock(mutex_);
  errors_.clear();
}

std::vector<LatchedError> ErrorLog::errors() const {
  base::MutexLock lock(mutex_);
  return errors_;
}

bool ErrorLog::empty() const {
  base::MutexLock lock(mutex_);
  return errors_.empty();
}

}  // namespace understudy::client
