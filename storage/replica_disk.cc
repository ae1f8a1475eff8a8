#include <algorithm>
#include <optional>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"

#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {
namespace {

constexpr size_t kActiveBatchOperations = 1024;

absl::Status NotServing(const std::string& group, const VolumeInfo& volume, Stage stage) {
  return absl::FailedPreconditionError(absl::StrCat(
      "volume ", group, "/", volume.name, ": no I/O in stage ", StageName(stage),
      stage == Stage::kNone ? ": start the group first" : " before the first sync has ended"));
}

bool Serves(const Chain& chain) { return chain.stage != Stage::kNone && chain.valid; }

}  // namespace

absl::Status ReplicaImpl::Read(VolumeId volume, uint64_t offset, std::span<char> out) {
  RETURN_IF_ERROR(CheckVolume(volume));
  const VolumeInfo& info = volumes_[volume.value()];
  const ByteRange range = ByteRange::OfLength(offset, out.size());
  RETURN_IF_ERROR(CheckRange(info, range));
  ReadGate::Visit visit(read_gate_);
  ASSIGN_OR_RETURN(const View view, Look(volume, range));
  for (const Piece& piece : view.pieces) {
    const auto part = out.subspan(piece.range.start - offset, piece.range.size());
    const absl::Status read = view.chain->Read(volume, piece, part);
    if (!read.ok()) return ReadError(volume, piece.range, read);
  }
  return absl::OkStatus();
}

absl::Status ReplicaImpl::ReadError(VolumeId volume, ByteRange range, const absl::Status& error) {
  const absl::Status annotated =
      Annotate(error, absl::StrCat("volume ", name_, "/", volumes_[volume.value()].name, " range ",
                                   range.ToString()));
  Report({.operation = "read", .volume = volume, .range = range, .status = annotated});
  return annotated;
}

// The end of a commit window takes extents out of active and makes the chain say that the disk has them. Who resolved between
// the two would see neither: so the chain must still be the same afterwards.
absl::StatusOr<ReplicaImpl::View> ReplicaImpl::Look(VolumeId volume, ByteRange range) {
  const VolumeInfo& info = volumes_[volume.value()];
  while (true) {
    View view{.chain = chain()};
    if (!Serves(*view.chain)) return NotServing(name_, info, view.chain->stage);
    absl::StatusOr<std::vector<Piece>> pieces = view.chain->Resolve(volume, range, &view_cache_);
    if (view.chain != chain()) continue;
    if (pieces.ok()) {
      view.pieces = *std::move(pieces);
      return view;
    }
    return ReadError(volume, range, pieces.status());
  }
}

absl::Status ReplicaImpl::Write(VolumeId volume, uint64_t offset, std::span<const char> data,
                                bool fua) {
  const BlockWrite write{.offset = offset, .data = data, .fua = fua};
  absl::Status result;
  WriteAll(volume, {&write, 1}, {&result, 1});
  return result;
}

void ReplicaImpl::WriteAll(VolumeId volume, std::span<const BlockWrite> writes,
                           std::span<absl::Status> results) {
  for (size_t i = 0; i < writes.size(); ++i) {
    results[i] = CheckVolume(volume);
    if (results[i].ok()) results[i] = CheckRange(volumes_[volume.value()], writes[i].range());
  }
  absl::InlinedVector<VmChange, 1> changes;
  // One round, but for writes that are larger than a frame.
  for (uint64_t done = 0;; done += kFramePayloadBytesMax) {
    changes.clear();
    for (size_t i = 0; i < writes.size(); ++i) {
      if (!results[i].ok() || writes[i].data.size() <= done) continue;
      const uint64_t length =
          std::min<uint64_t>(writes[i].data.size() - done, kFramePayloadBytesMax);
      changes.push_back({.operation = {.volume = volume.value(),
                                       .kind = OperationKind::kData,
                                       .offset = writes[i].offset + done,
                                       .length = length},
                         .data = writes[i].data.subspan(done, length),
                         .result = &results[i]});
    }
    if (changes.empty()) break;
    Modify(volume, {changes.data(), changes.size()});
  }
  std::optional<absl::Status> flushed;  // one flush for all
  for (size_t i = 0; i < writes.size(); ++i) {
    if (!writes[i].fua || !results[i].ok()) continue;
    if (!flushed.has_value()) flushed = Flush(volume);
    results[i] = *flushed;
  }
}

absl::Status ReplicaImpl::WriteZeroes(VolumeId volume, ByteRange range, ZeroedSpace space,
                                      bool fua) {
  RETURN_IF_ERROR(CheckVolume(volume));
  RETURN_IF_ERROR(CheckRange(volumes_[volume.value()], range));
  if (!range.empty()) {
    absl::Status result;
    VmChange change{.operation = {.volume = volume.value(),
                                  .kind = space == ZeroedSpace::kKept ? OperationKind::kZero
                                                                      : OperationKind::kDiscard,
                                  .offset = range.start,
                                  .length = range.size()},
                    .result = &result};
    Modify(volume, {&change, 1});
    RETURN_IF_ERROR(result);
  }
  return fua ? Flush(volume) : absl::OkStatus();
}

