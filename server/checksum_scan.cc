#include "server/checksum_scan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "server/service.h"
#include "storage/base/block_hash.h"
#include "storage/base/status_macros.h"

namespace understudy::server {
namespace {

absl::StatusOr<storage::VolumeInfo> FindVolume(const Group& group, const std::string& name) {
  for (const storage::VolumeInfo& volume : group.volumes()) {
    if (volume.name == name) return volume;
  }
  return absl::InvalidArgumentError(absl::StrCat("group ", group.name(), " has no volume \"", name,
                                                 "\" at the standby: open it there"));
}

absl::Status CheckBounds(const std::string& group, const storage::VolumeInfo& volume,
                         uint64_t offset, uint64_t length) {
  const std::string what = absl::StrCat("volume ", group, "/", volume.name,
                                        ": checksums of offset ", offset, " length ", length);
  if (offset > volume.size_bytes || length > volume.size_bytes - offset) {
    return absl::OutOfRangeError(absl::StrCat(what, " end past ", volume.size_bytes));
  }
  const bool to_the_end = offset + length == volume.size_bytes;
  if (offset % base::kHashBlockBytes == 0 && (to_the_end || length % base::kHashBlockBytes == 0)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(what, ": both must be multiples of ",
                                                 base::kHashBlockBytes,
                                                 ", or the length end at the volume's"));
}

}  // namespace

ChecksumScan::ChecksumScan(Service& service, std::shared_ptr<Group> group,
                           const ChecksumQuery& query, const storage::VolumeInfo& volume)
    : service_(service),
      group_(std::move(group)),
      incarnation_(query.incarnation),
      term_(query.term),
      volume_(volume),
      end_(query.offset + query.length),
      at_(query.offset) {}

absl::StatusOr<std::unique_ptr<ChecksumScan>> ChecksumScan::Begin(Service& service,
                                                                  const ChecksumQuery& query) {
  ASSIGN_OR_RETURN(std::shared_ptr<Group> group, service.FindGroup(query.group));
  RETURN_IF_ERROR(group->CheckPrimary(query.incarnation, query.term));
  ASSIGN_OR_RETURN(const storage::VolumeInfo volume, FindVolume(*group, query.volume));
  RETURN_IF_ERROR(CheckBounds(group->name(), volume, query.offset, query.length));
  return std::unique_ptr<ChecksumScan>(new ChecksumScan(service, std::move(group), query, volume));
}

absl::StatusOr<std::optional<ChecksumSlice>> ChecksumScan::Next() {
  if (at_ == end_) return std::optional<ChecksumSlice>();
  const base::IoGate::Pass pass(service_.io_gate());
  if (!pass.open()) return absl::UnavailableError("the service is shutting down");
  absl::StatusOr<ChecksumSlice> slice = Look();
  // Before what the read says: it may have failed, or read what the promoted VM wrote, because of a failover.
  RETURN_IF_ERROR(group_->CheckPrimary(incarnation_, term_));
  RETURN_IF_ERROR(slice.status());
  at_ = slice->range.end;
  return std::optional<ChecksumSlice>(*std::move(slice));
}

absl::StatusOr<ChecksumSlice> ChecksumScan::Look() {
  const absl::StatusOr<uint64_t> zeroes_end = ZeroesEnd();
  if (!zeroes_end.ok()) return Unreadable(zeroes_end.status());
  if (*zeroes_end == at_) return ReadSlice();
  return ChecksumSlice{.range = {at_, *zeroes_end}};
}

uint64_t ChecksumScan::SliceEnd(uint64_t at) const {
  return std::min(end_, RoundDown(at, kChecksumSliceBytes) + kChecksumSliceBytes);
}

// It looks twice as far each time that all is zero, and one slice after some data: however data and holes alternate, what is looked
// at in vain is less than what is not.
absl::StatusOr<uint64_t> ChecksumScan::ZeroesEnd() {
  uint64_t zeroes_end = at_;
  const uint64_t limit = std::min(end_, at_ + kChecksumZeroBytesMax);
  while (zeroes_end < limit) {
    const ByteRange range = {
        zeroes_end, std::min(limit, std::max(SliceEnd(zeroes_end), zeroes_end + look_bytes_))};
    ASSIGN_OR_RETURN(zeroes_end, group_->replica().ReceivedZeroesEnd(volume_.id, range));
    if (zeroes_end < range.end) {
      look_bytes_ = kChecksumSliceBytes;
      return std::max(at_, RoundDown(zeroes_end, kChecksumSliceBytes));
    }
    look_bytes_ = std::min(2 * look_bytes_, kChecksumZeroBytesMax);
  }
  return zeroes_end;
}

absl::StatusOr<ChecksumSlice> ChecksumScan::ReadSlice() {
  ChecksumSlice slice{.range = {at_, SliceEnd(at_)}};
  data_.resize(slice.range.size());
  const absl::Status read = group_->replica().ReadReceived(volume_.id, at_, data_);
  if (!read.ok()) return Unreadable(read);
  if (base::AllZero(data_)) return slice;
  slice.content = ChecksumSlice::Content::kHashes;
  base::AppendBlockHashes(data_, &slice.hashes);
  return slice;
}

absl::StatusOr<ChecksumSlice> ChecksumScan::Unreadable(const absl::Status& error) {
  // The group's stage, or all of what it has received.
  if (absl::IsFailedPrecondition(error)) return error;
  const ByteRange range = {at_, SliceEnd(at_)};
  group_->Latch(volume_.id, "read", range, error);
  return ChecksumSlice{.range = range, .content = ChecksumSlice::Content::kUnreadable};
}

}  // namespace understudy::server
