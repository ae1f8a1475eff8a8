// storage/base/unix_socket.h
//
// A unix socket as a daemon claims it: one that a dead process has left is replaced, a live one is
// refused, and nobody can connect before its owner, group and mode are right.
#ifndef UNDERSTUDY_STORAGE_BASE_UNIX_SOCKET_H_
#define UNDERSTUDY_STORAGE_BASE_UNIX_SOCKET_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace understudy::base {

// Makes `path` free to bind: removes a socket file nobody listens on; kFailedPrecondition naming
// the path when somebody does or when it is not a socket. OK when nothing is there.
absl::Status ClaimUnixSocket(const std::string& path);

// Who may connect to a unix socket: its owner, and whom these name.
struct SocketAccess {
  std::string mode = "660";  // octal
  std::string group;         // name or number; empty: that of the process
};
// kInvalidArgument: the mode is not 0 to 777, or there is no such group on this host.
absl::Status CheckSocketAccess(const SocketAccess& access);
absl::Status SetSocketAccess(const std::string& path, const SocketAccess& access);

// A socket that listens. Whoever connects waits in its backlog until somebody accepts.
class UnixListener {
 public:
  // Claims `path` and listens on it. As ClaimUnixSocket(); kPermissionDenied, with the remedy, when
  // the process is not a member of the group.
  static absl::StatusOr<UnixListener> Listen(const std::string& path, const SocketAccess& access);
  UnixListener(UnixListener&& other) noexcept;
  UnixListener& operator=(UnixListener&&) = delete;
  ~UnixListener();  // closes it, and removes the file

  int fd() const { return fd_; }  // non-blocking
  const std::string& path() const { return path_; }

 private:
  UnixListener(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  int fd_;  // -1: moved from
  std::string path_;
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_UNIX_SOCKET_H_
