// storage/base/file_limit.h
//
// How many files this process may have open (RLIMIT_NOFILE): disks, segments and connections. Without one to spare it can be reached no
// more, so what would take the last ones is refused.
//
// Threads  any.
#ifndef UNDERSTUDY_STORAGE_BASE_FILE_LIMIT_H_
#define UNDERSTUDY_STORAGE_BASE_FILE_LIMIT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace understudy::base {

// The soft limit of open files becomes the hard one; first thing in main(). It is 1024 for the sake of select(), which nobody here
// calls, and each open disk and log takes one.
void RaiseFileLimit();

// Of each client of an NBD export: its socket.
inline constexpr uint64_t kFilesOfConnection = 1;

uint64_t OpenFiles();
uint64_t OpenFilesMax();

// kResourceExhausted, with the numbers and the remedy, when `what` needs more files than can still
// be opened while `kept` more are left for others, of which none is open yet.
absl::Status CheckFileLimit(absl::string_view what, uint64_t needed, uint64_t kept = 0);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_FILE_LIMIT_H_
