#include "storage/base/error_log.h"

#include <algorithm>

#include "storage/base/reason.h"

namespace understudy::base {

bool ErrorLog::Latch(const std::string& volume, const std::string& operation, ByteRange range,
                     const absl::Status& status, absl::Time now) {
  const std::optional<Reason> reason = ReasonOf(status);
  LatchedError error{.volume = volume,
                     .operation = operation,
                     .code = status.code(),
                     .message = std::string(status.message()),
                     .reason = reason ? reason->reason : "",
                     .range = range,
                     .first = now,
                     .last = now,
                     .count = 1,
                     .generation = generation_};
  auto known = std::find_if(errors_.begin(), errors_.end(), [&](const LatchedError& other) {
    return other.volume == error.volume && other.operation == error.operation &&
           other.code == error.code && other.reason == error.reason &&
           other.generation == error.generation;
  });
  if (known == errors_.end() && errors_.size() < kErrorsMax) {
    errors_.push_back(std::move(error));
    return true;
  }
  if (known == errors_.end()) known = errors_.end() - 1;
  error.first = known->first;
  error.count = known->count + 1;
  if (known->code == error.code) {
    *known = std::move(error);
  } else {
    known->count = error.count;
    known->last = now;
  }
  return false;
}

void ErrorLog::ClearBefore(uint64_t mark) {
  std::erase_if(errors_, [mark](const LatchedError& error) { return error.generation < mark; });
}

void ErrorLog::ClearMissedWrites() {
  std::erase_if(errors_, [](const LatchedError& error) {
    return error.operation == "write" && error.code != absl::StatusCode::kDataLoss;
  });
}

}  // namespace understudy::base
