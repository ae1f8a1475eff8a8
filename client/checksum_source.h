// client/checksum_source.h
//
// What a sync or a verify needs from the standby: what it holds of a volume, as hashes of 4 KiB blocks (storage/base/block_hash.h)
// instead of the data. client/rpc/standby_checksums implements it over gRPC, tests with a fake.
//
// Threads   any; several Fetch() may run at once. Fetch() blocks, Cancel() does not.
// Errors    the service's code, message and reason: kFailedPrecondition with FENCED or NOT_RUNNING, kNotFound, ...; kUnavailable
//           when it cannot be reached or says nothing for too long; kInternal when its answer is not what was asked for.
#ifndef UNDERSTUDY_CLIENT_CHECKSUM_SOURCE_H_
#define UNDERSTUDY_CLIENT_CHECKSUM_SOURCE_H_

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

#include "client/client_types.h"
#include "storage/base/byte_range.h"

namespace understudy::client {

// Part of a range; kHashes at most 1 MiB, kZero more.
struct ChecksumSlice {
  enum class Content : uint8_t {
    kHashes,      // `hashes`: kBlockHashBytes for each block; a volume's last one may be shorter
    kZero,        // reads as zeroes
    kUnreadable,  // damaged there, or its disk fails: to be sent anew
  };
  ByteRange range;
  Content content = Content::kZero;
  std::string hashes;
};

class ChecksumSource {
 public:
  virtual ~ChecksumSource() = default;

  // `take` gets the slices of `range` in order and without gaps. It ends when the range is done, or with the first error of
  // `take`. Read while the call goes on, not at one instant: what the standby receives meanwhile may or may not be in it.
  // REQUIRES: `range` begins on 4 KiB and ends there or at the volume's end.
  virtual absl::Status Fetch(const std::string& group, const Grant& grant,
                             const std::string& volume, ByteRange range,
                             absl::FunctionRef<absl::Status(ChecksumSlice)> take) = 0;
  // Ends a Fetch() under way, and every later one, with kCancelled: at shutdown.
  virtual void Cancel() = 0;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_CHECKSUM_SOURCE_H_
