#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {
namespace {

absl::Status Incomplete(const std::string& group) {
  return WithReason(
      absl::AbortedError(absl::StrCat("group ", group,
                                      " is incomplete: writes of the primary are missing here, so "
                                      "no checkpoint can be committed; a resync ends that")),
      kReasonIncomplete);
}

uint64_t PayloadBytes(std::span<const Operation> operations) {
  uint64_t bytes = 0;
  for (const Operation& operation : operations) bytes += operation.payload_bytes();
  return bytes;
}

// The slices without their first `skip` bytes.
std::vector<std::span<const char>> SkipPayload(std::span<const std::span<const char>> slices,
                                               uint64_t skip) {
  std::vector<std::span<const char>> rest;
  for (const std::span<const char>& slice : slices) {
    const uint64_t dropped = std::min<uint64_t>(skip, slice.size());
    skip -= dropped;
    if (dropped < slice.size()) rest.push_back(slice.subspan(dropped));
  }
  return rest;
}

}  // namespace

// ---- what may be appended ---------------------------------------------------------------------------------------------------

absl::Status ReplicaImpl::CheckWriter(const IncomingFrame& frame) const {
  const bool same_writer = frame.incarnation == record_.incarnation && frame.term == record_.term &&
                           frame.stream_id == stream_id_;
  if (record_.stage != Stage::kRunning || !same_writer) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "group ", name_, ": the writer's term ", frame.term.value(),
                          " or stream is not the current one (term ", record_.term.value(),
                          ", stage ", StageName(record_.stage), ")")),
                      Reason{.reason = std::string(kReasonFenced),
                             .metadata = {{"term", absl::StrCat(record_.term.value())}}});
  }
  if (refusing_) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat("group ", name_, " is being stopped")),
        kReasonNotRunning);
  }
  RETURN_IF_ERROR(failed_);
  if (handing_over_) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat("group ", name_, ": its primary has handed over")),
                      kReasonHandedOver);
  }
  if (frame.first_sequence > received_sequence_ + 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("group ", name_, ": sequence gap: ", received_sequence_,
                     " was received, frame begins at ", frame.first_sequence));
  }
  return absl::OkStatus();
}

absl::Status ReplicaImpl::CheckOperations(const IncomingFrame& frame) const {
  if (frame.operations.size() > kFrameOperationsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("frame of ", frame.operations.size(), " operations is over the limit"));
  }
  uint64_t payload = 0;
  for (const std::span<const char>& slice : frame.payload) payload += slice.size();
  for (const Operation& operation : frame.operations) {
    const bool known =
        operation.kind >= OperationKind::kData && operation.kind <= OperationKind::kHandover;
    const bool last = &operation == &frame.operations.back();
    if (!known || (IsMarker(operation.kind) && !last)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "operation kind ", static_cast<int>(operation.kind), " is unknown or out of place"));
    }
    if (!operation.has_range()) continue;
    RETURN_IF_ERROR(CheckVolume(VolumeId(operation.volume)));
    const VolumeInfo& volume = volumes_[operation.volume];
    if (operation.length == 0 || operation.offset % kSectorBytes != 0 ||
        operation.length % kSectorBytes != 0) {
      return absl::InvalidArgumentError(absl::StrCat("volume ", volume.name, ": offset ",
                                                     operation.offset, " length ", operation.length,
                                                     " is not a positive multiple of 512"));
    }
    if (operation.offset > volume.size_bytes ||
        operation.length > volume.size_bytes - operation.offset) {
      return absl::OutOfRangeError(absl::StrCat("volume ", volume.name, ": offset ",
                                                operation.offset, " length ", operation.length,
                                                " ends past ", volume.size_bytes));
    }
  }
  const uint64_t expected = PayloadBytes(frame.operations);
  if (payload != expected || payload > kFramePayloadBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("payload of ", payload,
                                                   " bytes, operations say ", expected, ", limit ",
                                                   kFramePayloadBytesMax));
  }
  return absl::OkStatus();
}

// ---- append -------------------------------------------------------------------------------------------------------------------

