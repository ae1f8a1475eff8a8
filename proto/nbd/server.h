// proto/nbd/server.h
//
// Server speaks NBD on a unix socket: fixed newstyle, simple, structured and extended replies.
// No client harms another one: what it may hold of memory, threads and time is bounded, and what
// it should not have sent ends its own connection only.
//
// Bounds   kConnectionsMax connections, kConnectionsOfProcessMax of one process; a handshake ends
//          within kHandshakeTimeout. In flight: kRequestsMax requests and kRequestBytesMax bytes of
//          a connection, kBytesMax of all; then nothing more is read from it.
// Source   doc/proto.md of NetworkBlockDevice/nbd, and its branch extension-ext-header.
// Threads  all methods from any thread.
#ifndef UNDERSTUDY_PROTO_NBD_SERVER_H_
#define UNDERSTUDY_PROTO_NBD_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "proto/nbd/device.h"
#include "proto/nbd/figures.h"
#include "storage/base/unix_socket.h"

namespace understudy::nbd {

class Server {
 public:
  // `catalog` outlives the server. Clients that have connected since `listener` was made are served
  // from now on.
  static std::unique_ptr<Server> Start(base::UnixListener listener, Catalog* catalog);
  // Ends every connection, waits for what their requests do, and removes the socket. A daemon that
  // has held requests back ends without it, so that no client takes the end for an answer.
  virtual ~Server() = default;

  virtual const Figures& figures() const = 0;
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_SERVER_H_
