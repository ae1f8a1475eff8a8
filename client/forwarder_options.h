// client/forwarder_options.h
//
// How a Forwarder behaves. Every field's comment ends in its default and who should touch it.
#ifndef UNDERSTUDY_CLIENT_FORWARDER_OPTIONS_H_
#define UNDERSTUDY_CLIENT_FORWARDER_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "client/client_types.h"

namespace understudy::client {

inline constexpr uint64_t kWindowBytesMin = 2 << 20;

struct ForwarderOptions {
  std::string group;                // required
  std::vector<VolumeSpec> volumes;  // required; Write() names them by their index here
  // Who we are: the secondary binds the primaryship to it. Required, the same over restarts, another one on another host.
  std::string agent_id;
  // Payload and operations kept for resending, at most. 64 MiB; more for a fast link with long stalls.
  uint64_t window_bytes = 64 << 20;
  // When Write() and Flush() return. Forwarded; the others for `stop --failover --received`.
  AckMode ack = AckMode::kForwarded;
  // When the window stays full: give up completeness, or hold the writer. Degrade; block where a stopped VM is better than an
  // unprotected one.
  OnFull on_full = OnFull::kDegrade;
  // How long a full window waits for an acknowledgement to advance. 500 ms; raise it for slow secondary disks.
  absl::Duration stall_timeout = absl::Milliseconds(500);
  // In a full window the ranges of so many operations are remembered until they are durable, in place of what was received: for whoever can
  // read them again when ForwarderListener::OnMissed() tells that the standby lost them. None; client/primary, where all volumes are tee.
  uint64_t remembered_ranges_max = 0;
  // The standby may commit any prefix of the stream by itself when it runs out of space. False; true where checkpoints are
  // taken by interval, so that nobody has told the VM's clients which ones there are.
  bool may_checkpoint = false;
  absl::Duration heartbeat = absl::Milliseconds(500);  // 500 ms; nobody
  // No word for this long: the peer is lost, the connection is made anew. 3 s; nobody.
  absl::Duration lost_peer = absl::Seconds(3);
  absl::Duration backoff_min = absl::Milliseconds(50);   // 50 ms; nobody
  absl::Duration backoff_max = absl::Milliseconds(500);  // 500 ms; nobody

  // kInvalidArgument listing every problem at once.
  absl::Status Validate() const;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_FORWARDER_OPTIONS_H_
