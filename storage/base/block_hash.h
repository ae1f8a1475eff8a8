// storage/base/block_hash.h
//
// What two hosts compare instead of the data: XXH3-128 of a 4 KiB block, in xxHash's canonical (big-endian) form. Not
// cryptographic: it finds what differs by chance, not what somebody has made to collide.
#ifndef UNDERSTUDY_STORAGE_BASE_BLOCK_HASH_H_
#define UNDERSTUDY_STORAGE_BASE_BLOCK_HASH_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/strings/string_view.h"

namespace understudy::base {

inline constexpr uint64_t kHashBlockBytes = 4096;
inline constexpr size_t kBlockHashBytes = 16;

// Appends the hash of each block of `data`; the last one may be shorter (a volume's end).
void AppendBlockHashes(std::span<const char> data, std::string* hashes);

// Of one block of zeroes of that length.
std::string ZeroBlockHash(uint64_t length = kHashBlockBytes);

bool AllZero(std::span<const char> data);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_BLOCK_HASH_H_
