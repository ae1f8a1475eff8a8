// The primary's disk as far as it has been received: what a primary compares its own with when it does not know what differs.
//
// Why no write can vanish from it: a sealed overlay is taken out of the lists only after a chain that has it was published, and it
// is taken out of a chain only after the disk has it and after every reader of an older chain. So with the same chain before and
// after the look at the lists, the two together are everything.
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/reason.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {

// kFailedPrecondition whatever it is: no other call will find it otherwise, and no part of the disk is to blame.
absl::Status ReplicaImpl::CheckReceivingLocked() const {
  if (record_.stage != Stage::kRunning || hidden_ == nullptr) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat("group ", name_, " is not running")),
        kReasonNotRunning);
  }
  if (failed_.ok()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("group ", name_,
                   " takes no writes of its primary, so what it has received is "
                   "not whole: ",
                   failed_.message()));
}

absl::Status ReplicaImpl::CheckReceiving() const {
  base::MutexLock lock(mutex_);
  return CheckReceivingLocked();
}

ReplicaImpl::Received ReplicaImpl::LookAtReceived() const {
  Received received;
  do {
    received = {.chain = chain()};
    OverlayList& overlays = received.overlays;
    base::MutexLock lock(mutex_);
    received.status = CheckReceivingLocked();
    if (hidden_ != nullptr) overlays.push_back(hidden_);
    for (const PreparedOverlay& prepared : prepared_) overlays.push_back(prepared.overlay);
    for (auto frame = hidden_pending_.rbegin(); frame != hidden_pending_.rend(); ++frame) {
      const auto& checkpoint = frame->checkpoint;
      if (checkpoint == nullptr || checkpoint->prepare || checkpoint->published) continue;
      overlays.push_back(checkpoint->sealed);
      for (const PreparedOverlay& before : checkpoint->before) overlays.push_back(before.overlay);
    }
  } while (received.chain != chain());
  return received;
}

absl::StatusOr<ReplicaImpl::ReceivedView> ReplicaImpl::LookReceived(VolumeId volume,
                                                                    ByteRange range) {
  ReceivedView view{.received = LookAtReceived()};
  RETURN_IF_ERROR(view.received.status);
  const auto resolve = [&]() -> absl::Status {
    std::vector<Piece> newest;
    RETURN_IF_ERROR(
        ResolveOver(view.received.overlays, volume, range, /*with_disk=*/true, &newest));
    for (Piece& piece : newest) {
      if (piece.overlay != nullptr) {
        view.pieces.push_back(std::move(piece));
        continue;
      }
      RETURN_IF_ERROR(
          view_cache_.Resolve(view.received.chain->committed, volume, piece.range, &view.pieces));
    }
    return absl::OkStatus();
  };
  const absl::Status resolved = resolve();
  if (!resolved.ok()) return ReadError(volume, range, resolved);
  return view;
}

absl::Status ReplicaImpl::ReadReceived(VolumeId volume, uint64_t offset, std::span<char> out) {
  RETURN_IF_ERROR(CheckVolume(volume));
  const ByteRange range = ByteRange::OfLength(offset, out.size());
  RETURN_IF_ERROR(CheckRange(volumes_[volume.value()], range));
  ReadGate::Visit visit(read_gate_);
  ASSIGN_OR_RETURN(const ReceivedView view, LookReceived(volume, range));
  for (const Piece& piece : view.pieces) {
    const auto part = out.subspan(piece.range.start - offset, piece.range.size());
    const absl::Status read = view.received.chain->Read(volume, piece, part);
    if (!read.ok()) return ReadError(volume, piece.range, read);
  }
  // After a failover the VM writes to the disk, at any time.
  return CheckReceiving();
}

absl::StatusOr<uint64_t> ReplicaImpl::ReceivedZeroesEnd(VolumeId volume, ByteRange range) {
  RETURN_IF_ERROR(CheckVolume(volume));
  RETURN_IF_ERROR(CheckRange(volumes_[volume.value()], range));
  ReadGate::Visit visit(read_gate_);
  ASSIGN_OR_RETURN(const ReceivedView view, LookReceived(volume, range));
  uint64_t end = range.start;
  for (const Piece& piece : view.pieces) {
    if (piece.overlay == nullptr) {
      const absl::StatusOr<uint64_t> hole_end =
          view.received.chain->disks[volume.value()]->HoleEnd(piece.range);
      if (!hole_end.ok()) return ReadError(volume, piece.range, hole_end.status());
      end = *hole_end;
    } else if (piece.extent.zero()) {
      end = piece.range.end;
    }
    if (end != piece.range.end) break;
  }
  RETURN_IF_ERROR(CheckReceiving());
  return end;
}

}  // namespace understudy::storage
