// storage/chain.h
//
// Chain is what the secondary VM's disk is made of at one moment:
//     active overlay -> committed overlays, newest first -> secondary disk
//
// A Chain never changes, but its active overlay does. Resolve() may read the index, where an overlay's extents are cold, so it
// runs without the replica's view lock; who may be overtaken by a change of active and chain together (the end of a commit
// window) looks afterwards whether the chain is still the same. A piece stays readable as long as the Chain it came from
// is held.
#ifndef UNDERSTUDY_STORAGE_CHAIN_H_
#define UNDERSTUDY_STORAGE_CHAIN_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

#include "storage/piece.h"
#include "storage/replica.h"

namespace understudy::storage {

class SecondaryDisk;
class ViewCache;

// kOutOfRange for a range that is not sector-aligned or ends past the volume.
absl::Status CheckRange(const VolumeInfo& volume, ByteRange range);

struct Chain {
  Stage stage = Stage::kNone;
  bool valid = false;  // the view is a state the primary had
  std::shared_ptr<Overlay> active;
  OverlayList committed;
  // FAILOVER: committed overlays count only from this offset on, per volume; below it the disk has their data.
  std::vector<uint64_t> merged_through;
  std::vector<std::shared_ptr<SecondaryDisk>> disks;  // by VolumeId; nullptr: could not be opened

  // Pieces that cover `range`. `cache`: for what comes back to the same places, whatever number of epochs is kept.
  absl::StatusOr<std::vector<Piece>> Resolve(VolumeId volume, ByteRange range,
                                             ViewCache* cache = nullptr) const;
  // The first byte at or after `offset` that the disk does not have yet.
  absl::StatusOr<std::optional<uint64_t>> NextUnmerged(VolumeId volume, uint64_t offset) const;
  absl::Status Read(VolumeId volume, const Piece& piece, std::span<char> out) const;
  // The first `runs_max` runs of `range`, of BlockRuns::kPiecesMax pieces at most. `same`, asked
  // after each look at the overlays: the look was not overtaken. If one was, the runs end before
  // it, and there may be none.
  absl::StatusOr<std::vector<BlockRun>> Map(VolumeId volume, ByteRange range, size_t runs_max,
                                            absl::FunctionRef<bool()> same,
                                            ViewCache* cache = nullptr) const;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_CHAIN_H_
