// storage/piece.h
//
// Piece is a run of a volume's bytes with one source; resolving a range over a list of overlays gives pieces.
#ifndef UNDERSTUDY_STORAGE_PIECE_H_
#define UNDERSTUDY_STORAGE_PIECE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/byte_range.h"
#include "storage/format.h"

namespace understudy::storage {

class Overlay;
class Segment;

struct Piece {
  ByteRange range;
  const Overlay* overlay = nullptr;  // nullptr: the secondary disk
  std::shared_ptr<Segment> segment;  // where overlay has them; nullptr: zeroes
  Extent extent;
};

using OverlayList = std::vector<std::shared_ptr<Overlay>>;  // newest first

// Appends the pieces of `range` that `overlays` hold, in order; what none of them holds is appended as pieces of the disk
// when `with_disk`, else left out. I/O when extents are cold: REQUIRES no locks.
absl::Status ResolveOver(std::span<const std::shared_ptr<Overlay>> overlays, VolumeId volume,
                         ByteRange range, bool with_disk, std::vector<Piece>* pieces);
// Where the first byte at or after `offset` lies that one of `overlays` holds. I/O likewise.
absl::StatusOr<std::optional<uint64_t>> NextHeld(std::span<const std::shared_ptr<Overlay>> overlays,
                                                 VolumeId volume, uint64_t offset);

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_PIECE_H_
