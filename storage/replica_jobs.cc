#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {
namespace {

constexpr uint64_t kApplyWindowBytes = 4 << 20;  // of the volume
constexpr uint64_t kMergeChunkBytes =
    64 << 10;                        // a merge window is up to this many bytes of the volume ...
constexpr int kMergeChunksMax = 64;  // ... in so many places
constexpr uint64_t kCopyBytesMax = 1 << 20;

uint64_t PieceBytes(std::span<const Piece> pieces) {
  uint64_t bytes = 0;
  for (const Piece& piece : pieces) bytes += piece.range.size();
  return bytes;
}

}  // namespace

// ---- running ----------------------------------------------------------------------------------------------------------------

bool ReplicaImpl::HasJob() const {
  return (record_.stage == Stage::kRunning && backlog_epochs_ > 0) ||
         record_.stage == Stage::kFailover;
}

bool ReplicaImpl::JobMustStop() const {
  base::MutexLock lock(mutex_);
  return closing_;
}

void ReplicaImpl::ScheduleJob() {
  {
    base::MutexLock lock(mutex_);
    if (job_running_ || closing_ || !HasJob()) return;
    job_running_ = true;
    job_status_ = absl::OkStatus();
    job_ = {};
  }
  context_.jobs.Submit([self = shared_from_this()] { self->RunJob(); });
}

void ReplicaImpl::RunJob() {
  absl::Status status;
  while (status.ok() && !JobMustStop()) {
    Stage stage;
    {
      base::MutexLock lock(mutex_);
      if (!HasJob()) break;
      stage = record_.stage;
    }
    status = stage == Stage::kRunning ? ApplyRun(chain()->committed) : CommitJob();
  }
  if (!status.ok()) FailJob(status);
  {
    base::MutexLock lock(mutex_);
    job_status_ = status;
    job_running_ = false;
    changed_.NotifyAll();
  }
  NotifyChange();
  if (status.ok()) ScheduleJob();  // for what came after the last look
}

void ReplicaImpl::BeginJob(const std::string& kind, uint64_t total_bytes) {
  base::MutexLock lock(mutex_);
  job_ = {.kind = kind, .done_bytes = 0, .total_bytes = total_bytes};
}

void ReplicaImpl::FailJob(const absl::Status& status) {
  std::string operation = "apply";
  if (record().stage == Stage::kFailover) {
    operation = "commit";
    base::Turn::Hold commit_turn(commit_turn_);
    GroupRecord failed = this->record();
    failed.stage = Stage::kFailoverFailed;
    const absl::Status written = WriteGroup(failed, Index::Batch(context_.index));
    if (!written.ok())
      base::LogError("stage_not_stored").With("group", name_).With("status", written);
    Chain next = *chain();
    next.stage = Stage::kFailoverFailed;
    Publish(std::make_shared<const Chain>(std::move(next)));
  }
  Report({.operation = operation, .volume = job_volume_, .range = job_range_, .status = status});
}

absl::Status ReplicaImpl::WaitForJobs(absl::Time deadline) {
  base::MutexLock lock(mutex_);
  while (job_running_ || (HasJob() && job_status_.ok() && !closing_)) {
    if (deadline == absl::InfiniteFuture()) {
      changed_.Wait(mutex_);
    } else if (!changed_.WaitUntil(mutex_, deadline)) {
      return absl::DeadlineExceededError(absl::StrCat("group ", name_, ": a job is still running"));
    }
  }
  return job_status_;
}

// Waits as long as --apply-bytes-per-second says that `bytes` take.
absl::Status ReplicaImpl::Pace(uint64_t bytes) {
  const uint64_t rate = context_.options.apply_bytes_per_second;
  base::MutexLock lock(mutex_);
  job_.done_bytes += bytes;
  if (rate == 0) return absl::OkStatus();
  const absl::Duration until =
      context_.clock.Monotonic() +
      absl::Seconds(static_cast<double>(bytes) / static_cast<double>(rate));
  while (!closing_ && record_.stage == Stage::kRunning) {
    const absl::Duration left = until - context_.clock.Monotonic();
    if (left <= absl::ZeroDuration()) break;
    changed_.WaitFor(mutex_, left);
  }
  return absl::OkStatus();
}

// ---- copying ------------------------------------------------------------------------------------------------------------------

