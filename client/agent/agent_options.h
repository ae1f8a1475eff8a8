// client/agent/agent_options.h
//
// What understudy-agent can be told, by flag, configuration file or environment. One table of names
// for all of them: a key is the long flag without its dashes.
#ifndef UNDERSTUDY_CLIENT_AGENT_AGENT_OPTIONS_H_
#define UNDERSTUDY_CLIENT_AGENT_AGENT_OPTIONS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "client/primary.h"
#include "storage/base/unix_socket.h"

namespace understudy::client {

struct AgentOptions {
  std::string server;                     // gRPC of the standby: host:port or unix:/path; required
  std::string nbd_socket;                 // unix socket of the NBD exports; required
  base::SocketAccess nbd_access;          // who may connect to it
  std::string listen = "127.0.0.1:7420";  // gRPC: host:port or unix:/path
  std::string metrics_listen = "127.0.0.1:7421";  // metrics: host:port
  // Agent id, stage, grant. Default: DefaultStateDirectory(); where there is none it is required with tee, and without it forward
  // mode keeps no state.
  std::string state_dir;
  absl::Duration checkpoint_interval;  // zero: on demand only
  bool start = false;                  // begin replication at once when the stage is NONE
  // Files of the failback maps of the two ends of a pair that has ended; none: not given.
  std::vector<std::string> failback_maps;
  std::string write_failback_map;  // not to run: to give up the disks and to write this end's map
  PrimaryOptions primary;

  // Sets one option from text. kInvalidArgument names key and value; kNotFound for an unknown key.
  // volume adds. Paths become absolute.
  absl::Status Set(const std::string& key, const std::string& value);
  // Fills in what follows from the rest, then lists every problem at once; kInvalidArgument.
  absl::Status Validate();
  // `DISK.state` beside the first tee volume's disk when that is a regular file; else empty.
  std::string DefaultStateDirectory() const;
};

// NAME[,disk=PATH][,size=BYTES]; kInvalidArgument.
absl::StatusOr<PrimaryVolumeOptions> ParseVolume(const std::string& text);
// "64M" -> 67108864: digits with an optional K, M, G or T (binary). kInvalidArgument.
absl::StatusOr<uint64_t> ParseBytes(const std::string& text);

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_AGENT_AGENT_OPTIONS_H_
