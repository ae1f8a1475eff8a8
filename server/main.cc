// understudyd: the replication service of the standby.
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "server/daemon.h"
#include "server/daemon_options.h"
#include "storage/base/command_line.h"
#include "storage/base/daemon_main.h"

namespace understudy::server {
namespace {

std::vector<base::Setting> Settings() {
  const DaemonOptions defaults;
  return {
      {"data-dir", "Directory of the index and the segments; made when missing. Required"},
      {"listen", absl::StrCat("gRPC address, host:port or unix:/path [", defaults.listen, "]")},
      {"metrics-listen",
       absl::StrCat("Address of /metrics, host:port [", defaults.metrics_listen, "]")},
      {"nbd-socket", "Unix socket of the NBD exports; without it no NBD is served"},
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

int Main(int argc, char** argv) {
  base::DaemonMain main("understudyd", "keeps warm standbys of virtual machines' disks",
                        UNDERSTUDY_VERSION, Settings());
  DaemonOptions options;
  if (const std::optional<int> exit_status = main.Read(argc, argv, options)) return *exit_status;
  main.Run<Daemon>(options);
}

}  // namespace
}  // namespace understudy::server

int main(int argc, char** argv) { return understudy::server::Main(argc, argv); }
