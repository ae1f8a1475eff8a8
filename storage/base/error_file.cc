#include "storage/base/error_file.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

#include "storage/base/log.h"
#include "storage/base/sealed_text.h"
#include "storage/base/status_macros.h"

namespace understudy::base {
namespace {

constexpr absl::string_view kHead = "understudy errors 1\n";

std::string LineOf(const LatchedError& error) {
  const std::vector<std::string> fields = {error.volume,
                                           error.operation,
                                           absl::StrCat(static_cast<int>(error.code)),
                                           error.reason,
                                           absl::StrCat(error.range.start),
                                           absl::StrCat(error.range.size()),
                                           absl::StrCat(absl::ToUnixMicros(error.first)),
                                           absl::StrCat(absl::ToUnixMicros(error.last)),
                                           absl::StrCat(error.count),
                                           absl::StrCat(error.bytes),
                                           error.message};
  return absl::StrCat("error ",
                      absl::StrJoin(fields, "\t",
                                    [](std::string* out, const std::string& field) {
                                      absl::StrAppend(out, absl::CEscape(field));
                                    }),
                      "\n");
}

absl::Status NotUnderstood(absl::string_view line) {
  return absl::DataLossError(absl::StrCat("line \"", line, "\" is not understood"));
}

absl::StatusOr<LatchedError> ErrorIn(absl::string_view line) {
  std::vector<std::string> fields;
  for (const absl::string_view escaped : absl::StrSplit(line, '\t')) {
    if (!absl::CUnescape(escaped, &fields.emplace_back())) return NotUnderstood(line);
  }
  if (fields.size() != 11) return NotUnderstood(line);
  LatchedError error{
      .volume = fields[0], .operation = fields[1], .message = fields[10], .reason = fields[3]};
  int code = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  int64_t first = 0;
  int64_t last = 0;
  const bool numbers = absl::SimpleAtoi(fields[2], &code) && absl::SimpleAtoi(fields[4], &offset) &&
                       absl::SimpleAtoi(fields[5], &length) &&
                       absl::SimpleAtoi(fields[6], &first) && absl::SimpleAtoi(fields[7], &last) &&
                       absl::SimpleAtoi(fields[8], &error.count) &&
                       absl::SimpleAtoi(fields[9], &error.bytes);
  if (!numbers || code <= 0 || code > 16 || error.count == 0) return NotUnderstood(line);
  error.code = static_cast<absl::StatusCode>(code);
  error.range = ByteRange::OfLength(offset, length);
  error.first = absl::FromUnixMicros(first);
  error.last = absl::FromUnixMicros(last);
  return error;
}

}  // namespace

std::string EncodeErrors(const KeptErrors& kept) {
  std::string body = absl::StrCat("era ", absl::CEscape(kept.era), "\n");
  for (const LatchedError& error : kept.errors) body += LineOf(error);
  return SealText(kHead, body);
}

absl::StatusOr<KeptErrors> DecodeErrors(absl::string_view text) {
  ASSIGN_OR_RETURN(const absl::string_view lines, UnsealText(kHead, text));
  KeptErrors kept;
  for (absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    if (absl::ConsumePrefix(&line, "error ")) {
      ASSIGN_OR_RETURN(LatchedError error, ErrorIn(line));
      kept.errors.push_back(std::move(error));
    } else if (!absl::ConsumePrefix(&line, "era ") || !absl::CUnescape(line, &kept.era)) {
      return NotUnderstood(line);
    }
  }
  if (kept.errors.size() > ErrorLog::kErrorsMax) return absl::DataLossError("too many errors");
  return kept;
}

std::shared_ptr<ErrorFile> ErrorFile::Create(FileSystem& file_system, std::string path,
                                             WorkerPool& pool, std::string group) {
  return std::shared_ptr<ErrorFile>(
      new ErrorFile(file_system, std::move(path), pool, std::move(group)));
}

KeptErrors ErrorFile::Load() {
  if (!file_system_.Exists(path_)) return {};
  absl::StatusOr<std::string> text = file_system_.ReadWholeFile(path_);
  absl::StatusOr<KeptErrors> kept = text.ok() ? DecodeErrors(*text) : text.status();
  if (kept.ok()) return *std::move(kept);
  LogError("errors_not_read")
      .With("group", group_)
      .With("path", path_)
      .With("status", kept.status())
      .With("consequence", "what get-error told before the restart is forgotten; see the log");
  return {};
}

std::vector<LatchedError> ErrorFile::Restore(absl::string_view era) {
  KeptErrors kept = Load();
  if (kept.era != era) return {};
  for (const LatchedError& error : kept.errors) {
    LogError("error_restored")
        .With("group", group_)
        .With("volume", error.volume)
        .With("operation", error.operation)
        .With("range", error.range.ToString())
        .With("count", error.count)
        .With("status", absl::Status(error.code, error.message));
  }
  return std::move(kept.errors);
}

void ErrorFile::Follow(std::function<KeptErrors()> snapshot) {
  const Turn::Hold turn(turn_);
  snapshot_ = std::move(snapshot);
}

void ErrorFile::Close() {
  const Turn::Hold turn(turn_);
  snapshot_ = nullptr;
}

void ErrorFile::Changed() {
  {
    const MutexLock lock(mutex_);
    changed_ = true;
    if (std::exchange(scheduled_, true)) return;
  }
  Schedule(kDelay);
}

void ErrorFile::Schedule(absl::Duration delay) {
  pool_.SubmitAfter(delay, [weak = weak_from_this()] {
    if (const auto self = weak.lock(); self != nullptr) self->StoreInBackground();
  });
}

void ErrorFile::StoreInBackground() {
  {
    const MutexLock lock(mutex_);
    scheduled_ = false;
  }
  if (Store().ok()) return;
  {
    const MutexLock lock(mutex_);
    if (std::exchange(scheduled_, true)) return;
  }
  Schedule(kRetry);
}

absl::Status ErrorFile::Store() {
  const Turn::Hold turn(turn_);
  if (snapshot_ == nullptr) return absl::OkStatus();
  {
    const MutexLock lock(mutex_);
    if (!std::exchange(changed_, false)) return absl::OkStatus();
  }
  const absl::Status stored = Write(snapshot_());
  if (!stored.ok() && !std::exchange(failing_, true)) {
    LogWarning("errors_not_stored")
        .With("group", group_)
        .With("status", stored)
        .With("consequence", "a restart forgets the newest latched errors");
  }
  if (stored.ok()) {
    failing_ = false;
    return stored;
  }
  const MutexLock lock(mutex_);
  changed_ = true;
  return stored;
}

absl::Status ErrorFile::Write(const KeptErrors& kept) {
  if (!kept.errors.empty()) {
    RETURN_IF_ERROR(file_system_.CreateDirectory(DirectoryOf(path_)));
    return file_system_.WriteFileAtomically(path_, EncodeErrors(kept));
  }
  if (file_system_.Exists(path_)) {
    RETURN_IF_ERROR(file_system_.Remove(path_));
  } else if (!failing_) {
    return absl::OkStatus();
  }
  // Also when it is gone already: the sync that should have made that durable may have failed.
  const absl::Status synced = file_system_.SyncDirectory(DirectoryOf(path_));
  return absl::IsNotFound(synced) ? absl::OkStatus() : synced;
}

}  // namespace understudy::base