absl::Status ReplicaImpl::Append(const IncomingFrame& frame, CheckpointCallback on_checkpoint) {
  base::Turn::Hold hidden_turn(hidden_turn_);
  uint64_t received = 0;
  bool was_incomplete = false;
  {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(CheckWriter(frame));
    received = received_sequence_;
    was_incomplete = incomplete_;
  }
  bool incomplete = was_incomplete;
  RETURN_IF_ERROR(CheckOperations(frame));
  const uint64_t replayed =
      std::min<uint64_t>(received + 1 - frame.first_sequence, frame.operations.size());
  if (replayed == frame.operations.size()) {
    if (!AnswerReplay(frame, on_checkpoint)) on_checkpoint(MadeNothing(frame.operations.back()));
    return absl::OkStatus();
  }
  FrameContent content{.stream_id = frame.stream_id,
                       .term = frame.term,
                       .first_sequence = frame.first_sequence + replayed,
                       .operations = frame.operations.subspan(replayed),
                       .payload = frame.payload};
  std::vector<std::span<const char>> rest;
  if (replayed > 0) {
    rest = SkipPayload(frame.payload, PayloadBytes(frame.operations.first(replayed)));
    content.payload = rest;
  }
  for (const Operation& operation : content.operations) {
    if (operation.kind == OperationKind::kIncomplete) incomplete = true;
    if (operation.kind == OperationKind::kComplete) incomplete = false;
  }
  const uint64_t payload_bytes = PayloadBytes(content.operations);
  if (payload_bytes > 0) RETURN_IF_ERROR(MakeRoom(payload_bytes));
  std::shared_ptr<PendingCheckpoint> checkpoint;
  const OperationKind last = content.operations.back().kind;
  const bool marked = IsMarker(last);
  if (marked && !incomplete) {
    ASSIGN_OR_RETURN(checkpoint, NewCheckpoint(last));
    checkpoint->done.push_back(std::move(on_checkpoint));
    checkpoint->result.sequence = content.first_sequence + content.operations.size() - 1;
    checkpoint->stream_id = frame.stream_id;
  }
  RETURN_IF_ERROR(AppendWithRoom(content, checkpoint));
  TellIncomplete(was_incomplete, incomplete);
  Compact(hidden_compactor_, OpenHidden(), payload_bytes + kBlockBytes);
  if (marked && incomplete) on_checkpoint(Incomplete(name_));
  return absl::OkStatus();
}

// A full file system is treated as the limit is; but a frame that makes a checkpoint must not find another one made before it.
absl::Status ReplicaImpl::AppendWithRoom(const FrameContent& content,
                                         const std::shared_ptr<PendingCheckpoint>& checkpoint) {
  while (true) {
    const absl::Status appended = AppendToHidden(content, checkpoint);
    if (!absl::IsResourceExhausted(appended) || checkpoint != nullptr) return appended;
    RETURN_IF_ERROR(FreeRoom(appended));
  }
}

// Why a marker that was received before has made no epoch.
absl::Status ReplicaImpl::MadeNothing(const Operation& marker) const {
  if (marker.kind != OperationKind::kPrepare) return Incomplete(name_);
  return WithReason(absl::AbortedError(absl::StrCat("group ", name_,
                                                    ": what the marker prepared was "
                                                    "abandoned or overtaken: prepare again")),
                    kReasonNotPrepared);
}

// A marker that was received before is answered with the epoch it made. False: it made none.
bool ReplicaImpl::AnswerReplay(const IncomingFrame& frame, CheckpointCallback& on_checkpoint) {
  if (frame.operations.empty() || !IsMarker(frame.operations.back().kind)) return true;
  const uint64_t sequence = frame.first_sequence + frame.operations.size() - 1;
  CheckpointResult result{.sequence = sequence};
  {
    base::MutexLock lock(mutex_);
    for (PendingFrame& pending : hidden_pending_) {
      if (pending.checkpoint == nullptr || pending.checkpoint->published ||
          pending.checkpoint->result.sequence != sequence) {
        continue;
      }
      pending.checkpoint->done.push_back(std::move(on_checkpoint));
      return true;
    }
    const bool prepared =
        record_.prepared_stream == frame.stream_id && record_.prepared_sequence == sequence;
    const bool committed =
        committed_.stream_id == frame.stream_id && committed_.sequence >= sequence;
    if (!prepared && !committed) return false;
    result.epoch = prepared ? record_.prepared_epoch : committed_.epoch;
  }
  on_checkpoint(result);
  return true;
}

