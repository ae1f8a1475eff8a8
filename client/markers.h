// client/markers.h
//
// The CHECKPOINT operations of a stream whose outcome is not known yet, or is known and not fetched.
//
// A marker outlives the call that queued it: when the call's deadline passes the marker is abandoned, and the next call
// adopts it, so that a repeated call returns the epoch of the first one's marker. A marker whose answer was lost with the
// connection is repeated: it keeps its id and gets the sequence of a new CHECKPOINT operation, which it may share with others.
//
// Threads  none of its own: the owner guards it.
#ifndef UNDERSTUDY_CLIENT_MARKERS_H_
#define UNDERSTUDY_CLIENT_MARKERS_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"

#include "client/client_types.h"

namespace understudy::client {

enum class MarkerOwner : uint8_t {
  kCaller,     // a call waits for it
  kSecondary,  // asked for by the secondary: nobody here waits
  kAbandoned,  // its call has given up
};

class Markers {
 public:
  struct Finished {
    absl::Duration queued_at;
    absl::Status status;
  };

  // Returns the marker's id, by which the methods after this one know it. Ids never repeat.
  uint64_t Add(uint64_t sequence, MarkerOwner owner, absl::Duration now);
  // An abandoned marker that is still pending, or one that has finished and nothing was queued after it.
  std::optional<uint64_t> Adopt(uint64_t next_sequence);
  void Abandon(uint64_t id);
  void Forget(uint64_t id);  // nobody asks again
  // The outcome, once; nothing while it is pending.
  std::optional<absl::StatusOr<CheckpointResult>> Take(uint64_t id);

  // Pending markers through `sequence` will not be answered any more. ForgetUnwanted() drops those that no call waits for and
  // says whether there are others; Repeat() lets these stand for the operation `repeated`.
  bool ForgetUnwanted(uint64_t through);
  void Repeat(uint64_t through, uint64_t repeated);

  // The secondary has committed `result.epoch`, and the marker `result.sequence` in it or before. Pending markers through there
  // count as committed with it: their operations are in that epoch or an earlier one. Each of these returns the markers it
  // decided.
  std::vector<Finished> Committed(const CheckpointResult& result);
  std::vector<Finished> Aborted(uint64_t sequence, uint64_t committed_sequence,
                                const absl::Status& status);
  std::vector<Finished> FailAll(const absl::Status& status);

 private:
  struct Marker {
    uint64_t id = 0;
    uint64_t sequence = 0;
    MarkerOwner owner = MarkerOwner::kCaller;
    absl::Duration queued_at;
    std::optional<absl::StatusOr<CheckpointResult>> outcome;
  };
  Marker* Find(uint64_t id);
  void Finish(Marker& marker, absl::StatusOr<CheckpointResult> outcome,
              std::vector<Finished>& finished);
  void DropUnwanted();

  uint64_t next_id_ = 1;
  std::deque<Marker> markers_;  // in the order of their sequences
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_MARKERS_H_