void ReplicaImpl::Modify(VolumeId volume, std::span<VmChange> changes) {
  absl::InlinedVector<ByteRange, 1> ranges;
  for (const VmChange& change : changes) ranges.push_back(change.operation.range());
  const base::RangeLock::Hold hold(*range_locks_[volume.value()],
                                   std::span<const ByteRange>(ranges.data(), ranges.size()));
  const auto chain = ServingChain(volume);
  if (!chain.ok()) {
    for (VmChange& change : changes) *change.result = chain.status();
    return;
  }
  if ((*chain)->stage == Stage::kRunning) {
    WriteToActive(changes);
  } else {
    MarkForFailback(volume, {ranges.data(), ranges.size()});
    for (VmChange& change : changes) *change.result = ModifyPieces(volume, change);
  }
  unflushed_[volume.value()]->NoteChange();
}

absl::Status ReplicaImpl::ModifyPieces(VolumeId volume, const VmChange& change) {
  const ByteRange range = change.operation.range();
  ASSIGN_OR_RETURN(const auto view, Look(volume, range));
  const auto& [chain, pieces] = view;
  for (const Piece& piece : pieces) {
    VmChange part = change;
    part.operation.offset = piece.range.start;
    part.operation.length = piece.range.size();
    if (!change.data.empty()) {
      part.data = change.data.subspan(piece.range.start - range.start, piece.range.size());
    }
    const bool may_be_direct = chain->stage == Stage::kDone || MayWriteToDisk();
    if (piece.overlay == nullptr && may_be_direct) {
      const absl::Status written =
          WriteToDisk(*chain->disks[volume.value()], change.operation.kind, piece.range, part.data);
      if (written.ok()) continue;
      if (chain->stage == Stage::kDone) {
        return Annotate(written,
                        absl::StrCat("volume ", name_, "/", volumes_[volume.value()].name));
      }
    }
    absl::Status written;
    part.result = &written;
    WriteToActive({&part, 1});
    RETURN_IF_ERROR(written);
  }
  return absl::OkStatus();
}

// Order rule 2: what was written over a checkpoint must not outlive it on the disk. Order rule 3: nor may what the index has of a
// window that was merged lie over it after a restart.
bool ReplicaImpl::MayWriteToDisk() const {
  base::MutexLock lock(mutex_);
  return windows_dropped_ && CommittedDurable();
}

absl::Status ReplicaImpl::WriteToDisk(SecondaryDisk& disk, OperationKind kind, ByteRange range,
                                      std::span<const char> data) {
  disk.NoteVmWrite();
  const iovec piece = {.iov_base = const_cast<char*>(data.data()), .iov_len = data.size()};
  const absl::Status written = kind == OperationKind::kData   ? disk.Write(range.start, {&piece, 1})
                               : kind == OperationKind::kZero ? disk.ZeroRange(range)
                                                              : disk.PunchHole(range);
  disk.NoteVmWrite();
  return written;
}

absl::StatusOr<std::shared_ptr<const Chain>> ReplicaImpl::ServingChain(VolumeId volume) const {
  std::shared_ptr<const Chain> chain = this->chain();
  if (Serves(*chain)) return chain;
  return NotServing(name_, volumes_[volume.value()], chain->stage);
}

// What has been flushed stays so, whatever the stage: the log has it, or the disk, and a job that
// moves it from there to here syncs the disk first.
absl::Status ReplicaImpl::Flush(VolumeId volume) {
  RETURN_IF_ERROR(CheckVolume(volume));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Chain> chain, ServingChain(volume));
  base::Unflushed& unflushed = *unflushed_[volume.value()];
  // A sync that was not this volume's may have lost what compaction had moved meanwhile.
  const bool broken = chain->stage != Stage::kDone && active_log_.broken();
  {
    // A power cut that takes the checkpoint back takes along what lies over it.
    base::MutexLock lock(mutex_);
    if (broken || !CommittedDurable()) unflushed.NoteChange();
  }
  return unflushed.Flush([&] { return FlushChanges(volume); });
}

