#include "storage/base/unix_socket.h"

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "storage/base/file_system.h"
#include "storage/base/status_macros.h"

namespace understudy::base {
namespace {

constexpr int kBacklog = 512;

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path \"", path, "\" must have 1 to ",
                                                   sizeof(address.sun_path) - 1, " bytes"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// 0 when somebody listens on the socket, else the errno of the attempt.
absl::StatusOr<int> ProbeUnixSocket(const std::string& path) {
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  // Non-blocking: a listener whose backlog is full answers EAGAIN instead of keeping us.
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return ErrnoStatus(errno, "socket");
  const int result = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  const int error_number = result == 0 || errno == EAGAIN ? 0 : errno;
  close(fd);
  return error_number;
}

absl::StatusOr<mode_t> ModeOf(const SocketAccess& access) {
  const bool octal = !access.mode.empty() && access.mode.size() <= 4 &&
                     access.mode.find_first_not_of("01234567") == std::string::npos;
  const unsigned long mode = octal ? std::strtoul(access.mode.c_str(), nullptr, 8) : 0;
  if (octal && mode <= 0777) return static_cast<mode_t>(mode);
  return absl::InvalidArgumentError(
      absl::StrCat("\"", access.mode, "\" is not an octal mode such as 660 or 600"));
}

// -1: leave it as it is.
absl::StatusOr<gid_t> GroupOf(const SocketAccess& access) {
  uint32_t number = 0;
  if (access.group.empty()) return static_cast<gid_t>(-1);
  if (absl::SimpleAtoi(access.group, &number)) return static_cast<gid_t>(number);
  if (const group* const found = getgrnam(access.group.c_str())) return found->gr_gid;
  return absl::InvalidArgumentError(
      absl::StrCat("there is no group \"", access.group, "\" on this host"));
}

}  // namespace

absl::Status ClaimUnixSocket(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) == 0 && !S_ISSOCK(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " exists and is not a socket; remove it or choose another path"));
  }
  ASSIGN_OR_RETURN(const int error_number, ProbeUnixSocket(path));
  switch (error_number) {
    case ENOENT:
      return absl::OkStatus();
    case 0:
    case EPROTOTYPE:  // a socket of another type, bound by somebody
      return absl::FailedPreconditionError(absl::StrCat(
          path, ": another process listens on this socket; end it or choose another path"));
    case ECONNREFUSED:
      if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
      return ErrnoStatus(errno, absl::StrCat(path, ": remove the stale socket"));
    default:
      return ErrnoStatus(error_number, path);
  }
}

absl::Status CheckSocketAccess(const SocketAccess& access) {
  RETURN_IF_ERROR(ModeOf(access).status());
  return GroupOf(access).status();
}

absl::Status SetSocketAccess(const std::string& path, const SocketAccess& access) {
  ASSIGN_OR_RETURN(const mode_t mode, ModeOf(access));
  ASSIGN_OR_RETURN(const gid_t group, GroupOf(access));
  if (chown(path.c_str(), static_cast<uid_t>(-1), group) != 0) {
    return ErrnoStatus(errno, absl::StrCat(path, ": group ", access.group,
                                           " (remedy: a group that the daemon's user is in)"));
  }
  return chmod(path.c_str(), mode) == 0 ? absl::OkStatus() : ErrnoStatus(errno, path);
}

absl::StatusOr<UnixListener> UnixListener::Listen(const std::string& path,
                                                  const SocketAccess& access) {
  RETURN_IF_ERROR(ClaimUnixSocket(path));
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return ErrnoStatus(errno, "socket");
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    const int error_number = errno;
    close(fd);
    return ErrnoStatus(error_number, path);
  }
  UnixListener listener(fd, path);
  // Nobody can connect before listen(), whatever the file's mode was until then.
  RETURN_IF_ERROR(SetSocketAccess(path, access));
  if (listen(fd, kBacklog) != 0) return ErrnoStatus(errno, path);
  return listener;
}

UnixListener::UnixListener(UnixListener&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

UnixListener::~UnixListener() {
  if (fd_ < 0) return;
  unlink(path_.c_str());
  close(fd_);
}

}  // namespace understudy::base