absl::StatusOr<std::shared_ptr<ReplicaImpl::PendingCheckpoint>> ReplicaImpl::NewCheckpoint(
    OperationKind marker) {
  auto checkpoint = std::make_shared<PendingCheckpoint>();
  checkpoint->prepare = marker == OperationKind::kPrepare;
  checkpoint->arrived = context_.clock.Monotonic();
  checkpoint->unix_micros = absl::ToUnixMicros(context_.clock.Now());
  Epoch next;
  {
    base::MutexLock lock(mutex_);
    checkpoint->result.epoch = open_epoch_;
    if (marker == OperationKind::kHandover) checkpoint->handover = record_.term;
    next = open_epoch_.Next();
  }
  ASSIGN_OR_RETURN(checkpoint->next_hidden, NewOverlay(LogRole::kHidden, next, hidden_log_.end()));
  if (checkpoint->prepare) return checkpoint;
  ASSIGN_OR_RETURN(checkpoint->next_active, NewOverlay(LogRole::kActive, next, active_log_.end()));
  return checkpoint;
}

// One frame into the log, the open overlay and the queue for the index. `content.overlay` is filled in here.
absl::Status ReplicaImpl::AppendToHidden(FrameContent content,
                                         std::shared_ptr<PendingCheckpoint> checkpoint) {
  const std::shared_ptr<Overlay> hidden = OpenHidden();
  if (hidden == nullptr) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat("group ", name_, " has failed over")),
        kReasonFenced);
  }
  content.overlay = hidden->id();
  if (checkpoint != nullptr) {
    content.epoch = checkpoint->result.epoch;
    content.next_hidden = checkpoint->next_hidden->id();
    if (!checkpoint->prepare) content.next_active = checkpoint->next_active->id();
    content.unix_micros = checkpoint->unix_micros;
  }
  Overlay::Hold hold(*hidden, content.operations);
  RETURN_IF_ERROR(Load(hold));  // before the log has the frame: an error leaves nothing behind
  ASSIGN_OR_RETURN(const AppendedFrame frame, hidden_log_.Append(content));
  PendingFrame pending{.overlay = hidden, .checkpoint = checkpoint};
  pending.change =
      hidden->Apply(content.operations, frame.segment, {frame.payload, frame.checksums});
  bool flush_now = checkpoint != nullptr;
  bool publish_now = false;
  {
    base::MutexLock lock(mutex_);
    if (hidden_ != hidden) {  // fenced between the log and here: the frame never happened
      return WithReason(
          absl::FailedPreconditionError(absl::StrCat("group ", name_, " has failed over")),
          kReasonFenced);
    }
    RETURN_IF_ERROR(failed_);  // meanwhile: frames before this one were given up
    for (const Operation& operation : content.operations) {
      if (operation.kind == OperationKind::kIncomplete) incomplete_ = true;
      if (operation.kind == OperationKind::kComplete) incomplete_ = false;
      if (operation.kind == OperationKind::kFlush) flush_now = true;
    }
    received_sequence_ += content.operations.size();
    pending.reached = {.position = frame.end,
                       .stream_id = stream_id_,
                       .sequence = received_sequence_,
                       .incomplete = incomplete_};
    pending_bytes_ += PayloadBytes(content.operations) + kBlockBytes;
    if (checkpoint != nullptr) SealHidden(*checkpoint, frame.end);
    const auto is_hidden = [](const PendingFrame& frame) {
      return frame.checkpoint != nullptr && !frame.checkpoint->prepare &&
             !frame.checkpoint->published;
    };
    // A hand-over is shown when it is durable, and nothing before it, nor over a checkpoint that is not shown yet.
    publish_now = checkpoint != nullptr && !checkpoint->prepare &&
                  !context_.options.checkpoint_durable && handing_over_ == record_.handed_over &&
                  std::none_of(hidden_pending_.begin(), hidden_pending_.end(), is_hidden);
    hidden_pending_.push_back(std::move(pending));
    flush_now = flush_now || pending_bytes_ >= context_.options.index_batch_bytes;
  }
  if (publish_now) {
    base::Turn::Hold commit_turn(commit_turn_);
    // Else a failover or a failed sync has dropped it.
    if (record().stage == Stage::kRunning && !HiddenFailed()) PublishCheckpoint(checkpoint);
  }
  ScheduleFlush(flush_now);
  return absl::OkStatus();
}

