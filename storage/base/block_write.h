// storage/base/block_write.h
//
// One write of a VM to a volume, as everything between its NBD request and the disk passes it on.
#ifndef UNDERSTUDY_STORAGE_BASE_BLOCK_WRITE_H_
#define UNDERSTUDY_STORAGE_BASE_BLOCK_WRITE_H_

#include <cstdint>
#include <span>

#include "storage/base/byte_range.h"

namespace understudy {

struct BlockWrite {
  uint64_t offset = 0;
  std::span<const char> data;  // the caller's, until the write is done
  bool fua = false;            // durable when it is answered

  ByteRange range() const { return ByteRange::OfLength(offset, data.size()); }
};

}  // namespace understudy

#endif  // UNDERSTUDY_STORAGE_BASE_BLOCK_WRITE_H_
