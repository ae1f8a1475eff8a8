// client/differences.h
//
// Differences is what a primary knows of where its disks and the standby may differ, volume by volume:
//
//     missing   written here and known to be missing there: writes that were skipped, or dropped with the window
//     suspect   not known: a crash may have lost them on the way, or nothing is known of the standby's disk; to be compared
//
// Invariant  what differs is missing, or suspect, or in the forwarder's window. So a range is taken out before it is queued, and put
//            back when it could not be; and whoever drops a window adds what it held.
// Memory     `bytes_max` for all volumes together, a half for each of the two (client/dirty_map.h), and about 20 bytes for each region of
//            4 MiB in which something differs.
// File       EncodeAll()/DecodeAll(): kept over an orderly restart in the agent's state directory.
// Threads    all methods from any thread; a leaf lock, no I/O.
#ifndef UNDERSTUDY_CLIENT_DIFFERENCES_H_
#define UNDERSTUDY_CLIENT_DIFFERENCES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

#include "client/client_types.h"
#include "client/dirty_map.h"
#include "storage/base/byte_range.h"
#include "storage/base/mutex.h"

namespace understudy::client {

class Differences {
 public:
  Differences(const std::vector<VolumeSpec>& volumes, uint64_t bytes_max);

  void AddMissing(uint32_t volume, ByteRange range);
  void RemoveMissing(uint32_t volume, ByteRange range);
  // As DirtyMap::Next().
  std::optional<ByteRange> NextMissing(uint32_t volume, uint64_t from, uint64_t length_max) const;

  // What to compare: runs of blocks. What lies between two that are near each other is compared with them.
  struct Suspect {
    ByteRange range;
    uint64_t generation = 0;
  };
  void AddSuspect(uint32_t volume, ByteRange range);
  void SuspectAll();
  std::optional<Suspect> NextSuspect(uint32_t volume, uint64_t from, uint64_t length_max) const;
  // It was compared, and what differs added to the missing. Nothing if any was suspected anew meanwhile.
  void RemoveSuspect(uint32_t volume, const Suspect& suspect);

  bool empty() const;
  // The predicate of the write-intent log's cleaning.
  bool Holds(uint32_t volume, ByteRange range) const;
  uint64_t missing_bytes(uint32_t volume) const;
  uint64_t suspect_bytes(uint32_t volume) const;
  uint64_t bytes() const;  // of both, all volumes
  size_t volumes() const { return sizes_.size(); }

  std::string EncodeAll() const;
  // Adds what `encoded` has. kDataLoss when it is damaged, kFailedPrecondition when it is of other volumes or a newer release; nothing
  // is added then.
  absl::Status DecodeAll(absl::string_view encoded);

 private:
  struct Maps {
    DirtyMap missing;
    DirtyMap suspect;
  };

  const std::vector<uint64_t> sizes_;
  const uint64_t bytes_max_;  // of each map
  mutable base::Mutex mutex_;
  std::vector<Maps> maps_ ABSL_GUARDED_BY(mutex_);
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;  // of suspicion
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_DIFFERENCES_H_