std::shared_ptr<Overlay> ReplicaImpl::OpenHidden() const {
  base::MutexLock lock(mutex_);
  return hidden_;
}

absl::Status ReplicaImpl::Load(Overlay::Hold& hold) {
  const absl::Status loaded = Annotate(hold.Load(), absl::StrCat("group ", name_));
  if (!loaded.ok()) Report({.operation = "index", .status = loaded});
  return loaded;
}

void ReplicaImpl::SealHidden(PendingCheckpoint& checkpoint, LogPosition end) {
  checkpoint.sealed = hidden_;
  checkpoint.end = end;
  checkpoint.result.bytes = hidden_->bytes();
  if (checkpoint.prepare) {
    prepared_.insert(prepared_.begin(), {hidden_, end});
  } else {
    checkpoint.before.swap(prepared_);
  }
  if (HandsOver(checkpoint, record_)) handing_over_ = true;
  hidden_ = checkpoint.next_hidden;
  open_epoch_ = open_epoch_.Next();
}

void ReplicaImpl::RequestCheckpoint(CheckpointCallback done) {
  if (const absl::Status attached = AttachDisksAgain(); !attached.ok()) return done(attached);
  base::Turn::Hold hidden_turn(hidden_turn_);
  absl::Status refused;
  {
    base::MutexLock lock(mutex_);
    if (record_.stage != Stage::kRunning) {
      refused = WithReason(absl::FailedPreconditionError("Block replication is not running"),
                           kReasonNotRunning);
    } else if (incomplete_) {
      refused = Incomplete(name_);
    } else {
      refused = failed_;
    }
  }
  if (!refused.ok()) return done(refused);
  absl::StatusOr<std::shared_ptr<PendingCheckpoint>> checkpoint = NewCheckpoint();
  if (!checkpoint.ok()) return done(checkpoint.status());
  (*checkpoint)->done.push_back(std::move(done));
  const absl::Status appended = CommitHere(*checkpoint);
  if (!appended.ok()) Answer(**checkpoint, appended);
}

// A checkpoint of all that was received, without a marker of the stream. REQUIRES: hidden_turn_.
absl::Status ReplicaImpl::CommitHere(const std::shared_ptr<PendingCheckpoint>& checkpoint) {
  FrameContent content;
  {
    base::MutexLock lock(mutex_);
    content.stream_id = stream_id_;
    content.term = record_.term;
    content.first_sequence = received_sequence_ + 1;
  }
  checkpoint->stream_id = content.stream_id;
  // A marker among what was received need not wait for an answer of its own.
  if (!checkpoint->first_sync_step()) checkpoint->result.sequence = content.first_sequence - 1;
  return AppendToHidden(content, checkpoint);
}

void ReplicaImpl::Answer(PendingCheckpoint& checkpoint,
                         const absl::StatusOr<CheckpointResult>& result) {
  std::vector<CheckpointCallback> waiting;
  {
    base::MutexLock lock(mutex_);
    waiting.swap(checkpoint.done);
  }
  for (CheckpointCallback& done : waiting) done(result);
}

// Makes the sealed epoch visible, unless it is only prepared, and answers. REQUIRES: commit_turn_.
void ReplicaImpl::PublishCheckpoint(const std::shared_ptr<PendingCheckpoint>& checkpoint) {
  if (checkpoint->prepare) return AnswerPrepared(*checkpoint);
  Chain next = *chain();
  if (checkpoint->published) return;
  const bool step = checkpoint->first_sync_step();
  if (!step) NoteDuration(*checkpoint);
  checkpoint->old_active = next.active;
  next.active = checkpoint->next_active;
  OverlayList committed = {checkpoint->sealed};
  for (const PreparedOverlay& before : checkpoint->before) committed.push_back(before.overlay);
  for (const auto& overlay : committed) overlay->SetCommitted(checkpoint->unix_micros);
  next.committed.insert(next.committed.begin(), committed.begin(), committed.end());
  next.valid = next.valid || !step;
  Publish(std::make_shared<const Chain>(std::move(next)));
  const uint64_t generation = read_gate_.Advance();
  CheckpointResult result;
  {
    base::MutexLock lock(mutex_);
    checkpoint->published = true;
    checkpoint->result.duration = context_.clock.Monotonic() - checkpoint->arrived;
    result = checkpoint->result;
    ForgetPrepared(result.epoch);
    committed_ = {.epoch = result.epoch,
                  .sequence = result.sequence,
                  .stream_id = checkpoint->stream_id,
                  .unix_micros = checkpoint->unix_micros,
                  .bytes = result.bytes,
                  .duration_micros = step ? 0 : *checkpoint->duration_micros};
    apply_generation_ = generation;
    RetryJob();
  }
  UpdateBacklog();
  base::LogInfo(step ? "first_sync_step" : "checkpoint_committed")
      .With("group", name_)
      .With("epoch", result.epoch.value())
      .With("bytes", result.bytes)
      .With("took", result.duration);
  if (!step) CallListener([&](ReplicaListener& listener) { listener.OnCommitted(result); });
  if (HandsOver(*checkpoint, record())) {
    CallListener([](ReplicaListener& listener) { listener.OnHandover(true); });
  }
  Answer(*checkpoint, result);
}