// Pieces in order, all of them of overlays: neighbours with data become one write, zeroes become holes.
absl::Status ReplicaImpl::CopyPieces(VolumeId volume, std::span<const Piece> pieces) {
  while (!pieces.empty()) {
    size_t count = 1;
    uint64_t bytes = pieces[0].range.size();
    const bool zero = pieces[0].extent.zero();
    while (count < pieces.size() && pieces[count].extent.zero() == zero &&
           pieces[count].range.start == pieces[count - 1].range.end &&
           (zero || bytes + pieces[count].range.size() <= kCopyBytesMax)) {
      bytes += pieces[count++].range.size();
    }
    job_volume_ = volume;
    job_range_ = {pieces[0].range.start, pieces[count - 1].range.end};
    RETURN_IF_ERROR(Annotate(CopyRun(volume, pieces.first(count)),
                             absl::StrCat("volume ", name_, "/", volumes_[volume.value()].name,
                                          " range ", job_range_.ToString())));
    pieces = pieces.subspan(count);
  }
  return absl::OkStatus();
}

absl::Status ReplicaImpl::CopyRun(VolumeId volume, std::span<const Piece> run) {
  const ByteRange range = {run.front().range.start, run.back().range.end};
  SecondaryDisk& disk = *chain()->disks[volume.value()];
  if (run.front().extent.zero()) return disk.PunchHole(range);
  std::vector<char> data(range.size());
  for (const Piece& piece : run) {
    RETURN_IF_ERROR(piece.overlay->Read(
        piece.segment, piece.extent, piece.range,
        std::span(data).subspan(piece.range.start - range.start, piece.range.size())));
  }
  const iovec whole = {.iov_base = data.data(), .iov_len = data.size()};
  return disk.Write(range.start, std::span(&whole, 1));
}

// ---- apply: committed epochs to the secondary disk, while RUNNING ----------------------------------------------------------

absl::Status ReplicaImpl::ApplyRun(const OverlayList& run) {
  // Order rule 2: what is applied must be durable first. A published epoch already is, unless --durability=none.
  if (!context_.options.checkpoint_durable) RETURN_IF_ERROR(FlushIndex(/*sync=*/true));
  uint64_t generation = 0;
  uint64_t total_bytes = 0;
  for (const auto& overlay : run) total_bytes += overlay->bytes();
  {
    base::MutexLock lock(mutex_);
    generation = apply_generation_;
  }
  BeginJob("apply", total_bytes);
  read_gate_.WaitOlder(generation);
  const absl::Duration begun = context_.clock.Monotonic();
  for (const VolumeInfo& volume : volumes_) RETURN_IF_ERROR(ApplyVolume(run, volume.id));
  const std::shared_ptr<const Chain> applied = chain();
  for (const auto& disk : applied->disks) RETURN_IF_ERROR(disk->Sync());

  base::Turn::Hold commit_turn(commit_turn_);
  // A failover takes the epochs over to the commit job, which copies them again; closing leaves them to the next start.
  if (record().stage != Stage::kRunning || JobMustStop()) return absl::OkStatus();
  Index::Batch batch(context_.index);
  for (const auto& overlay : run) batch.DeleteOverlay(overlay->id());
  RETURN_IF_ERROR(context_.index.Write(std::move(batch), /*sync=*/true));  // order rule 3
  Chain next = *chain();
  next.committed.resize(next.committed.size() - run.size());  // the run was the oldest part
  Publish(std::make_shared<const Chain>(std::move(next)));
  base::LogInfo("epochs_applied")
      .With("group", name_)
      .With("through", run.front()->epoch().value())
      .With("bytes", total_bytes)
      .With("took", context_.clock.Monotonic() - begun);
  base::MutexLock lock(mutex_);
  backlog_epochs_ -= run.size();
  return absl::OkStatus();
}

absl::Status ReplicaImpl::ApplyVolume(const OverlayList& run, VolumeId volume) {
  std::vector<Piece> pieces;
  std::optional<uint64_t> next = NextHeld(run, volume, 0);
  while (next.has_value() && !JobMustStop() && chain()->stage == Stage::kRunning) {
    const ByteRange window = ByteRange::OfLength(*next, kApplyWindowBytes)
                                 .Intersect({0, volumes_[volume.value()].size_bytes});
    pieces.clear();
    ResolveOver(run, volume, window, /*with_disk=*/false, &pieces);
    RETURN_IF_ERROR(CopyPieces(volume, pieces));
    RETURN_IF_ERROR(Pace(PieceBytes(pieces)));
    next = NextHeld(run, volume, window.end);
  }
  return absl::OkStatus();
}

