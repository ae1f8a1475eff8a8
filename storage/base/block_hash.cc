#include "storage/base/block_hash.h"

#include <algorithm>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace understudy::base {

void AppendBlockHashes(std::span<const char> data, std::string* hashes) {
  while (!data.empty()) {
    const size_t length = std::min<size_t>(data.size(), kHashBlockBytes);
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data.data(), length));
    static_assert(sizeof(canonical.digest) == kBlockHashBytes);
    hashes->append(reinterpret_cast<const char*>(canonical.digest), kBlockHashBytes);
    data = data.subspan(length);
  }
}

std::string ZeroBlockHash(uint64_t length) {
  const std::string zeroes(length, '\0');
  std::string hash;
  AppendBlockHashes(zeroes, &hash);
  return hash;
}

bool AllZero(std::span<const char> data) {
  // The first word by hand, the rest against itself one word later: as fast as memcmp is.
  constexpr size_t kWord = 16;
  if (data.size() <= kWord) {
    return std::all_of(data.begin(), data.end(), [](char byte) { return byte == 0; });
  }
  return AllZero(data.first(kWord)) &&
         std::memcmp(data.data(), data.data() + kWord, data.size() - kWord) == 0;
}

}  // namespace understudy::base
