// understudy-agent: serves the primary VM's disks over NBD and forwards its writes to the standby.
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "client/agent/agent.h"
#include "client/agent/agent_options.h"
#include "storage/base/command_line.h"
#include "storage/base/daemon_main.h"

namespace understudy::client {
namespace {

std::vector<base::Setting> Settings() {
  const AgentOptions defaults;
  return {
      {"server", "gRPC address of the standby's understudyd, host:port or unix:/path. Required"},
      {"group", "Name of the group: all volumes of one VM. Required"},
      {"volume",
       "NAME[,disk=PATH][,size=BYTES]: with a disk it is read, written and forwarded (tee), "
       "without "
       "one writes are only forwarded and size is needed; a comma in PATH is written twice. "
       "Repeatable, required",
       base::Setting::kMany},
      {"nbd-socket", "Unix socket of the NBD exports, named GROUP/VOLUME. Required"},
      {"nbd-socket-mode", "Who may connect to it: an octal mode [660]"},
      {"nbd-socket-group",
       "Its group, QEMU's: a name or number that the agent's user is in [the process's]"},
      {"listen", absl::StrCat("gRPC address, host:port or unix:/path [", defaults.listen, "]")},
      {"metrics-listen",
       absl::StrCat("Address of /metrics, host:port [", defaults.metrics_listen, "]")},
      {"ack",
       "When a write is answered: forwarded, received or durable at the standby [forwarded]"},
      {"window-bytes", "Memory for writes not yet durable at the standby [64M]"},
      {"on-full",
       "Window full and the standby stalled: degrade (skip, GetError tells) or block [degrade]"},
      {"dirty-map-bytes",
       "Memory for what is missing at the standby; beyond it is known in steps of 4 MiB only "
       "[16M]"},
      {"intent-regions",
       "Regions of 4 MiB marked as written, before the least recently written are cleaned [4096]"},
      {"resync-bytes-per-second", "Limit of what a resync compares or sends [none]"},
      {"stall-timeout", "How long a full window waits for an acknowledgement to advance [500ms]"},
      {"checkpoint-interval",
       "Take a checkpoint every so often, such as 5s; without it on demand only"},
      {"start", "Begin replication at once", base::Setting::kSwitch},
      {"state-dir",
       "Directory of agent id, stage, term and what may differ [DISK.state beside the first "
       "volume's disk]"},
      {"failback-map",
       "The way back after a failover: a file that `understudyctl remove --failback-map` or "
       "--write-failback-map has written. Both ends' are needed; only what they name is compared",
       base::Setting::kMany},
      {"write-failback-map",
       "Do not run: write to this file what may differ from the standby that has taken over, and "
       "give up the disks: this agent refuses its VM's writes until a standby lets it in again"},
      {"on-fenced", "Another primary has taken over: stop (guest I/O fails) or continue [stop]"},
      {"report-forward-errors",
       "Volumes without a disk: the guest gets an error when a write is not forwarded",
       base::Setting::kSwitch},
  };
}

int Main(int argc, char** argv) {
  base::DaemonMain main("understudy-agent",
                        "serves a primary VM's disks and forwards its writes to the standby",
                        UNDERSTUDY_VERSION, Settings());
  AgentOptions options;
  if (const std::optional<int> exit_status = main.Read(argc, argv, options)) return *exit_status;
  if (options.write_failback_map.empty()) main.Run<Agent>(options);
  const absl::Status written = WriteFailbackMap(options);
  if (!written.ok()) return main.Fail(written);
  std::cout << "wrote " << options.write_failback_map
            << "; the disks are given up: this agent refuses writes from now on" << std::endl;
  return 0;
}

}  // namespace
}  // namespace understudy::client

int main(int argc, char** argv) { return understudy::client::Main(argc, argv); }
