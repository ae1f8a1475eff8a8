// understudyd: the replication service of the standby. Runs alone, or with --nbd-socket becomes nbdkit (by exec: the process id
// stays) with the same service inside as a plugin.
#include <iostream>
#include <string>
#include <unistd.h>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

#include "server/daemon.h"
#include "server/daemon_options.h"
#include "storage/base/command_line.h"
#include "storage/base/file_limit.h"
#include "storage/base/log.h"
#include "storage/base/nbdkit.h"

namespace understudy::server {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

std::vector<base::Setting> Settings() {
  const DaemonOptions defaults;
  return {
      {"data-dir", "Directory of the index and the segments; made when missing. Required"},
      {"listen", absl::StrCat("gRPC address, host:port or unix:/path [", defaults.listen, "]")},
      {"metrics-listen",
       absl::StrCat("Address of /metrics, host:port [", defaults.metrics_listen, "]")},
      {"nbd-socket",
       "Unix socket of the NBD exports; without it no NBD is served and no nbdkit is needed"},
      {"nbd-socket-mode", "Who may connect to it: an octal mode [660]"},
      {"nbd-socket-group",
       "Its group, QEMU's: a name or number that the service's user is in [the process's]"},
      {"disk-dir", "Secondary disks must lie under this directory; repeatable [DATA-DIR/disks]",
       base::Setting::kMany},
      {"durability",
       "What a checkpoint's answer promises: checkpoint (survives a power cut) or none "
       "[checkpoint]"},
      {"apply-bytes-per-second",
       "Limit for the data that the apply and commit jobs of all groups copy to secondary disks; "
       "0: none [0]"},
      {"segment-bytes",
       absl::StrCat("Size of a segment file [", defaults.store.segment_bytes, "]")},
      {"history-epochs",
       "So many of the newest checkpoints of a group are kept unapplied, for a failover or a clone "
       "to go back to; reads do not get slower. 0: none, unless --history-bytes is given [0]"},
      {"history-bytes",
       "Volume bytes that the kept checkpoints may have changed, per group; the oldest is applied "
       "beyond it. Takes K, M, G, T. 0: --history-epochs alone decides [0]"},
      {"overlay-bytes-max",
       "Disk space that the overlays of one group may take in the data directory, history and "
       "clones included. Status and metrics warn at 80 %; at the limit a checkpoint is taken if "
       "the agent takes them by interval, else the write stream is refused and the primary goes "
       "on unprotected. Takes K, M, G, T. 0: none [0]"},
      {"overlay-bytes-total", "The same for all groups together. 0: none [0]"},
      {"reserve-disk-space",
       "true: overlays never take the space that sparse secondary disks on the data directory's "
       "file system may still grow by. false: for images larger than their file system [true]"},
      {"index-memory-max",
       absl::StrCat("Memory for looking things up, RocksDB's included; what does not fit is read "
                    "from disk [",
                    defaults.store.index_memory_max, "]")},
  };
}

int Fail(int exit_status, absl::string_view message) {
  std::cerr << "understudyd: " << message << std::endl;
  return exit_status;
}

int RunAlone(const DaemonOptions& options) {
  // The handler may run before the daemon exists; it then has nothing to shut down.
  static base::Mutex mutex;
  static Daemon* running = nullptr;
  base::HandleShutdownSignals([] {
    Daemon* daemon;
    {
      base::MutexLock lock(mutex);
      daemon = running;
    }
    if (daemon != nullptr) daemon->Shutdown();
  });
  absl::StatusOr<std::unique_ptr<Daemon>> daemon = Daemon::Start(options);
  if (!daemon.ok()) {
    base::ExitWith(kExitFailed, absl::StrCat("understudyd: ", daemon.status().message()));
  }
  {
    base::MutexLock lock(mutex);
    running = daemon->release();
  }
  while (true) pause();  // the signal thread ends the process
}

int RunInNbdkit(const DaemonOptions& options) {
  absl::Status status = base::ClaimUnixSocket(options.nbd_socket);
  if (!status.ok()) return Fail(kExitFailed, status.message());
  const absl::StatusOr<std::string> plugin = base::FindPlugin("understudyd-plugin.so");
  if (!plugin.ok()) return Fail(kExitFailed, plugin.status().message());
  base::NbdkitOptions nbdkit{.program = "understudyd",
                             .plugin_path = *plugin,
                             .socket_path = options.nbd_socket,
                             .parameters = options.Parameters()};
  return Fail(kExitFailed, base::ExecNbdkit(nbdkit).message());
}

int Main(int argc, char** argv) {
  base::IgnoreStraySignals();
  base::RaiseFileLimit();
  base::CommandLine line("understudyd: keeps warm standbys of virtual machines' disks");
  line.SetVersion(UNDERSTUDY_VERSION);
  line.AddSettings(Settings());
  const absl::StatusOr<bool> go_on = line.Parse(argc, argv);
  if (!go_on.ok()) return Fail(kExitUsage, go_on.status().message());
  if (!*go_on) return 0;
  DaemonOptions options;
  const std::vector<std::string> problems = line.Fill(options);
  if (!problems.empty()) {
    return Fail(kExitUsage,
                absl::StrCat("wrong usage\n  ",
                             absl::StrReplaceAll(absl::StrJoin(problems, "\n"), {{"\n", "\n  "}}),
                             "\ntry understudyd --help"));
  }
  return options.nbd_socket.empty() ? RunAlone(options) : RunInNbdkit(options);
}

}  // namespace
}  // namespace understudy::server

int main(int argc, char** argv) { return understudy::server::Main(argc, argv); }
