// storage/chain.h
//
// Chain is what the secondary VM's disk is made of at one moment:
//     active overlay -> committed overlays, newest first -> secondary disk
//
// A Chain never changes, but its active overlay does: Resolve() runs under the replica's view lock (shared), I/O on the pieces
// does not need it. A piece stays readable as long as the Chain it came from is held.
#ifndef UNDERSTUDY_STORAGE_CHAIN_H_
#define UNDERSTUDY_STORAGE_CHAIN_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"

#include "storage/overlay.h"
#include "storage/secondary_disk.h"

namespace understudy::storage {

// A run of a volume's bytes with one source.
struct Piece {
  ByteRange range;
  const Overlay* overlay = nullptr;  // nullptr: the secondary disk
  const Segment* segment = nullptr;  // where overlay has them; nullptr: zeroes
  Extent extent;
};

using OverlayList = std::vector<std::shared_ptr<Overlay>>;  // newest first

// Appends the pieces of `range` that `overlays` hold, in order; what none of them holds is appended as pieces of the disk
// when `with_disk`, else left out.
void ResolveOver(std::span<const std::shared_ptr<Overlay>> overlays, VolumeId volume,
                 ByteRange range, bool with_disk, std::vector<Piece>* pieces);
// Where the first byte at or after `offset` lies that one of `overlays` holds.
std::optional<uint64_t> NextHeld(std::span<const std::shared_ptr<Overlay>> overlays,
                                 VolumeId volume, uint64_t offset);

struct Chain {
  Stage stage = Stage::kNone;
  bool valid = false;  // the view is a state the primary had
  std::shared_ptr<Overlay> active;
  OverlayList committed;
  // FAILOVER: committed overlays count only from this offset on, per volume; below it the disk has their data.
  std::vector<uint64_t> merged_through;
  std::vector<std::shared_ptr<SecondaryDisk>> disks;  // by VolumeId; nullptr: could not be opened

  // Pieces that cover `range`.
  std::vector<Piece> Resolve(VolumeId volume, ByteRange range) const;
  // The first byte at or after `offset` that the disk does not have yet.
  std::optional<uint64_t> NextUnmerged(VolumeId volume, uint64_t offset) const;
  absl::Status Read(VolumeId volume, const Piece& piece, std::span<char> out) const;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_CHAIN_H_
