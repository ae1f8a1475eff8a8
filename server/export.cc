#include "server/export.h"

#include "absl/strings/str_cat.h"

namespace understudy::server {

Export::Export(std::shared_ptr<Group> group, const storage::VolumeInfo& volume, base::IoGate& gate)
    : group_(std::move(group)),
      volume_(volume),
      name_(absl::StrCat(group_->name(), "/", volume.name)),
      is_clone_(false),
      view_(std::shared_ptr<storage::BlockView>(group_, &group_->replica())),
      gate_(gate),
      stats_(group_->io_stats(volume.id)) {}

Export::Export(std::shared_ptr<Group> group, const storage::VolumeInfo& volume, base::IoGate& gate,
               const std::string& clone, std::weak_ptr<storage::BlockView> view)
    : group_(std::move(group)),
      volume_(volume),
      name_(absl::StrCat(group_->name(), "@", clone, "/", volume.name)),
      is_clone_(true),
      view_(std::move(view)),
      gate_(gate),
      stats_(group_->stats().clone_io) {}

void Export::Connect() {
  if (!is_clone_) group_->OnConnect();
}

void Export::Disconnect() {
  if (!is_clone_) group_->OnDisconnect();
}

template <typename Call>
auto Export::InView(Call call) -> decltype(call(std::declval<storage::BlockView&>())) {
  const base::IoGate::Pass pass(gate_);
  if (!pass.open()) return absl::CancelledError("the service is shutting down");
  const std::shared_ptr<storage::BlockView> view = view_.lock();
  if (view == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("clone ", name_, " has ended"));
  }
  return call(*view);
}

template <typename Call>
absl::Status Export::Count(IoKind kind, ByteRange range, Call call) {
  stats_.kinds[static_cast<size_t>(kind)].requests.Add();
  const absl::Status status = InView(call);
  CountEnd(kind, range, status);
  return status;
}

void Export::CountEnd(IoKind kind, ByteRange range, const absl::Status& status) {
  if (status.ok()) [[likely]] {
    stats_.kinds[static_cast<size_t>(kind)].bytes.Add(range.size());
  } else {
    OnFailure(kind, range, status);
  }
}

void Export::OnFailure(IoKind kind, ByteRange range, const absl::Status& status) {
  stats_.kinds[static_cast<size_t>(kind)].errors.Add();
  // A wrong stage, a bad range and a closing service are the caller's affair.
  if (absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status) ||
      absl::IsOutOfRange(status) || absl::IsCancelled(status)) {
    return;
  }
  if (is_clone_ && absl::IsResourceExhausted(status)) return;
  const char* const operation = kind == IoKind::kRead ? "read" : "disk_write";
  group_->Latch(volume_.id, is_clone_ ? "clone" : operation, range, status);
}

absl::Status Export::Read(uint64_t offset, std::span<char> out) {
  return Count(IoKind::kRead, ByteRange::OfLength(offset, out.size()),
               [&](storage::BlockView& view) { return view.Read(volume_.id, offset, out); });
}

void Export::WriteAll(std::span<const BlockWrite> writes, std::span<absl::Status> results) {
  stats_.kinds[static_cast<size_t>(IoKind::kWrite)].requests.Add(writes.size());
  const absl::Status served = InView([&](storage::BlockView& view) {
    view.WriteAll(volume_.id, writes, results);
    return absl::OkStatus();
  });
  for (size_t i = 0; i < writes.size(); ++i) {
    if (!served.ok()) results[i] = served;
    CountEnd(IoKind::kWrite, writes[i].range(), results[i]);
  }
}

absl::Status Export::WriteZeroes(ByteRange range, ZeroedSpace space, bool fua) {
  return Count(IoKind::kWriteZeroes, range, [&](storage::BlockView& view) {
    return view.WriteZeroes(volume_.id, range, space, fua);
  });
}

absl::Status Export::Discard(ByteRange range, bool fua) {
  return Count(IoKind::kDiscard, range, [&](storage::BlockView& view) {
    return view.WriteZeroes(volume_.id, range, ZeroedSpace::kGivenBack, fua);
  });
}

absl::Status Export::Flush() {
  return Count(IoKind::kFlush, {},
               [&](storage::BlockView& view) { return view.Flush(volume_.id); });
}

absl::StatusOr<std::vector<BlockRun>> Export::Map(ByteRange range, size_t runs_max) {
  return InView([&](storage::BlockView& view) { return view.Map(volume_.id, range, runs_max); });
}

std::vector<std::string> CloneExportNames(const std::string& group, const std::string& clone,
                                          const std::vector<storage::VolumeInfo>& volumes) {
  std::vector<std::string> names;
  for (const storage::VolumeInfo& volume : volumes) {
    names.push_back(absl::StrCat(group, "@", clone, "/", volume.name));
  }
  return names;
}

}  // namespace understudy::server
