// storage/base/block_runs.h
//
// What NBD's block status says of a volume: runs of bytes that are alike. BlockRuns collects the
// first ones of a range, and says when it has enough: so kPiecesMax bounds what an answer costs,
// however long the range is.
#ifndef UNDERSTUDY_STORAGE_BASE_BLOCK_RUNS_H_
#define UNDERSTUDY_STORAGE_BASE_BLOCK_RUNS_H_

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/status/status.h"

#include "storage/base/byte_range.h"
#include "storage/base/file_system.h"

namespace understudy {

struct BlockRun {
  ByteRange range;
  bool zero = false;  // reads as zeroes
  bool hole = false;  // no space is allocated for it

  friend bool operator==(const BlockRun&, const BlockRun&) = default;
};

class BlockRuns {
 public:
  // Pieces that are looked at: a run of very many may end early, as another answer begins there.
  static constexpr size_t kPiecesMax = 16384;

  explicit BlockRuns(size_t runs_max) : runs_max_(runs_max) {}

  // The next piece, right behind the one before; none is empty. False: it is not taken, and the
  // runs are complete.
  bool Add(const BlockRun& piece);
  // Pieces of `range` of a file, its data and holes, until one is not taken.
  absl::StatusOr<bool> AddFile(const base::File& file, ByteRange range);

  std::vector<BlockRun> Take() && { return std::move(runs_); }

 private:
  const size_t runs_max_;
  size_t pieces_ = 0;
  std::vector<BlockRun> runs_;  // neighbours differ
};

}  // namespace understudy

#endif  // UNDERSTUDY_STORAGE_BASE_BLOCK_RUNS_H_
