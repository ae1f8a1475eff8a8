#include "storage/clone.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/status_macros.h"
#include "storage/overlay.h"
#include "storage/segment_log.h"

namespace understudy::storage {

Clone::Clone(const CloneSpec& spec, std::string group, const std::vector<VolumeInfo>& volumes,
             std::unique_ptr<SegmentLog> log, Chain base, absl::Time expires)
    : spec_(spec),
      name_(absl::StrCat(group, "@", spec.name)),
      volumes_(volumes),
      expires_(expires),
      state_(std::make_shared<State>(State{std::move(base), std::move(log)})) {}

CloneInfo Clone::info() const {
  base::ReaderLock lock(view_mutex_);
  return {.spec = spec_, .written_bytes = written_bytes_, .expires = expires_};
}

std::shared_ptr<Clone::State> Clone::End(absl::string_view why) {
  base::WriterLock lock(view_mutex_);
  if (state_ != nullptr) why_ = std::string(why);
  return std::exchange(state_, nullptr);
}

absl::StatusOr<std::shared_ptr<Clone::State>> Clone::state() const {
  base::ReaderLock lock(view_mutex_);
  if (state_ != nullptr) return state_;
  return absl::FailedPreconditionError(absl::StrCat("clone ", name_, " has ended: ", why_));
}

absl::Status Clone::Check(VolumeId volume, ByteRange range) const {
  if (volume.value() >= volumes_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("clone ", name_, " has no volume number ", volume.value()));
  }
  return CheckRange(volumes_[volume.value()], range);
}

absl::Status Clone::Read(VolumeId volume, uint64_t offset, std::span<char> out) {
  const ByteRange range = ByteRange::OfLength(offset, out.size());
  RETURN_IF_ERROR(Check(volume, range));
  ASSIGN_OR_RETURN(const std::shared_ptr<State> state, this->state());
  ASSIGN_OR_RETURN(const std::vector<Piece> pieces, state->chain.Resolve(volume, range));
  for (const Piece& piece : pieces) {
    RETURN_IF_ERROR(
        Annotate(state->chain.Read(volume, piece,
                                   out.subspan(piece.range.start - offset, piece.range.size())),
                 absl::StrCat("clone ", name_, " volume ", volumes_[volume.value()].name, " range ",
                              piece.range.ToString())));
  }
  // Once it has ended the secondary disk changes below it: what was read then may be of another epoch.
  return this->state().status();
}

absl::Status Clone::Write(VolumeId volume, uint64_t offset, std::span<const char> data, bool) {
  while (!data.empty()) {
    const auto part = data.first(std::min<size_t>(data.size(), kFramePayloadBytesMax));
    RETURN_IF_ERROR(
        Modify(volume, OperationKind::kData, ByteRange::OfLength(offset, part.size()), part));
    data = data.subspan(part.size());
    offset += part.size();
  }
  return absl::OkStatus();
}

void Clone::WriteAll(VolumeId volume, std::span<const BlockWrite> writes,
                     std::span<absl::Status> results) {
  for (size_t i = 0; i < writes.size(); ++i) {
    results[i] = Write(volume, writes[i].offset, writes[i].data, writes[i].fua);
  }
}

absl::Status Clone::WriteZeroes(VolumeId volume, ByteRange range, ZeroedSpace, bool) {
  return Modify(volume, OperationKind::kZero, range, {});
}

absl::Status Clone::Modify(VolumeId volume, OperationKind kind, ByteRange range,
                           std::span<const char> data) {
  RETURN_IF_ERROR(Check(volume, range));
  if (range.empty()) return absl::OkStatus();
  const base::Turn::Hold write_turn(write_turn_);
  ASSIGN_OR_RETURN(const std::shared_ptr<State> state, this->state());
  if (info().written_bytes + data.size() > spec_.bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("clone ", name_, ": its limit of ", spec_.bytes_max,
                     " written bytes is reached: make a new clone with a larger --bytes-max"));
  }
  const Operation operation = {
      .volume = volume.value(), .kind = kind, .offset = range.start, .length = range.size()};
  FrameContent content{.overlay = state->chain.active->id(),
                       .operations = std::span(&operation, 1)};
  if (!data.empty()) content.payload = std::span(&data, 1);
  ASSIGN_OR_RETURN(const AppendedFrame frame, state->log->Append(content));
  // Nothing of a clone is in the index, so nothing of it is cold.
  state->chain.active->Apply(content.operations, frame.segment, {frame.payload, frame.checksums});
  base::WriterLock lock(view_mutex_);
  written_bytes_ += data.size();
  return absl::OkStatus();
}

absl::Status Clone::Flush(VolumeId) { return state().status(); }

absl::StatusOr<std::vector<BlockRun>> Clone::Map(VolumeId volume, ByteRange range,
                                                 size_t runs_max) {
  RETURN_IF_ERROR(Check(volume, range));
  ASSIGN_OR_RETURN(const std::shared_ptr<State> state, this->state());
  return state->chain.Map(volume, range, runs_max, [] { return true; });
}

}  // namespace understudy::storage