// ---- the index behind the log ----------------------------------------------------------------------------------------------

void ReplicaImpl::RequestDurablePoint() { ScheduleFlush(/*now=*/true); }

void ReplicaImpl::ScheduleFlush(bool now) {
  {
    base::MutexLock lock(mutex_);
    if (closing_ || (now ? flush_queued_ : (flush_delayed_ || flush_queued_))) return;
    (now ? flush_queued_ : flush_delayed_) = true;
  }
  auto self = shared_from_this();
  if (now) {
    context_.write_back.Submit([self] {
      {
        base::MutexLock lock(self->mutex_);
        self->flush_queued_ = false;
      }
      self->FlushInBackground();
    });
    return;
  }
  context_.write_back.SubmitAfter(context_.options.index_batch_delay, [self] {
    {
      base::MutexLock lock(self->mutex_);
      self->flush_delayed_ = false;
    }
    self->FlushInBackground();
  });
}

void ReplicaImpl::FlushInBackground() {
  // Errors are kept in failed_ and reported there.
  FlushIndex(/*sync=*/false).IgnoreError();
  hidden_log_.PrepareNext();
  active_log_.PrepareNext();
}

absl::Status ReplicaImpl::FlushIndex(bool sync) {
  std::vector<std::shared_ptr<PendingCheckpoint>> committed;
  absl::Status flushed;
  {
    base::Turn::Hold flush_turn(flush_turn_);
    size_t hidden_count = 0;
    size_t active_count = 0;
    {
      base::MutexLock lock(mutex_);
      hidden_count = hidden_pending_.size();
      active_count = active_pending_.size();
      if (ActiveGivenUp()) active_count = 0;
      pending_bytes_ = 0;
    }
    // Nothing new; but a flush in the background may have written it without a sync.
    if (hidden_count + active_count == 0) return sync ? context_.index.Sync() : absl::OkStatus();
    if (hidden_count > 0) flushed = hidden_log_.Sync();
    if (flushed.ok() && active_count > 0) flushed = active_log_.Sync();
    if (flushed.ok()) flushed = FlushPending(hidden_count, active_count, sync, &committed);
    if (!flushed.ok()) FailPending(flushed);
  }
  context_.extent_memory.Trim();
  if (flushed.ok()) NotifyChange();
  if (!committed.empty()) ScheduleJob();
  return flushed;
}

// Else, with --durability=none, the checkpoint that began the active overlay may still be only in the hidden log.
bool ReplicaImpl::CommittedDurable() const { return committed_.epoch <= record_.committed_epoch; }

// The record of the active overlay was given up with the checkpoint that began it: only the logs can bring both back.
bool ReplicaImpl::ActiveGivenUp() const { return !failed_.ok() && !CommittedDurable(); }

absl::Status ReplicaImpl::MakeCommittedDurable() {
  if (context_.options.checkpoint_durable) return absl::OkStatus();
  RETURN_IF_ERROR(FlushIndex(/*sync=*/true));
  return NothingGivenUp();
}

// Else a flush with nothing to do has said OK of what an earlier one could not do.
absl::Status ReplicaImpl::NothingGivenUp() const {
  base::MutexLock lock(mutex_);
  return failed_;
}

