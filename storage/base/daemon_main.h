// storage/base/daemon_main.h
//
// What main() of both daemons does around the daemon itself: what it was told, the socket of its
// NBD exports, and its end.
//
// Exit status  0: ended in order, or --help or --version was answered. 1: failed, or told to end a
//              second time. 2: wrong usage. What is wrong is on standard error, after the name.
#ifndef UNDERSTUDY_STORAGE_BASE_DAEMON_MAIN_H_
#define UNDERSTUDY_STORAGE_BASE_DAEMON_MAIN_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/command_line.h"
#include "storage/base/unix_socket.h"

namespace understudy::base {

inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;

class DaemonMain {
 public:
  DaemonMain(std::string name, const std::string& description, const std::string& version,
             std::vector<Setting> settings);

  // First thing in main(). Ignores stray signals (signals.h), raises the limit of open files, and
  // fills `options` from the command line. An exit status: there is nothing to run.
  template <typename Options>
  std::optional<int> Read(int argc, char** argv, Options& options) {
    if (const std::optional<int> exit_status = Parse(argc, argv)) return exit_status;
    return Judge(line_.Fill(options));
  }

  // Says what has failed; the exit status.
  int Fail(const absl::Status& status) const;

  // Runs a daemon until a signal ends the process. Its NBD socket, if the options name one, listens
  // before the daemon starts, so that clients wait for it, and is removed after its Shutdown():
  // until then they are connected. The daemon is not destroyed, which would end them.
  template <typename Daemon, typename Options>
  [[noreturn]] void Run(const Options& options) const {
    RunUntilSignal(
        options.nbd_socket, options.nbd_access,
        [&](std::optional<UnixListener> listener) -> absl::StatusOr<std::function<void()>> {
          auto daemon = Daemon::Start(options, std::move(listener));
          if (!daemon.ok()) return daemon.status();
          return [running = daemon->release()] { running->Shutdown(); };
        });
  }

 private:
  // Takes the socket, if any; answers what shuts the daemon down.
  using Start = std::function<absl::StatusOr<std::function<void()>>(std::optional<UnixListener>)>;

  std::optional<int> Parse(int argc, char** argv);
  std::optional<int> Judge(const std::vector<std::string>& problems) const;
  [[noreturn]] void RunUntilSignal(const std::string& socket, const SocketAccess& access,
                                   const Start& start) const;

  const std::string name_;
  CommandLine line_;
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_DAEMON_MAIN_H_
