// server/daemon_options.h
//
// What understudyd can be told, by flag, configuration file or environment. One table of names for
// all of them: a key is the long flag without its dashes.
#ifndef UNDERSTUDY_SERVER_DAEMON_OPTIONS_H_
#define UNDERSTUDY_SERVER_DAEMON_OPTIONS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"

#include "storage/base/unix_socket.h"
#include "storage/store.h"

namespace understudy::server {

struct DaemonOptions {
  std::string listen = "127.0.0.1:7410";          // gRPC: host:port or unix:/path
  std::string metrics_listen = "127.0.0.1:7411";  // metrics: host:port
  std::string nbd_socket;                         // unix socket of the NBD exports; empty: no NBD
  base::SocketAccess nbd_access;                  // who may connect to it
  storage::StoreOptions store;

  // Sets one option from text. kInvalidArgument names key and value; kNotFound for an unknown key.
  // disk-dir adds. Paths become absolute.
  absl::Status Set(const std::string& key, const std::string& value);
  // Every problem at once; kInvalidArgument.
  absl::Status Validate() const;
};

// "64M" -> 67108864: digits with an optional K, M, G or T (binary). kInvalidArgument.
absl::StatusOr<uint64_t> ParseBytes(const std::string& text);

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_DAEMON_OPTIONS_H_