absl::Status ReplicaImpl::FlushPending(size_t hidden_count, size_t active_count, bool sync,
                                       std::vector<std::shared_ptr<PendingCheckpoint>>* committed) {
  base::Turn::Hold commit_turn(commit_turn_);
  // The frames stay queued until they are in the index; appending to a deque leaves references to its elements valid.
  std::vector<const PendingFrame*> hidden;
  std::vector<const PendingFrame*> active;
  GroupRecord record;
  {
    base::MutexLock lock(mutex_);
    record = record_;
    // A failover may have shortened the queue.
    for (size_t i = 0; i < std::min(hidden_count, hidden_pending_.size()); ++i) {
      hidden.push_back(&hidden_pending_[i]);
    }
    for (size_t i = 0; i < std::min(active_count, active_pending_.size()); ++i) {
      active.push_back(&active_pending_[i]);
    }
  }
  Index::Batch batch(context_.index);
  std::map<OverlayId, const PendingFrame*> changed;  // by overlay, its newest change
  const auto add = [&](const PendingFrame* frame) {
    for (const uint32_t ordinal : frame->emptied) frame->overlay->RetireSegment(ordinal);
    sync = sync || !frame->emptied.empty();
    if (frame->change.covered.empty()) return;
    batch.Mutate(frame->overlay->id(), frame->change.mutations);
    changed[frame->overlay->id()] = frame;
  };
  for (const PendingFrame* frame : hidden) {
    add(frame);
    if (frame->checkpoint == nullptr) continue;
    AddCheckpoint(*frame->checkpoint, &record, &batch);
    committed->push_back(frame->checkpoint);
  }
  for (const PendingFrame* frame : active) add(frame);
  for (const auto& [id, frame] : changed) {
    if (id != record.hidden && id != record.active) continue;  // sealed or dropped
    batch.PutOverlay(id, frame->overlay->RecordAfter(frame->change.covered));
  }
  if (!hidden.empty()) batch.PutPosition(record.number, LogRole::kHidden, hidden.back()->reached);
  if (!active.empty()) batch.PutPosition(record.number, LogRole::kActive, active.back()->reached);
  if (committed->empty()) {
    RETURN_IF_ERROR(context_.index.Write(std::move(batch), sync));
  } else {
    RETURN_IF_ERROR(WriteGroup(record, std::move(batch)));
  }
  for (const auto& [id, frame] : changed) frame->overlay->SetIndexed(frame->change.number);
  for (const auto* frames : {&hidden, &active}) {
    for (const PendingFrame* frame : *frames) {
      for (const uint32_t ordinal : frame->emptied) frame->overlay->ReleaseSegment(ordinal);
    }
  }
  context_.extent_memory.Retry();
  for (const auto& checkpoint : *committed) PublishCheckpoint(checkpoint);

  std::deque<PendingFrame>
      finished;  // ends outside the lock: it may hold the last reference to an overlay
  base::MutexLock lock(mutex_);
  if (!hidden.empty() && hidden.back()->reached.stream_id == stream_id_) {
    durable_sequence_ = hidden.back()->reached.sequence;
  }
  const auto finish = [&finished](std::deque<PendingFrame>& queue, size_t count) {
    for (; count > 0; --count) {
      finished.push_back(std::move(queue.front()));
      queue.pop_front();
    }
  };
  finish(hidden_pending_, hidden.size());
  finish(active_pending_, active.size());
  return absl::OkStatus();
}

// The primary's side is over until a restart or a failover: what the index misses, the log may have lost. The secondary VM's
// writes go on; they stay queued.
void ReplicaImpl::FailPending(const absl::Status& status) {
  std::vector<std::shared_ptr<PendingCheckpoint>> unanswered;
  {
    // A failover that is under way counts on what it has found in the queue.
    base::Turn::Hold commit_turn(commit_turn_);
    base::MutexLock lock(mutex_);
    if (record_.stage == Stage::kRunning) {
      failed_ = status;
      for (PendingFrame& frame : hidden_pending_) {
        if (frame.checkpoint != nullptr) unanswered.push_back(frame.checkpoint);
        given_up_.push_back(std::move(frame));
      }
      hidden_pending_.clear();
      // What is published and not in the index is never applied: nobody may wait for it.
      job_status_ = status;
      changed_.NotifyAll();
    }
  }
  for (const auto& checkpoint : unanswered) Answer(*checkpoint, status);
  Report({.operation = "index", .status = status});
}

}  // namespace understudy::storage
