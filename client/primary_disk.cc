#include "client/primary_disk.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/crc32c.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

template <typename... More>
std::string Digest(const std::string& file_system, uint64_t inode, const More&... more) {
  const std::string text = absl::StrCat(file_system, " ", inode, more...);
  return absl::StrCat(absl::Hex(base::Crc32c(text.data(), text.size())));
}

}  // namespace

absl::StatusOr<std::unique_ptr<PrimaryDisk>> PrimaryDisk::Open(base::FileSystem& file_system,
                                                               const std::string& path,
                                                               uint64_t size_bytes) {
  auto opened = file_system.Open(path, {.lock = true});
  if (absl::IsFailedPrecondition(opened.status())) {
    return absl::FailedPreconditionError(absl::StrCat(
        "primary disk ", path, " is in use by another process; remedy: stop what has it open"));
  }
  if (!opened.ok()) return Annotate(opened.status(), "primary disk");
  std::unique_ptr<base::File> file = *std::move(opened);
  ASSIGN_OR_RETURN(const uint64_t length, file->Size());
  if (size_bytes != 0 && size_bytes != length) {
    return absl::FailedPreconditionError(absl::StrCat(
        "primary disk ", path, " has ", length, " bytes, but size=", size_bytes, " was given"));
  }
  if (length == 0 || length % kSectorBytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("primary disk ", path, " has ", length,
                                                   " bytes, not a positive multiple of 512"));
  }
  return std::unique_ptr<PrimaryDisk>(new PrimaryDisk(path, std::move(file), length));
}

std::string PrimaryDisk::IdentityText() const {
  const auto identity = file_->Identity();
  if (!identity.ok()) return "";
  if (identity->generation == 0) return Digest(identity->file_system, identity->inode);
  return Digest(identity->file_system, identity->inode, " ", identity->generation);
}

bool PrimaryDisk::WasIdentifiedAs(const std::string& text) const {
  if (text == IdentityText()) return true;
  const auto identity = file_->Identity();
  return identity.ok() && !identity->device() &&
         text == Digest(identity->former_file_system, identity->inode);
}

absl::Status PrimaryDisk::Write(uint64_t offset, std::span<const char> data) {
  const iovec piece{.iov_base = const_cast<char*>(data.data()), .iov_len = data.size()};
  absl::Status written = file_->Write(offset, std::span<const iovec>(&piece, 1));
  unflushed_.NoteChange();
  return written;
}

absl::Status PrimaryDisk::Zero(ByteRange range, ZeroedSpace space) {
  absl::Status zeroed = file_->Zero(range, space);
  unflushed_.NoteChange();
  return zeroed;
}

absl::Status PrimaryDisk::Sync() {
  return unflushed_.Flush([&]() -> absl::Status {
    {
      base::MutexLock lock(mutex_);
      RETURN_IF_ERROR(sync_failure_);
    }
    const absl::Status status = file_->Sync();
    if (status.ok()) return status;
    base::MutexLock lock(mutex_);
    sync_failure_ = Annotate(status, "an earlier sync failed, the disk is not to be trusted");
    return status;
  });
}

absl::StatusOr<bool> PrimaryDisk::IsHole(ByteRange range) const {
  ASSIGN_OR_RETURN(const uint64_t data, file_->NextDataStart(range.start));
  return data >= range.end;
}

absl::StatusOr<std::vector<BlockRun>> PrimaryDisk::Map(ByteRange range, size_t runs_max) const {
  BlockRuns runs(runs_max);
  RETURN_IF_ERROR(runs.AddFile(*file_, range).status());
  return std::move(runs).Take();
}

}  // namespace understudy::client