// ---- commit: everything to the secondary disk, after a failover, while the VM writes ----------------------------------------

std::vector<Piece> ReplicaImpl::UnmergedPieces(VolumeId volume, ByteRange range) const {
  base::ReaderLock lock(view_mutex_);
  std::vector<Piece> pieces = chain_->Resolve(volume, range);
  std::erase_if(pieces, [](const Piece& piece) { return piece.overlay == nullptr; });
  return pieces;
}

// From the first byte at or after `offset` that the disk lacks; empty when there is none.
ByteRange ReplicaImpl::WindowFrom(VolumeId volume, uint64_t offset) const {
  base::ReaderLock lock(view_mutex_);
  const uint64_t size_bytes = volumes_[volume.value()].size_bytes;
  std::optional<uint64_t> next = chain_->NextUnmerged(volume, offset);
  ByteRange window = {next.value_or(size_bytes), next.value_or(size_bytes)};
  for (int i = 0; i < kMergeChunksMax && next.has_value(); ++i) {
    window.end = std::min(*next + kMergeChunkBytes, size_bytes);
    next = chain_->NextUnmerged(volume, window.end);
  }
  return window;
}

absl::Status ReplicaImpl::CommitJob() {
  RETURN_IF_ERROR(FlushIndex(/*sync=*/true));  // order rule 2
  uint64_t generation = 0;
  {
    base::MutexLock lock(mutex_);
    generation = apply_generation_;
  }
  uint64_t total_bytes = 0;
  for (const VolumeInfo& volume : volumes_) {
    total_bytes += PieceBytes(UnmergedPieces(volume.id, {0, volume.size_bytes}));
  }
  BeginJob("commit", total_bytes);
  read_gate_.WaitOlder(generation);
  for (const VolumeInfo& volume : volumes_) {
    uint64_t at = 0;
    while (true) {
      if (JobMustStop()) return absl::OkStatus();
      const ByteRange window = WindowFrom(volume.id, at);
      if (window.empty()) break;
      RETURN_IF_ERROR(MergeWindow(volume.id, window));
      at = window.end;
    }
  }
  return FinishDone(/*drop_hidden=*/false);
}

absl::Status ReplicaImpl::MergeWindow(VolumeId volume, ByteRange window) {
  {
    base::WriterLock lock(view_mutex_);
    commit_window_ = CommitWindow{.volume = volume, .range = window};
  }
  const std::vector<Piece> pieces = UnmergedPieces(volume, window);
  const absl::Status copied = CopyPieces(volume, pieces);
  {
    base::MutexLock lock(mutex_);
    job_.done_bytes += PieceBytes(pieces);
  }
  base::RangeLock::Hold hold(*range_locks_[volume.value()], window);
  std::vector<ByteRange> touched;
  {
    base::WriterLock lock(view_mutex_);
    touched = std::move(commit_window_->touched);
    commit_window_.reset();
  }
  RETURN_IF_ERROR(copied);
  for (const ByteRange& range : touched) {
    RETURN_IF_ERROR(CopyPieces(volume, UnmergedPieces(volume, range)));
  }
  return EndWindow(volume, window);
}

// The disk has the window: from here on it is the window's only home. REQUIRES: writes to the window are held.
absl::Status ReplicaImpl::EndWindow(VolumeId volume, ByteRange window) {
  RETURN_IF_ERROR(chain()->disks[volume.value()]->Sync());
  {
    base::Turn::Hold commit_turn(commit_turn_);
    Chain next = *chain();
    GroupRecord record = this->record();
    uint64_t& merged_through = record.volumes[volume.value()].merged_through;
    // First the committed overlays, older than active, then active: a crash between the two must not bare the older ones.
    if (!next.committed.empty() && merged_through < window.end) {
      merged_through = window.end;
      RETURN_IF_ERROR(WriteGroup(record, Index::Batch(context_.index)));
    }
    next.merged_through[volume.value()] = std::max(next.merged_through[volume.value()], window.end);
    base::WriterLock lock(view_mutex_);
    PendingFrame erased{.overlay = next.active};
    next.active->Erase(volume, window, &erased.mutations);
    chain_ = std::make_shared<const Chain>(std::move(next));
    base::MutexLock memory_lock(mutex_);
    erased.reached = active_reached_;
    active_pending_.push_back(std::move(erased));
  }
  return FlushIndex(/*sync=*/true);
}

}  // namespace understudy::storage
