#include "client/comparison.h"

#include <algorithm>
#include <string>
#include <vector>

#include "client/volume.h"
#include "storage/base/block_hash.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

constexpr uint64_t kReadBytes = 1 << 20;

// Joins neighbouring blocks, so that `differs` gets runs.
class Runs {
 public:
  explicit Runs(absl::FunctionRef<void(ByteRange)> take) : take_(take) {}
  void Add(ByteRange range) {
    if (run_.end == range.start && !run_.empty()) {
      run_.end = range.end;
      return;
    }
    Flush();
    run_ = range;
  }
  void Flush() {
    if (!run_.empty()) take_(run_);
    run_ = {};
  }

 private:
  absl::FunctionRef<void(ByteRange)> take_;
  ByteRange run_;
};

// Of one read of at most kReadBytes.
void CompareBlocks(std::span<const char> data, uint64_t offset, absl::string_view hashes,
                   Runs& runs) {
  std::string here;
  if (!hashes.empty()) base::AppendBlockHashes(data, &here);
  for (uint64_t at = 0, block = 0; at < data.size(); at += base::kHashBlockBytes, ++block) {
    const uint64_t length = std::min<uint64_t>(base::kHashBlockBytes, data.size() - at);
    const size_t hash = block * base::kBlockHashBytes;
    const bool equal = hashes.empty()
                           ? base::AllZero(data.subspan(at, length))
                           : absl::string_view(here).substr(hash, base::kBlockHashBytes) ==
                                 hashes.substr(hash, base::kBlockHashBytes);
    if (!equal) runs.Add(ByteRange::OfLength(offset + at, length));
  }
}

absl::Status CompareSlice(Volume& volume, const ChecksumSlice& slice, std::vector<char>& buffer,
                          Runs& runs) {
  if (slice.content == ChecksumSlice::Content::kUnreadable) {
    runs.Add(slice.range);
    return absl::OkStatus();
  }
  const bool zero = slice.content == ChecksumSlice::Content::kZero;
  for (uint64_t offset = slice.range.start; offset < slice.range.end; offset += kReadBytes) {
    const ByteRange part{offset, std::min(offset + kReadBytes, slice.range.end)};
    ASSIGN_OR_RETURN(const bool hole, volume.IsHole(part));
    if (hole && zero) continue;
    const std::span<char> data = std::span(buffer).first(part.size());
    if (hole) {
      std::fill(data.begin(), data.end(), '\0');
    } else {
      RETURN_IF_ERROR(volume.ReadDisk(part.start, data));
    }
    const size_t first =
        (part.start - slice.range.start) / base::kHashBlockBytes * base::kBlockHashBytes;
    CompareBlocks(data, part.start,
                  zero ? absl::string_view() : absl::string_view(slice.hashes).substr(first), runs);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Compare(const Comparison& comparison, ByteRange range,
                     absl::FunctionRef<void(ByteRange)> differs,
                     absl::FunctionRef<absl::Status(ByteRange)> step) {
  std::vector<char> buffer(kReadBytes);
  Runs runs(differs);
  const absl::Status status = comparison.source->Fetch(
      comparison.group, comparison.grant, comparison.volume->options().name, range,
      [&](const ChecksumSlice& slice) -> absl::Status {
        RETURN_IF_ERROR(CompareSlice(*comparison.volume, slice, buffer, runs));
        return step(slice.range);
      });
  runs.Flush();
  return status;
}

}  // namespace understudy::client
