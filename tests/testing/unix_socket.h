// tests/testing/unix_socket.h
//
// A listening unix socket, as a live server has one; or, after Abandon(), the file that kill -9 leaves behind.
#ifndef UNDERSTUDY_TESTS_TESTING_UNIX_SOCKET_H_
#define UNDERSTUDY_TESTS_TESTING_UNIX_SOCKET_H_

#include <cstring>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "storage/base/log.h"

namespace understudy::testing {

class UnixListener {
 public:
  explicit UnixListener(const std::string& path) : fd_(socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    UNDERSTUDY_CHECK(path.size() < sizeof(address.sun_path), path);
    std::memcpy(address.sun_path, path.data(), path.size());
    UNDERSTUDY_CHECK(bind(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0,
                     path);
    UNDERSTUDY_CHECK(listen(fd_, 1) == 0, path);
  }
  ~UnixListener() { Abandon(); }
  UnixListener(const UnixListener&) = delete;
  UnixListener& operator=(const UnixListener&) = delete;

  // Nobody listens any more; the file stays.
  void Abandon() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_TESTING_UNIX_SOCKET_H_
