#include "storage/secondary_disk.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::storage {
namespace {

constexpr absl::string_view kMarkerSuffix = ".understudy";

std::string Parent(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status InUse(const std::string& path) {
  return absl::FailedPreconditionError(
      absl::StrCat("Block device is in use by internal backup job: ", path,
                   " is locked by another volume or process"));
}

absl::Status CheckSize(const VolumeSpec& spec, uint64_t disk_bytes) {
  const uint64_t size = spec.size_bytes != 0 ? spec.size_bytes : disk_bytes;
  if (size == 0 || size % kSectorBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("volume ", spec.name, ": size ", size, " is not a positive multiple of 512"));
  }
  if (size == disk_bytes) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "Active disk, hidden disk, secondary disk's length are not the same: volume ", spec.name,
      " is declared with ", size, " bytes, ", spec.disk_path, " has ", disk_bytes));
}

}  // namespace

DiskChecker::DiskChecker(base::FileSystem& file_system, std::vector<std::string> disk_dirs)
    : file_system_(file_system), disk_dirs_(std::move(disk_dirs)) {}

absl::StatusOr<std::string> DiskChecker::ResolveInside(const VolumeSpec& spec) {
  if (spec.disk_path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("volume ", spec.name, ": missing the secondary disk: give disk=PATH"));
  }
  std::string resolved;
  if (const auto whole = file_system_.Resolve(spec.disk_path); whole.ok()) {
    resolved = *whole;
  } else {  // the file itself may be missing: then its directory counts
    const auto parent = file_system_.Resolve(Parent(spec.disk_path));
    const std::string directory = parent.ok() ? *parent : Parent(spec.disk_path);
    const size_t slash = spec.disk_path.rfind('/');
    resolved = absl::StrCat(
        directory, "/",
        slash == std::string::npos ? spec.disk_path : spec.disk_path.substr(slash + 1));
  }
  for (const std::string& allowed : disk_dirs_) {
    const auto directory = file_system_.Resolve(allowed);
    if (directory.ok() &&
        absl::StartsWith(resolved, *directory == "/" ? "/" : absl::StrCat(*directory, "/"))) {
      return resolved;
    }
  }
  return absl::PermissionDeniedError(absl::StrCat(
      "volume ", spec.name, ": ", spec.disk_path, " is outside every --disk-dir (",
      absl::StrJoin(disk_dirs_, ", "), "): move the disk or start understudyd with --disk-dir"));
}

absl::Status DiskChecker::Create(const std::string& path, uint64_t size_bytes) {
  absl::Status made;
  {
    ASSIGN_OR_RETURN(const auto file, file_system_.Open(path, {.create = true, .exclusive = true}));
    made = file->Truncate(size_bytes);
    if (made.ok()) made = file->Sync();
  }
  if (made.ok()) made = file_system_.SyncDirectory(Parent(path));
  if (!made.ok()) file_system_.Remove(path).IgnoreError();
  return made;
}

absl::StatusOr<VolumeRecord> DiskChecker::Check(const VolumeSpec& spec) {
  ASSIGN_OR_RETURN(const std::string path, ResolveInside(spec));
  VolumeRecord record{.name = spec.name,
                      .top_id = spec.top_id,
                      .disk_path = path,
                      .size_bytes = spec.size_bytes,
                      .initial = spec.create ? Initial::kSync : spec.initial};
  if (!file_system_.Exists(path)) {
    if (!spec.create) {
      return absl::NotFoundError(absl::StrCat("volume ", spec.name, ": secondary disk ", path,
                                              " does not exist: make it, or add 'create'"));
    }
    RETURN_IF_ERROR(CheckSize(spec, spec.size_bytes));
    RETURN_IF_ERROR(Create(path, spec.size_bytes));
  }
  absl::StatusOr<std::unique_ptr<base::File>> file = file_system_.Open(path, {.lock = true});
  if (file.status().code() == absl::StatusCode::kFailedPrecondition) return InUse(path);
  RETURN_IF_ERROR(file.status());
  ASSIGN_OR_RETURN(const uint64_t disk_bytes, (*file)->Size());
  RETURN_IF_ERROR(CheckSize(spec, disk_bytes));
  record.size_bytes = disk_bytes;
  ASSIGN_OR_RETURN(record.identity, (*file)->Identity());
  return record;
}

SecondaryDisk::SecondaryDisk(base::FileSystem& file_system, std::string path,
                             std::unique_ptr<base::File> file)
    : file_system_(file_system), path_(std::move(path)), file_(std::move(file)) {}

absl::StatusOr<std::unique_ptr<SecondaryDisk>> SecondaryDisk::Open(base::FileSystem& file_system,
                                                                   const VolumeRecord& record) {
  absl::StatusOr<std::unique_ptr<base::File>> opened =
      file_system.Open(record.disk_path, {.lock = true});
  if (opened.status().code() == absl::StatusCode::kFailedPrecondition)
    return InUse(record.disk_path);
  RETURN_IF_ERROR(Annotate(opened.status(), absl::StrCat("volume ", record.name)));
  ASSIGN_OR_RETURN(const base::FileIdentity identity, (*opened)->Identity());
  ASSIGN_OR_RETURN(const uint64_t size_bytes, (*opened)->Size());
  if (identity != record.identity || size_bytes != record.size_bytes) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "volume ", record.name, ": ", record.disk_path,
            " is not the disk that was declared (inode or length differ): put the old one "
            "back, or remove the group and open it again")),
        kReasonWrongDisk);
  }
  return std::unique_ptr<SecondaryDisk>(
      new SecondaryDisk(file_system, record.disk_path, *std::move(opened)));
}

absl::StatusOr<std::vector<MapRun>> SecondaryDisk::Map(ByteRange range) const {
  std::vector<MapRun> runs;
  while (!range.empty()) {
    ASSIGN_OR_RETURN(const ByteRange found, file_->NextData(range.start));
    const ByteRange data = found.Intersect(range);
    const uint64_t hole_end = data.empty() ? range.end : data.start;
    if (hole_end > range.start) {
      runs.push_back({.range = {range.start, hole_end}, .zero = true, .hole = true});
    }
    if (!data.empty()) runs.push_back({.range = data});
    range.start = data.empty() ? range.end : data.end;
  }
  return runs;
}

absl::Status SecondaryDisk::WriteMarker(const std::string& group, const std::string& data_dir) {
  if (file_->IsBlockDevice()) return absl::OkStatus();
  return file_system_.WriteFileAtomically(
      absl::StrCat(path_, kMarkerSuffix),
      absl::StrCat(
          "This disk is the standby of group ", group,
          ". Until that group is DONE, it is whole only together with the data directory\n",
          data_dir, "\nDo not use or copy it alone.\n"));
}

absl::Status SecondaryDisk::RemoveMarker() {
  const std::string marker = absl::StrCat(path_, kMarkerSuffix);
  if (file_->IsBlockDevice() || !file_system_.Exists(marker)) return absl::OkStatus();
  return file_system_.Remove(marker);
}

}  // namespace understudy::storage
