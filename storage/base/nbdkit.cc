#include "storage/base/nbdkit.h"

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "storage/base/file_system.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"

// Where plugins are installed: relative to the installation prefix, or absolute.
#ifndef UNDERSTUDY_INSTALL_LIBDIR
#define UNDERSTUDY_INSTALL_LIBDIR "lib"
#endif

namespace understudy::base {
namespace {

std::string ExecutableDirectory() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  if (length <= 0) return ".";
  const std::string executable(path, static_cast<size_t>(length));
  return executable.substr(0, executable.rfind('/'));
}

std::vector<std::string> NbdkitArguments(const NbdkitOptions& options) {
  std::vector<std::string> arguments = {options.program,     "-f", "-U",
                                        options.socket_path, "-t", absl::StrCat(options.threads),
                                        options.plugin_path};
  for (const auto& [key, value] : options.parameters) {
    arguments.push_back(absl::StrCat(key, "=", value));
  }
  return arguments;
}

int WaitForSignal(const sigset_t& signals) {
  int number = 0;
  while (sigwait(&signals, &number) != 0) {
  }
  return number;
}

void ShutDownOnSignal(const sigset_t& signals, const std::function<void()>& shutdown) {
  const int number = WaitForSignal(signals);
  LogInfo("shutdown_started").With("signal", strsignal(number));
  std::thread([signals] {
    const int again = WaitForSignal(signals);
    LogWarning("shutdown_interrupted").With("signal", strsignal(again));
    ExitWith(1);
  }).detach();
  shutdown();
  LogInfo("shutdown_finished");
  ExitWith(0);
}

}  // namespace

absl::Status ExecNbdkit(const NbdkitOptions& options) {
  if (access(options.plugin_path.c_str(), R_OK) != 0) {
    return ErrnoStatus(errno, absl::StrCat("plugin ", options.plugin_path));
  }
  RETURN_IF_ERROR(ClaimUnixSocket(options.socket_path));
  if (const char* preload = std::getenv("UNDERSTUDY_LD_PRELOAD"); preload && *preload != '\0') {
    setenv("LD_PRELOAD", preload, 1);
  }
  std::vector<std::string> arguments = NbdkitArguments(options);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  FlushLog();
  execvp("nbdkit", argv.data());
  if (errno == ENOENT) {
    return absl::NotFoundError(
        "nbdkit is not installed: apt-get install nbdkit, or leave out --nbd-socket");
  }
  return ErrnoStatus(errno, "nbdkit");
}

absl::StatusOr<std::string> FindPlugin(const std::string& file_name) {
  const std::string beside = absl::StrCat(ExecutableDirectory(), "/../");
  const std::string installed = UNDERSTUDY_INSTALL_LIBDIR;
  const std::vector<std::string> candidates = {
      absl::StrCat(beside, "lib/", file_name),
      absl::StrCat(installed[0] == '/' ? "" : beside, installed, "/understudy/", file_name),
  };
  for (const std::string& candidate : candidates) {
    if (absl::StatusOr<std::string> path = FileSystem::Posix().Resolve(candidate); path.ok()) {
      return path;
    }
  }
  return absl::NotFoundError(absl::StrCat("plugin ", file_name, " not found; looked for ",
                                          absl::StrJoin(candidates, " and "),
                                          "; reinstall understudy"));
}

void IgnoreStraySignals() {
  for (const int number : {SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE}) signal(number, SIG_IGN);
  sigset_t hangup;
  sigemptyset(&hangup);
  sigaddset(&hangup, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &hangup, nullptr);
}

void HandleShutdownSignals(std::function<void()> shutdown) {
  prctl(PR_SET_PDEATHSIG, 0);
  prctl(PR_SET_NAME, program_invocation_short_name);
  IgnoreStraySignals();  // nbdkit has a handler of its own by now
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGQUIT}) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals, shutdown = std::move(shutdown)] {
    ShutDownOnSignal(signals, shutdown);
  }).detach();
}

void HoldUntilExit() {
  while (true) pause();
}

}  // namespace understudy::base
