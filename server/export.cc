#include "server/export.h"

#include <cerrno>

#include "absl/strings/str_cat.h"

#include "storage/base/file_system.h"

namespace understudy::server {

Export::Export(std::shared_ptr<Group> group, const storage::VolumeInfo& volume, base::IoGate& gate)
    : group_(std::move(group)),
      volume_(volume),
      name_(absl::StrCat(group_->name(), "/", volume.name)),
      gate_(gate),
      stats_(group_->io_stats(volume.id)) {}

template <typename Call>
absl::Status Export::Count(IoKind kind, ByteRange range, Call call) {
  IoStats::PerKind& stats = stats_.kinds[static_cast<size_t>(kind)];
  stats.requests.Add();
  const base::IoGate::Pass pass(gate_);
  const absl::Status status =
      pass.open() ? call() : absl::UnavailableError("the service is shutting down");
  if (status.ok()) [[likely]] {
    stats.bytes.Add(range.size());
  } else {
    OnFailure(kind, range, status);
  }
  return status;
}

void Export::OnFailure(IoKind kind, ByteRange range, const absl::Status& status) {
  stats_.kinds[static_cast<size_t>(kind)].errors.Add();
  // A wrong stage, a bad range and a closing service are the caller's affair.
  if (absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status) ||
      absl::IsOutOfRange(status) || absl::IsUnavailable(status)) {
    return;
  }
  group_->Latch(volume_.id, kind == IoKind::kRead ? "read" : "disk_write", range, status);
}

absl::Status Export::Read(uint64_t offset, std::span<char> out) {
  return Count(IoKind::kRead, ByteRange::OfLength(offset, out.size()),
               [&] { return group_->replica().Read(volume_.id, offset, out); });
}

absl::Status Export::Write(uint64_t offset, std::span<const char> data, bool fua) {
  return Count(IoKind::kWrite, ByteRange::OfLength(offset, data.size()),
               [&] { return group_->replica().Write(volume_.id, offset, data, fua); });
}

absl::Status Export::WriteZeroes(ByteRange range, bool fua) {
  return Count(IoKind::kWriteZeroes, range,
               [&] { return group_->replica().WriteZeroes(volume_.id, range, fua); });
}

absl::Status Export::Discard(ByteRange range, bool fua) {
  return Count(IoKind::kDiscard, range,
               [&] { return group_->replica().WriteZeroes(volume_.id, range, fua); });
}

absl::Status Export::Flush() {
  return Count(IoKind::kFlush, {}, [&] { return group_->replica().Flush(volume_.id); });
}

absl::StatusOr<std::vector<storage::MapRun>> Export::Map(ByteRange range) {
  const base::IoGate::Pass pass(gate_);
  if (!pass.open()) return absl::UnavailableError("the service is shutting down");
  return group_->replica().Map(volume_.id, range);
}

int IoErrno(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return EINVAL;
    case absl::StatusCode::kResourceExhausted:
      return ENOSPC;
    case absl::StatusCode::kUnavailable:
      return ESHUTDOWN;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kDataLoss:
      return EIO;
    default:
      return base::ErrnoOf(status);
  }
}

}  // namespace understudy::server