absl::Status ReplicaImpl::FlushChanges(VolumeId volume) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const Chain> chain, ServingChain(volume));
  if (chain->stage != Stage::kDone) {
    bool with_hidden = false;
    {
      base::MutexLock lock(mutex_);
      with_hidden = !CommittedDurable();
    }
    if (with_hidden) RETURN_IF_ERROR(hidden_log_.Sync());
    RETURN_IF_ERROR(active_log_.Sync());
  }
  if (chain->stage != Stage::kRunning) return chain->disks[volume.value()]->Flush();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<BlockRun>> ReplicaImpl::Map(VolumeId volume, ByteRange range,
                                                       size_t runs_max) {
  RETURN_IF_ERROR(CheckVolume(volume));
  const VolumeInfo& info = volumes_[volume.value()];
  range = range.Intersect({0, info.size_bytes});
  while (true) {
    const ReadGate::Visit visit(read_gate_);
    const std::shared_ptr<const Chain> chain = this->chain();
    if (!Serves(*chain)) return NotServing(name_, info, chain->stage);
    const auto same = [&] { return chain == this->chain(); };  // as Look()
    auto runs = chain->Map(volume, range, runs_max, same, &view_cache_);
    if (!runs.ok()) return ReadError(volume, range, runs.status());
    if (!runs->empty() || same()) return runs;
  }
}

// ---- the active overlay -------------------------------------------------------------------------------------------------------

// Concurrent writes share a frame: the first one in writes for all that have queued up by then.
void ReplicaImpl::WriteToActive(std::span<VmChange> changes) {
  const VmChange& last = changes.back();  // done last
  std::vector<VmChange*> batch;
  active_mutex_.Lock();
  for (VmChange& change : changes) active_queue_.push_back(&change);
  while (!last.done && active_leader_) active_done_.Wait(active_mutex_);
  while (!last.done) {
    active_leader_ = true;
    uint64_t bytes = 0;
    while (!active_queue_.empty() && batch.size() < kActiveBatchOperations &&
           bytes + active_queue_.front()->data.size() <= kFramePayloadBytesMax) {
      bytes += active_queue_.front()->data.size();
      batch.push_back(active_queue_.front());
      active_queue_.pop_front();
    }
    active_mutex_.Unlock();
    const absl::Status status = AppendActiveBatch(batch);
    active_mutex_.Lock();
    for (VmChange* done : batch) {
      *done->result = status;
      done->done = true;
    }
    batch.clear();
    active_leader_ = false;
    active_done_.NotifyAll();
  }
  active_mutex_.Unlock();
}

absl::StatusOr<AppendedFrame> ReplicaImpl::AppendToActiveLog(const FrameContent& content,
                                                             uint64_t bytes) {
  // After a failover the VM must go on; the commit job gives back what its writes take.
  if (chain()->stage == Stage::kRunning) RETURN_IF_ERROR(CheckLimits(bytes));
  return active_log_.Append(content);
}

absl::Status ReplicaImpl::AppendActiveBatch(const std::vector<VmChange*>& batch) {
  std::vector<Operation> operations;
  std::vector<std::span<const char>> payload;
  uint64_t bytes = kBlockBytes;
  for (const VmChange* write : batch) {
    operations.push_back(write->operation);
    bytes += write->data.size();
    if (!write->data.empty()) payload.push_back(write->data);
  }
  const std::shared_ptr<Overlay> active = chain()->active;
  if (active == nullptr)
    return absl::FailedPreconditionError(absl::StrCat("group ", name_, " has no active overlay"));
  FrameContent content{.overlay = active->id(), .operations = operations, .payload = payload};
  Overlay::Hold hold(*active, operations);
  RETURN_IF_ERROR(Load(hold));
  {
    base::MutexLock lock(mutex_);
    content.term = record_.term;
    content.first_sequence = active_sequence_ + 1;
  }
  const absl::StatusOr<AppendedFrame> frame = AppendToActiveLog(content, bytes);
  if (!frame.ok()) {
    Report({.operation = "write",
            .volume = VolumeId(operations[0].volume),
            .range = operations[0].range(),
            .status = frame.status()});
    return frame.status();
  }
  bool flush_now = false;
  {
    // Queued under the lock that orders the changes of the map: the index must see them in the same order.
    base::WriterLock lock(view_mutex_);
    PendingFrame pending{.overlay = active};
    pending.change = active->Apply(operations, frame->segment, {frame->payload, frame->checksums});
    for (const Operation& operation : operations) {
      if (!commit_window_.has_value() || commit_window_->volume != VolumeId(operation.volume))
        continue;
      const ByteRange touched = operation.range().Intersect(commit_window_->range);
      if (!touched.empty()) commit_window_->touched.push_back(touched);
    }
    base::MutexLock memory_lock(mutex_);
    active_sequence_ += operations.size();
    active_reached_ = {.position = frame->end, .sequence = active_sequence_};
    pending.reached = active_reached_;
    pending_bytes_ += bytes;
    flush_now = pending_bytes_ >= context_.options.index_batch_bytes;
    active_pending_.push_back(std::move(pending));
  }
  ScheduleFlush(flush_now);
  if (chain()->stage == Stage::kRunning) Compact(active_compactor_, active, bytes);
  return absl::OkStatus();
}

}  // namespace understudy::storage
