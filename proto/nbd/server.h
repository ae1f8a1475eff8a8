// proto/nbd/server.h
//
// Server speaks NBD on a unix socket: fixed newstyle, simple, structured and extended replies.
// No client harms another one: what it may hold of memory, threads and time is bounded, and what
// it should not have sent ends its own connection only.
//
// Bounds   of connections and of what all of them hold: below; of one: connection.h, handshake.h.
//          A connection that is idle takes a thread that sleeps.
// Source   doc/proto.md of NetworkBlockDevice/nbd, and its branch extension-ext-header.
// Threads  all methods from any thread.
#ifndef UNDERSTUDY_PROTO_NBD_SERVER_H_
#define UNDERSTUDY_PROTO_NBD_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "proto/nbd/device.h"
#include "proto/nbd/figures.h"
#include "storage/base/unix_socket.h"

namespace understudy::nbd {

inline constexpr int kConnectionsMax = 8192;
inline constexpr int kConnectionsOfProcessMax = 256;
// Of all processes in other process-id namespaces together, such as containers: the kernel does not
// tell them apart.
inline constexpr int kConnectionsOfUnknownMax = 4096;
// Of requests in flight, of all connections together, beyond what each has of its own.
inline constexpr uint64_t kBytesMax = 512 << 20;

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
