#include "storage/synced_file.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/index_log.h"

namespace understudy::storage {

uint64_t SyncedFile::Read() const {
  return DecodeSyncedMark(file_system_.ReadWholeFile(path_).value_or(""));
}

absl::Status SyncedFile::Make(uint64_t sequence) {
  const bool existed = file_system_.Exists(path_);
  ASSIGN_OR_RETURN(auto file, file_system_.Open(path_, {.create = true}));
  const std::string mark = EncodeSyncedMark(sequence);
  RETURN_IF_ERROR(file->Truncate(mark.size()));
  RETURN_IF_ERROR(file->Write(0, mark));
  RETURN_IF_ERROR(file->Sync());
  if (!existed) RETURN_IF_ERROR(file_system_.SyncDirectory(base::DirectoryOf(path_)));
  file_ = std::move(file);
  return absl::OkStatus();
}

void SyncedFile::Begin(uint64_t sequence) {
  const absl::Status made = Make(sequence);
  if (!made.ok()) Warn(made);
}

void SyncedFile::Write(uint64_t sequence) {
  if (file_ == nullptr) return;
  const absl::Status written = file_->Write(0, EncodeSyncedMark(sequence));
  if (!written.ok()) Warn(written);
}

void SyncedFile::Warn(const absl::Status& status) {
  if (warned_.exchange(true)) return;
  base::LogWarning("synced_file_not_written")
      .With("file", path_)
      .With("status", status)
      .With("consequence", "a write-ahead log of the index that is lost may not be noticed");
}

}  // namespace understudy::storage
