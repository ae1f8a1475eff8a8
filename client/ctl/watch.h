// client/ctl/watch.h
//
// The command `watch`: follows a daemon until it is interrupted, over lost connections.
#ifndef UNDERSTUDY_CLIENT_CTL_WATCH_H_
#define UNDERSTUDY_CLIENT_CTL_WATCH_H_

#include <iosfwd>

#include "absl/status/status.h"

namespace understudy::base {
class Clock;
}  // namespace understudy::base
namespace understudy::client {
class ControlClient;
}  // namespace understudy::client

namespace understudy::ctl {

struct Invocation;
struct WatchCommand;

// Prints on `out` (which must be standard output when `command.live`) and says on `error` when the connection is lost. OK after
// SIGINT or SIGTERM; else what the daemon refused, or that none could be reached for `invocation.timeout`.
absl::Status Watch(const WatchCommand& command, const Invocation& invocation,
                   client::ControlClient& client, const base::Clock& clock, std::ostream& out,
                   std::ostream& error);

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_WATCH_H_
