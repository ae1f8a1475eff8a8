// client/client_types.h
//
// The words of the primary's side that several files share.
#ifndef UNDERSTUDY_CLIENT_CLIENT_TYPES_H_
#define UNDERSTUDY_CLIENT_CLIENT_TYPES_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

#include "storage/base/byte_range.h"
#include "storage/base/ids.h"

namespace understudy::client {

// What a primary needs to be let in: both must be equal to the secondary's on every frame.
struct Grant {
  Incarnation incarnation;
  Term term;
  bool none() const { return incarnation.none(); }
  friend bool operator==(const Grant&, const Grant&) = default;
};

struct VolumeSpec {
  std::string name;
  uint64_t size_bytes = 0;  // must equal the secondary's
};

// When a write or flush returns: queued in the window; the secondary has it; it survives a power cut there.
enum class AckMode : uint8_t { kForwarded, kReceived, kDurable };

// What becomes of a write when the window is full and no acknowledgement advances.
enum class OnFull : uint8_t { kDegrade, kBlock };

// As understudy.v1.SyncState, same numbers.
enum class SyncState : uint8_t {
  kUnspecified = 0,
  kAssumed = 1,
  kInSync = 2,
  kBehind = 3,
  kResyncing = 4,
  kDisconnected = 5,
  kDiverged = 6,
};

// Whether the disks are known to be equal but for what is known, or suspected, to differ: everything was compared, or is suspect, since
// the pair was made; or a verify has found them different.
enum class Proof : uint8_t { kNone, kProved, kRefuted };

// Where a stream goes on; stream_id 0: nowhere.
struct ResumePoint {
  uint64_t stream_id = 0;
  uint64_t next_sequence = 1;
  friend bool operator==(const ResumePoint&, const ResumePoint&) = default;
};

struct CheckpointResult {
  Epoch epoch;            // the one this checkpoint committed
  uint64_t sequence = 0;  // its marker's
  uint64_t bytes =
      0;  // of volume ranges the epoch changed; 0 when the answer was lost and only the epoch is known
  absl::Duration
      duration;  // at the secondary, from the marker's arrival to the commit; zero likewise
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_CLIENT_TYPES_H_
