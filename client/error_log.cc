#include "client/error_log.h"

#include "storage/base/log.h"

namespace understudy::client {

ErrorLog::~ErrorLog() {
  if (file_ != nullptr) file_->Close();
}

void ErrorLog::KeepIn(std::shared_ptr<base::ErrorFile> file, const std::string& era) {
  file_ = std::move(file);
  std::vector<base::LatchedError> kept = file_->Restore(era);
  {
    base::MutexLock lock(mutex_);
    era_ = era;
    log_.Restore(std::move(kept));
  }
  file_->Follow([this] {
    base::MutexLock lock(mutex_);
    return base::KeptErrors{.era = era_, .errors = log_.errors()};
  });
}

absl::Status ErrorLog::Store() { return file_ == nullptr ? absl::OkStatus() : file_->Store(); }

void ErrorLog::Latch(const std::string& volume, const std::string& operation,
                     const absl::Status& status, ByteRange range) {
  bool first = false;
  {
    base::MutexLock lock(mutex_);
    first = log_.Latch(volume, operation, range, status, clock_.Now());
    if (first && journal_ != nullptr) {
      journal_->Append(
          {.kind = base::EventKind::kError, .group = group_, .error = log_.errors().back()});
    }
  }
  if (file_ != nullptr) file_->Changed();
  if (!first) return;
  base::LogError("error_latched")
      .With("group", group_)
      .With("volume", volume)
      .With("operation", operation)
      .With("range", range.ToString())
      .With("error", status);
}

void ErrorLog::Clear(const std::string& era) {
  {
    base::MutexLock lock(mutex_);
    log_.ClearBefore(log_.Mark());
    era_ = era;
  }
  if (file_ != nullptr) file_->Changed();
}

void ErrorLog::Forget(const std::vector<base::LatchedError>& seen) {
  {
    base::MutexLock lock(mutex_);
    log_.Forget(seen);
  }
  if (file_ != nullptr) file_->Changed();
}

void ErrorLog::ClearMissed() {
  {
    base::MutexLock lock(mutex_);
    log_.ClearMissedWrites("forward");
  }
  if (file_ != nullptr) file_->Changed();
}

void ErrorLog::ClearVerify() {
  {
    base::MutexLock lock(mutex_);
    log_.ClearOperation("verify");
  }
  if (file_ != nullptr) file_->Changed();
}

void ErrorLog::ClearState() {
  {
    base::MutexLock lock(mutex_);
    log_.ClearOperation("state");
  }
  if (file_ != nullptr) file_->Changed();
}

std::vector<base::LatchedError> ErrorLog::errors() const {
  base::MutexLock lock(mutex_);
  return log_.errors();
}

std::string ErrorLog::MissedExtents() const {
  base::MutexLock lock(mutex_);
  return log_.Extents("forward");
}

bool ErrorLog::empty() const {
  base::MutexLock lock(mutex_);
  return log_.errors().empty();
}

}  // namespace understudy::client
