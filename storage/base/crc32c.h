// storage/base/crc32c.h
//
// CRC32C (Castagnoli, RFC 3720 appendix B.4), with the SSE4.2 instruction where the processor has it.
#ifndef UNDERSTUDY_STORAGE_BASE_CRC32C_H_
#define UNDERSTUDY_STORAGE_BASE_CRC32C_H_

#include <cstddef>
#include <cstdint>

namespace understudy::base {

// The CRC of `crc`'s bytes followed by `data`: Extend(Extend(0, a), b) == Crc32c(a + b).
uint32_t ExtendCrc32c(uint32_t crc, const void* data, size_t bytes);

inline uint32_t Crc32c(const void* data, size_t bytes) { return ExtendCrc32c(0, data, bytes); }

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_CRC32C_H_
