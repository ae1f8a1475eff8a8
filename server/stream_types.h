// server/stream_types.h
//
// What the two ends of a write stream tell each other, as the core sees it: proto/understudy/v1/primary_writes.proto without
// protobuf. Fields mean what the fields of the same name mean there.
#ifndef UNDERSTUDY_SERVER_STREAM_TYPES_H_
#define UNDERSTUDY_SERVER_STREAM_TYPES_H_

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"

#include "storage/base/ids.h"

namespace understudy::server {

struct StreamVolume {
  std::string name;
  uint64_t size_bytes = 0;
};

struct Handshake {
  std::string group;
  Incarnation incarnation;  // none(): grant me one
  Term term;                // 0: likewise
  std::string agent_id;
  uint64_t stream_id = 0;
  std::vector<StreamVolume> volumes;
  uint64_t first_available_sequence = 0;
  bool takeover = false;
  bool may_checkpoint = false;
};

struct HandshakeReply {
  Incarnation incarnation;
  Term term;
  uint64_t received_sequence = 0;
  uint64_t durable_sequence = 0;
  Epoch committed_epoch;
  uint64_t committed_sequence = 0;
  absl::Time committed_time = absl::UnixEpoch();
  absl::Duration committed_age;  // by the steady clock
  bool incomplete = false;
  std::vector<uint32_t> volume_ids;  // in the handshake's order
};

struct Ack {
  uint64_t received_sequence = 0;
  uint64_t durable_sequence = 0;
  uint64_t committed_epoch = 0;
  uint64_t committed_sequence = 0;
  uint64_t committed_bytes = 0;
  uint64_t committed_duration_micros = 0;
  bool incomplete = false;
  uint64_t aborted_sequence = 0;
  uint64_t prepared_epoch = 0;
  uint64_t prepared_sequence = 0;
  uint64_t echo_micros = 0;
  friend bool operator==(const Ack&, const Ack&) = default;
};

struct CheckpointWanted {};
struct HandoverWanted {};

using Answer = std::variant<HandshakeReply, Ack, CheckpointWanted, HandoverWanted>;

// One undecoded message of the stream; owns its bytes, which stay where they are while it lives.
class RawMessage {
 public:
  virtual ~RawMessage() = default;
  virtual std::span<const std::span<const char>> slices() const = 0;
  virtual uint64_t bytes() const = 0;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_STREAM_TYPES_H_
