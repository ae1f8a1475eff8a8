// client/transport.h
//
// What the forwarder needs from a connection to the secondary: the messages of PrimaryWrites.Write as plain structs, and
// who calls whom. client/rpc/write_stream implements it over gRPC, tests with a fake.
//
// Sessions  every connection attempt has a number given by the forwarder. A call with another number than the current
//           session's is ignored, and events carry theirs: nothing of an old session can reach a new one.
// Threads   any thread may call the transport. Events come from threads of the transport, acknowledgements in order, OnClosed()
//           after all others have returned, never from within a call to the transport; they may call the transport.
#ifndef UNDERSTUDY_CLIENT_TRANSPORT_H_
#define UNDERSTUDY_CLIENT_TRANSPORT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

#include "client/client_types.h"
#include "client/frame.h"

namespace understudy::client {

// Fields as in proto/understudy/v1/primary_writes.proto.
struct Handshake {
  std::string group;
  Grant grant;  // none: asks for one
  std::string agent_id;
  uint64_t stream_id = 0;
  std::vector<VolumeSpec> volumes;
  uint64_t first_available_sequence = 1;
  bool takeover = false;
  Epoch last_committed_epoch;
  uint64_t last_committed_sequence = 0;
  bool may_checkpoint = false;
};

struct HandshakeReply {
  Grant grant;
  uint64_t received_sequence = 0;
  uint64_t durable_sequence = 0;
  Epoch committed_epoch;
  uint64_t committed_sequence = 0;
  absl::Time committed_time = absl::UnixEpoch();  // by the secondary's clock; the epoch: never
  std::optional<absl::Duration> committed_age;    // nothing: an earlier release does not say
  bool incomplete = false;
  std::vector<uint32_t> volume_ids;
  uint64_t frame_payload_bytes_max = 0;  // 0: kFramePayloadBytesMax
};

struct Ack {
  uint64_t received_sequence = 0;
  uint64_t durable_sequence = 0;
  Epoch committed_epoch;
  uint64_t committed_sequence = 0;
  uint64_t committed_bytes = 0;
  absl::Duration committed_duration;
  bool incomplete = false;
  uint64_t aborted_sequence = 0;
  uint64_t echo_micros = 0;
  Epoch prepared_epoch;
  uint64_t prepared_sequence = 0;
};

struct Heartbeat {
  bool durable_wanted = false;
  uint64_t sent_micros = 0;
  std::optional<Proof> proof;  // nothing: as before
};

class TransportEvents {
 public:
  virtual ~TransportEvents() = default;
  virtual void OnReply(uint64_t session, const HandshakeReply& reply) = 0;  // once, first
  virtual void OnAck(uint64_t session, const Ack& ack) = 0;
  virtual void OnCheckpointWanted(uint64_t session) = 0;
  virtual void OnHandoverWanted(uint64_t session) = 0;
  virtual void OnFrameSent(uint64_t session) = 0;  // SendFrame() may be called again
  // The last event of a session; also the answer to a failed attempt.
  virtual void OnClosed(uint64_t session, const absl::Status& status) = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;

  // Begins a session: connects and sends `handshake`. The session before it has been closed. `events` outlives the session,
  // that is its OnClosed().
  virtual void Connect(uint64_t session, const Handshake& handshake, TransportEvents* events) = 0;
  // At most one frame at a time: the next one after OnFrameSent().
  virtual void SendFrame(uint64_t session, const FrameHeader& header,
                         std::shared_ptr<const Frame> frame) = 0;
  // Goes out after the frame being sent; of several that wait the newest is sent, durable_wanted of any is kept.
  virtual void SendHeartbeat(uint64_t session, const Heartbeat& heartbeat) = 0;
  // Ends the session; OnClosed() follows soon, even when the peer does not answer.
  virtual void Close(uint64_t session) = 0;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_TRANSPORT_H_
