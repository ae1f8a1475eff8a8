// storage/compactor.h
//
// Compactor keeps the log of an open overlay short while the same ranges are written again and again: it finds the segments
// that hold little that is still current, hands out what is, to be appended again, and then names the segments that nothing
// needs any more.
//
// Work     in small parts beside the appends, in proportion to them: a survey of the extents that counts what each segment still
//          holds, then a pass that collects the extents in the segments worth emptying.
// Bound    while it keeps up, segments hold at most about 1.5 times the overlay's data and two segments more.
// Threads  the one that appends to the overlay.
// Source   cost-benefit cleaning of log-structured file systems (Rosenblum and Ousterhout), without ages: an epoch is short.
#ifndef UNDERSTUDY_STORAGE_COMPACTOR_H_
#define UNDERSTUDY_STORAGE_COMPACTOR_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "storage/base/operation.h"
#include "storage/format.h"

namespace understudy::storage {

class Overlay;

class Compactor {
 public:
  explicit Compactor(uint64_t segment_bytes) : segment_bytes_(segment_bytes) {}

  // Whether, after `bytes` more of log, a part of the work on the open overlay is due. What was begun for another overlay is
  // forgotten.
  bool Due(const Overlay& overlay, uint64_t bytes);
  // The writes are faster than the work: its results should be made durable at once, and more of it be done.
  bool Behind(const Overlay& overlay) const;
  // No more of it for this overlay.
  void GiveUp() { given_up_ = true; }

  // What to append again now, and which segments nothing in memory names any more once it is appended.
  struct Step {
    std::vector<Operation> operations;  // DATA, in order
    std::string payload;
    std::vector<uint32_t> emptied;  // ordinals; release them when the index knows, durably
  };
  // REQUIRES: Due(). kDataLoss: an extent or its record in the index is damaged.
  absl::StatusOr<Step> Next(Overlay& overlay);

 private:
  enum class Phase { kIdle, kSurvey, kCollect };
  struct Cursor {
    uint32_t volume = 0;
    uint64_t offset = 0;
  };

  // Calls `visit` for up to `count` extents from the cursor on; false at the end of the overlay.
  template <typename Visit>
  absl::StatusOr<bool> Walk(Overlay& overlay, size_t count, Visit visit);
  absl::StatusOr<Step> Survey(Overlay& overlay);
  absl::StatusOr<Step> Collect(Overlay& overlay);
  void ChooseVictims(const Overlay& overlay);
  bool Garbage(const Overlay& overlay) const;

  const uint64_t segment_bytes_;
  OverlayId overlay_;
  bool given_up_ = false;
  Phase phase_ = Phase::kIdle;
  uint64_t since_last_ = 0;  // bytes of log since the last look
  uint64_t rest_until_ =
      0;  // segment_bytes() of the overlay below which a new survey cannot find more
  Cursor cursor_;
  std::map<uint32_t, uint64_t>
      live_;  // bytes by segment ordinal, at most: what is overwritten later is less
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_COMPACTOR_H_
