#include "storage/data_directory.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "storage/base/status_macros.h"
#include "storage/data_version.h"
#include "storage/index.h"

namespace understudy::storage {
namespace {

// What a store leaves there, but for VERSION. A mount point is none of it.
constexpr const char* kMadeByStores[] = {"index",   "segments", "SYNCED",
                                         "devices", "errors",   "requests"};

// A file, or a directory with something in it.
bool HoldsAnything(base::FileSystem& file_system, const std::string& path) {
  const auto names = file_system.List(path);
  if (!names.ok()) return file_system.Exists(path);
  return std::any_of(names->begin(), names->end(),
                     [](const std::string& name) { return name != "lost+found"; });
}

absl::Status Lost(const std::string& path, absl::string_view why) {
  return absl::DataLossError(absl::StrCat(
      path, " is missing", why,
      "; nothing was touched. Put it back, restore the data directory as a whole, or remove it "
      "and start the groups afresh: their secondary disks alone may be torn"));
}

// Whether a store has yet to be made there. Touches nothing.
absl::StatusOr<bool> IsNew(base::FileSystem& file_system, const std::string& directory) {
  const auto path = [&](absl::string_view name) { return absl::StrCat(directory, "/", name); };
  if (!file_system.Exists(path("VERSION"))) {
    for (const char* const name : kMadeByStores) {
      if (!HoldsAnything(file_system, path(name))) continue;
      return Lost(path("VERSION"), absl::StrCat(", but there is ", path(name)));
    }
    return true;
  }
  ASSIGN_OR_RETURN(const DataVersion found, ReadDataVersion(file_system, directory));
  if (found.unfinished()) {
    for (const char* const name : kMadeByStores) {
      if (name == absl::string_view("index") || !HoldsAnything(file_system, path(name))) continue;
      return Lost(path("VERSION"),
                  absl::StrCat(" (this one is of a first start that did not end), but there is ",
                               path(name)));
    }
    return true;
  }
  RETURN_IF_ERROR(Annotate(found.CheckWritable(), absl::StrCat("data directory ", directory)));
  for (const char* const name : {"index", "segments"}) {
    if (!file_system.Exists(path(name))) return Lost(path(name), "");
  }
  return false;
}

// The data directory's own name, and that of every directory above it, may be as new as it is.
absl::Status SyncAncestors(base::FileSystem& file_system, const std::string& directory) {
  ASSIGN_OR_RETURN(std::string path, file_system.Resolve(directory));
  while (path.size() > 1) {
    path.resize(std::max<size_t>(path.rfind('/'), 1));
    const absl::Status synced = file_system.SyncDirectory(path);
    // One that we may not read is none that we have made.
    if (synced.code() != absl::StatusCode::kPermissionDenied) RETURN_IF_ERROR(synced);
  }
  return absl::OkStatus();
}

absl::Status Make(base::FileSystem& file_system, const std::string& directory,
                  rocksdb::Env* index_env) {
  const std::string version = absl::StrCat(directory, "/VERSION");
  const std::string index = absl::StrCat(directory, "/index");
  RETURN_IF_ERROR(SyncAncestors(file_system, directory));
  RETURN_IF_ERROR(file_system.WriteFileAtomically(version, DataVersion::Unfinished().ToString()));
  RETURN_IF_ERROR(file_system.CreateDirectory(index));
  RETURN_IF_ERROR(file_system.CreateDirectory(absl::StrCat(directory, "/segments")));
  RETURN_IF_ERROR(file_system.SyncDirectory(directory));
  ASSIGN_OR_RETURN(const std::vector<std::string> half_made, file_system.List(index));
  for (const std::string& name : half_made) {
    if (name == "lost+found") continue;
    RETURN_IF_ERROR(file_system.Remove(absl::StrCat(index, "/", name)));
  }
  RETURN_IF_ERROR(Index::Create(index, index_env));
  RETURN_IF_ERROR(file_system.SyncDirectory(index));
  return file_system.WriteFileAtomically(version, DataVersion().ToString());
}

}  // namespace

absl::StatusOr<std::unique_ptr<base::File>> OpenDataDirectory(base::FileSystem& file_system,
                                                              const std::string& path,
                                                              rocksdb::Env* index_env) {
  RETURN_IF_ERROR(Annotate(file_system.CreateDirectory(path), "data directory"));
  RETURN_IF_ERROR(IsNew(file_system, path).status());  // the lock may have to be made, too
  absl::StatusOr<std::unique_ptr<base::File>> lock =
      file_system.Open(absl::StrCat(path, "/LOCK"), {.create = true, .lock = true});
  if (lock.status().code() == absl::StatusCode::kFailedPrecondition) {
    return absl::FailedPreconditionError(absl::StrCat(
        "data directory ", path,
        " is in use by another understudyd: stop that one, or give this one its own --data-dir"));
  }
  RETURN_IF_ERROR(Annotate(lock.status(), "data directory"));
  ASSIGN_OR_RETURN(const bool is_new, IsNew(file_system, path));
  if (is_new) RETURN_IF_ERROR(Make(file_system, path, index_env));
  return lock;
}

}  // namespace understudy::storage
