// storage/base/nbdkit.h
//
// What both daemons need to live inside nbdkit: a socket that is claimed safely, the exec, and signals handled by us
// (nbdkit waits for its clients without limit on SIGTERM and leaves its socket behind).
#ifndef UNDERSTUDY_STORAGE_BASE_NBDKIT_H_
#define UNDERSTUDY_STORAGE_BASE_NBDKIT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/unix_socket.h"

namespace understudy::base {

// Files that are open for each client: its socket, and both ends of a pipe that wakes nbdkit's
// threads.
inline constexpr uint64_t kFilesOfConnection = 3;

struct NbdkitOptions {
  std::string program;      // what the process calls itself, in ps for example: the launcher's name
  std::string plugin_path;  // .so beside the launcher or in the library directory: see FindPlugin()
  std::string socket_path;
  int threads = 4;  // per connection; about two per core: more of them thrash
  std::vector<std::pair<std::string, std::string>> parameters;  // key=value for the plugin
};

// Replaces this process by nbdkit in the foreground with the plugin; the process id stays. Returns only on error:
// kNotFound when nbdkit is not installed (names the package), or when the plugin is missing.
absl::Status ExecNbdkit(const NbdkitOptions& options);

// The plugin file: in the build tree's lib/ beside bin/, else in the installed library directory. kNotFound lists where it looked.
absl::StatusOr<std::string> FindPlugin(const std::string& file_name);

// Signals that a daemon gets without being asked to end: SIGHUP (a terminal was closed, somebody
// wants a reload), SIGUSR1 and SIGUSR2 (somebody wants the log opened anew), SIGPIPE (whoever read
// the log has gone). First thing in main(): ignores them, and blocks SIGHUP, which nbdkit would end
// on, until HandleShutdownSignals().
void IgnoreStraySignals();

// Orderly shutdown on SIGTERM, SIGINT and SIGQUIT; see above for the others. Call first thing in
// main() or nbdkit's after_fork, before other threads exist: blocks the signals for all threads
// made later, clears nbdkit's PR_SET_PDEATHSIG, and names the process after its argv[0], where exec
// has left nbdkit's name. One thread waits for a signal, runs `shutdown` once and then ends the
// process with status 0 (ExitWith() in log.h). A second signal during shutdown ends it at once with
// status 1.
void HandleShutdownSignals(std::function<void()> shutdown);

// For a request that comes after the I/O gate has closed: never answers. The process ends, the connection with it, and an NBD
// client that reconnects sends the request again; an error it would hand to its guest.
[[noreturn]] void HoldUntilExit();

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_NBDKIT_H_
