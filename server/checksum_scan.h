// server/checksum_scan.h
//
// ChecksumScan is one call of PrimaryWrites.Checksums without gRPC: it goes through a range of what a group has received and says
// slice by slice what is there. It checks anew with each slice that the caller is still the group's primary: after a failover
// there are no more.
//
// Cost     a slice of 1 MiB is read once; one of which the maps say that it is zero is not, and many of them make one slice. A slice
//          counts as zero or not as a whole, so that a disk of small runs of data and holes costs what a dense one does.
// Threads  one at a time, which must be allowed to block on files.
// Errors   of Begin() and Next(), which end the call: kNotFound reason UNKNOWN_GROUP; kFailedPrecondition with reason NOT_RUNNING or
//          FENCED, or when the group takes no writes of its primary; kInvalidArgument, kOutOfRange; kUnavailable at shutdown. What
//          cannot be read is a slice, and latched for GetError as a failed read.
#ifndef UNDERSTUDY_SERVER_CHECKSUM_SCAN_H_
#define UNDERSTUDY_SERVER_CHECKSUM_SCAN_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/byte_range.h"
#include "storage/base/ids.h"
#include "storage/replica.h"

namespace understudy::server {

class Group;
class Service;

inline constexpr uint64_t kChecksumSliceBytes = 1 << 20;
inline constexpr uint64_t kChecksumZeroBytesMax = 64 << 20;  // of a slice that is zero

// Fields as of ChecksumsRequest.
struct ChecksumQuery {
  std::string group;
  Incarnation incarnation;
  Term term;
  std::string volume;
  uint64_t offset = 0;
  uint64_t length = 0;
};

struct ChecksumSlice {
  enum class Content : uint8_t { kHashes, kZero, kUnreadable };
  ByteRange range;
  Content content = Content::kZero;
  std::string hashes;
};

class ChecksumScan {
 public:
  // `service` outlives the scan.
  static absl::StatusOr<std::unique_ptr<ChecksumScan>> Begin(Service& service,
                                                             const ChecksumQuery& query);
  // The next slice; nothing at the end of the range. Not to be called again after an error.
  absl::StatusOr<std::optional<ChecksumSlice>> Next();

 private:
  ChecksumScan(Service& service, std::shared_ptr<Group> group, const ChecksumQuery& query,
               const storage::VolumeInfo& volume);

  absl::StatusOr<ChecksumSlice> Look();
  // Through where all is known to be zero, from at_ on; a slice's bound.
  absl::StatusOr<uint64_t> ZeroesEnd();
  absl::StatusOr<ChecksumSlice> ReadSlice();
  absl::StatusOr<ChecksumSlice> Unreadable(const absl::Status& error);
  uint64_t SliceEnd(uint64_t at) const;

  Service& service_;
  const std::shared_ptr<Group> group_;
  const Incarnation incarnation_;
  const Term term_;
  const storage::VolumeInfo volume_;
  const uint64_t end_;
  uint64_t at_;
  uint64_t look_bytes_ = kChecksumSliceBytes;  // how far ahead the next look for zeroes goes
  std::vector<char> data_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_CHECKSUM_SCAN_H_
