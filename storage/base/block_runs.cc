#include "storage/base/block_runs.h"

#include <algorithm>

#include "storage/base/status_macros.h"

namespace understudy {

bool BlockRuns::Add(const BlockRun& piece) {
  if (pieces_++ >= kPiecesMax) return false;
  if (!runs_.empty() && runs_.back().zero == piece.zero && runs_.back().hole == piece.hole) {
    runs_.back().range.end = piece.range.end;
    return true;
  }
  if (runs_.size() == runs_max_) return false;
  runs_.push_back(piece);
  return true;
}

absl::StatusOr<bool> BlockRuns::AddFile(const base::File& file, ByteRange range) {
  while (!range.empty()) {
    ASSIGN_OR_RETURN(const ByteRange found, file.NextData(range.start));
    const ByteRange data = found.Intersect(range);
    const uint64_t hole_end = data.empty() ? range.end : data.start;
    if (hole_end > range.start &&
        !Add({.range = {range.start, hole_end}, .zero = true, .hole = true})) {
      return false;
    }
    if (!data.empty() && !Add({.range = data})) return false;
    range.start = data.empty() ? range.end : data.end;
  }
  return true;
}

}  // namespace understudy
