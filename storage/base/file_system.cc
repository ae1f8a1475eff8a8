#include "storage/base/file_system.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "storage/base/status_macros.h"

namespace understudy::base {
namespace {

constexpr absl::string_view kErrnoUrl = "understudy/errno";

absl::StatusCode CodeOfErrno(int error_number) {
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
    case ENXIO:
      return absl::StatusCode::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
      return absl::StatusCode::kResourceExhausted;
    case EISDIR:
      return absl::StatusCode::kInvalidArgument;
    case EEXIST:
      return absl::StatusCode::kAlreadyExists;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status ErrnoStatus(int error_number, absl::string_view prefix) {
  absl::Status status(CodeOfErrno(error_number),
                      absl::StrCat(prefix, ": ", std::strerror(error_number)));
  status.SetPayload(kErrnoUrl, absl::Cord(absl::StrCat(error_number)));
  return status;
}

int ErrnoOf(const absl::Status& status) {
  if (status.ok()) return 0;
  const auto payload = status.GetPayload(kErrnoUrl);
  int error_number = 0;
  if (payload.has_value() && absl::SimpleAtoi(std::string(*payload), &error_number)) {
    return error_number;
  }
  return status.code() == absl::StatusCode::kResourceExhausted ? ENOSPC : EIO;
}

absl::Status File::ZeroRange(ByteRange range) {
  static const std::string zeroes(64 << 10, '\0');
  while (!range.empty()) {
    const uint64_t bytes = std::min<uint64_t>(range.size(), zeroes.size());
    RETURN_IF_ERROR(Write(range.start, absl::string_view(zeroes).substr(0, bytes)));
    range.start += bytes;
  }
  return absl::OkStatus();
}

absl::Status File::CloneFrom(const File&, uint64_t, uint64_t, uint64_t) {
  return absl::UnimplementedError("cannot share blocks");
}

absl::Status File::WriteBack(ByteRange, bool) { return absl::OkStatus(); }

absl::Status File::Write(uint64_t offset, absl::string_view data) {
  const iovec piece = {.iov_base = const_cast<char*>(data.data()), .iov_len = data.size()};
  return Write(offset, std::span(&piece, 1));
}

absl::Status FileSystem::WriteFileAtomically(const std::string& path, absl::string_view contents) {
  const std::string temporary = absl::StrCat(path, ".tmp");
  const auto write = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::unique_ptr<File> file, Open(temporary, {.create = true}));
    RETURN_IF_ERROR(file->Truncate(0));
    RETURN_IF_ERROR(file->Write(0, contents));
    return file->Sync();
  };
  absl::Status written = write();
  if (written.ok()) written = Rename(temporary, path);
  if (!written.ok()) {
    if (Exists(temporary)) Remove(temporary).IgnoreError();  // it may be what fills a file system
    return written;
  }
  return SyncDirectory(DirectoryOf(path));
}

absl::StatusOr<std::string> FileSystem::ReadWholeFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<File> file, Open(path, {.read_only = true}));
  ASSIGN_OR_RETURN(const uint64_t size, file->Size());
  std::string contents(size, '\0');
  RETURN_IF_ERROR(file->Read(0, std::span(contents.data(), contents.size())));
  return contents;
}

}  // namespace understudy::base
