// client/rpc/write_stream.h
//
// WriteStream is the forwarder's Transport over gRPC: PrimaryWrites.Write with the callback API and raw byte buffers, so that the
// data of a write is never copied between the window and the socket.
//
// Threads   as client/transport.h says; events come from gRPC's threads. No lock is held while calling gRPC or the events.
// Sessions  each has a connection of its own. One that is closed while the network takes none of its bytes is left behind, until
//           keepalive or TCP ends it; it keeps at most one frame and what the socket buffers hold.
// Errors    OnClosed() has the service's code, message and reason; kUnavailable when nobody can be reached.
// Lifetime  destroy it after the forwarder that uses it.
#ifndef UNDERSTUDY_CLIENT_RPC_WRITE_STREAM_H_
#define UNDERSTUDY_CLIENT_RPC_WRITE_STREAM_H_

#include <memory>
#include <string>

#include "client/transport.h"
#include "storage/base/mutex.h"

namespace understudy::client {

class WriteStream : public Transport {
 public:
  // `server` is host:port or unix:/path of an understudyd. Connects when the forwarder asks for it.
  explicit WriteStream(const std::string& server);
  ~WriteStream() override;

  void Connect(uint64_t session, const Handshake& handshake, TransportEvents* events) override;
  void SendFrame(uint64_t session, const FrameHeader& header,
                 std::shared_ptr<const Frame> frame) override;
  void SendHeartbeat(uint64_t session, const Heartbeat& heartbeat) override;
  void Close(uint64_t session) override;

 private:
  class Session;
  std::shared_ptr<Session> Find(uint64_t session);

  const std::string server_;
  base::Mutex mutex_;
  std::shared_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);  // the newest
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_RPC_WRITE_STREAM_H_
