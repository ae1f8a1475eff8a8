#include "storage/base/file_limit.h"

#include <cerrno>
#include <sys/resource.h>

#include "absl/strings/str_cat.h"

#include "storage/base/file_system.h"
#include "storage/base/log.h"

namespace understudy::base {

uint64_t OpenFiles() {
  const auto files = FileSystem::Posix().List("/proc/self/fd");
  if (files.ok()) return files->size() - 1;  // not List()'s own
  // None is left for List() itself; without /proc it is not known.
  return absl::IsNotFound(files.status()) ? 0 : OpenFilesMax();
}

uint64_t OpenFilesMax() {
  rlimit limit = {};
  return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
}

void RaiseFileLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) == 0) return;
  LogWarning("file_limit_not_raised").With("status", ErrnoStatus(errno, "setrlimit"));
}

absl::Status CheckFileLimit(absl::string_view what, uint64_t needed, uint64_t kept) {
  const uint64_t open = OpenFiles();
  const uint64_t max = OpenFilesMax();
  if (open + kept + needed <= max) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      what, " needs ", needed, " open files; of the ", max, " that this process may have, ", open,
      " are open and ", kept,
      " more are kept for what is there already (remedy: raise LimitNOFILE= in the unit, "
      "or ulimit -n)"));
}

}  // namespace understudy::base
