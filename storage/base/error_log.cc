#include "storage/base/error_log.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "storage/base/reason.h"

namespace understudy::base {
namespace {

bool SameKind(const LatchedError& one, const LatchedError& other) {
  return one.volume == other.volume && one.operation == other.operation && one.code == other.code &&
         one.reason == other.reason && one.generation == other.generation;
}

}  // namespace

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
                     .bytes = range.size(),
                     .generation = generation_};
  auto known = std::find_if(errors_.begin(), errors_.end(),
                            [&](const LatchedError& other) { return SameKind(other, error); });
  if (known == errors_.end() && errors_.size() < kErrorsMax) {
    errors_.push_back(std::move(error));
    return true;
  }
  if (known == errors_.end()) known = errors_.end() - 1;
  error.first = known->first;
  error.count = known->count + 1;
  error.bytes = known->bytes + range.size();
  if (known->code == error.code) {
    *known = std::move(error);
  } else {
    known->count = error.count;
    known->bytes = error.bytes;
    known->last = now;
  }
  return false;
}

void ErrorLog::ClearBefore(uint64_t mark) {
  std::erase_if(errors_, [mark](const LatchedError& error) { return error.generation < mark; });
}

void ErrorLog::ClearDataLossBefore(uint64_t mark) {
  std::erase_if(errors_, [mark](const LatchedError& error) {
    return error.code == absl::StatusCode::kDataLoss && error.generation < mark;
  });
}

void ErrorLog::ClearMissedWrites(const std::string& operation) {
  std::erase_if(errors_, [&](const LatchedError& error) {
    return error.operation == operation && error.code != absl::StatusCode::kDataLoss;
  });
}

void ErrorLog::ClearOperation(const std::string& operation) {
  std::erase_if(errors_, [&](const LatchedError& error) { return error.operation == operation; });
}

void ErrorLog::Forget(const std::vector<LatchedError>& seen) {
  std::erase_if(errors_, [&](const LatchedError& error) {
    return std::any_of(seen.begin(), seen.end(), [&](const LatchedError& other) {
      return SameKind(other, error) && other.count == error.count;
    });
  });
}

bool ErrorLog::HasMissedWrites() const {
  return std::any_of(errors_.begin(), errors_.end(), [](const LatchedError& error) {
    return error.operation == "write" && error.reason == kReasonIncomplete;
  });
}

std::string ErrorLog::Extents(const std::string& operation) const {
  std::vector<std::string> extents;
  for (const LatchedError& error : errors_) {
    if (error.operation != operation || error.volume.empty() || error.range.empty()) continue;
    extents.push_back(absl::StrCat("volume ", error.volume, ": ", error.count,
                                   error.count == 1 ? " time, " : " times, ", error.bytes,
                                   " bytes, the newest ", error.range.ToString()));
  }
  return absl::StrJoin(extents, "; ");
}

absl::Status LastsError(const std::string& group, const LatchedError& error,
                        const std::string& cause) {
  return absl::FailedPreconditionError(
      absl::StrCat("group ", group, ": the error of operation ", error.operation,
                   error.volume.empty() ? "" : absl::StrCat(", volume ", error.volume),
                   ", is not over: ", cause, ". Nothing was cleared"));
}

absl::Status ClearedUntilRestart(const std::string& group, const absl::Status& stored) {
  if (stored.ok()) return stored;
  return {
      stored.code(),
      absl::StrCat("group ", group,
                   ": the errors are cleared, but only until a restart: ", stored.message(),
                   "; it is tried again by itself; remedy: let that file system be written, then "
                   "call clear-error again to see that it was")};
}

}  // namespace understudy::base
