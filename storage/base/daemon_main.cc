#include "storage/base/daemon_main.h"

#include <iostream>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

#include "storage/base/file_limit.h"
#include "storage/base/log.h"
#include "storage/base/mutex.h"
#include "storage/base/signals.h"

namespace understudy::base {

DaemonMain::DaemonMain(std::string name, const std::string& description, const std::string& version,
                       std::vector<Setting> settings)
    : name_(std::move(name)), line_(absl::StrCat(name_, ": ", description), name_) {
  line_.SetVersion(version);
  line_.AddSettings(std::move(settings));
}

std::optional<int> DaemonMain::Parse(int argc, char** argv) {
  IgnoreStraySignals();
  RaiseFileLimit();
  const absl::StatusOr<bool> go_on = line_.Parse(argc, argv);
  if (!go_on.ok()) {
    Fail(go_on.status());
    return kExitUsage;
  }
  return *go_on ? std::nullopt : std::optional<int>(0);
}

std::optional<int> DaemonMain::Judge(const std::vector<std::string>& problems) const {
  if (problems.empty()) return std::nullopt;
  const std::string lines = absl::StrReplaceAll(absl::StrJoin(problems, "\n"), {{"\n", "\n  "}});
  Fail(absl::InvalidArgumentError(
      absl::StrCat("wrong usage\n  ", lines, "\ntry ", name_, " --help")));
  return kExitUsage;
}

int DaemonMain::Fail(const absl::Status& status) const {
  std::cerr << name_ << ": " << status.message() << std::endl;
  return kExitFailed;
}

void DaemonMain::RunUntilSignal(const std::string& socket, const SocketAccess& access,
                                const Start& start) const {
  const auto fail = [this](const absl::Status& status) {
    ExitWith(kExitFailed, absl::StrCat(name_, ": ", status.message()));
  };
  std::optional<UnixListener> listener;
  if (!socket.empty()) {
    absl::StatusOr<UnixListener> claimed = UnixListener::Listen(socket, access);
    if (!claimed.ok()) fail(claimed.status());
    listener.emplace(*std::move(claimed));
  }
  // A signal while the daemon starts ends the process as it is.
  Mutex mutex;
  std::function<void()> shut_down;
  HandleShutdownSignals([&] {
    std::function<void()> of_daemon;
    {
      const MutexLock lock(mutex);
      of_daemon = shut_down;
    }
    if (of_daemon) of_daemon();
    if (!socket.empty()) unlink(socket.c_str());
  });
  absl::StatusOr<std::function<void()>> started = start(std::move(listener));
  if (!started.ok()) fail(started.status());
  {
    const MutexLock lock(mutex);
    shut_down = *std::move(started);
  }
  while (true) pause();  // the signal thread ends the process
}

}  // namespace understudy::base
