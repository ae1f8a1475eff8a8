#include "server/stream_session.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "server/group.h"
#include "server/service.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

StreamSession::StreamSession(Service& service, AckSink& sink, const StreamOptions& options)
    : service_(service), sink_(sink), options_(options), clock_(service.clock()) {}

// ---- calls into the sink ------------------------------------------------------------------------------------------------

template <typename Call>
void StreamSession::CallSink(Call call) {
  {
    base::MutexLock lock(mutex_);
    if (end_) return;
    ++sink_calls_;
  }
  call(sink_);
  {
    base::MutexLock lock(mutex_);
    --sink_calls_;
  }
  DeliverEnd();
}

void StreamSession::DeliverEnd() {
  absl::Status status;
  {
    base::MutexLock lock(mutex_);
    if (!end_ || end_delivered_ || sink_calls_ > 0) return;
    end_delivered_ = true;
    status = *end_;
  }
  sink_.OnEnd(status);
}

// ---- the transport's side -----------------------------------------------------------------------------------------------

void StreamSession::Open() {
  {
    base::MutexLock lock(mutex_);
    last_word_monotonic_ = clock_.Monotonic();
    last_word_ = clock_.Now();
    reading_ = true;
  }
  CallSink([](AckSink& sink) { sink.OnRoom(); });
  ScheduleTick();
}

void StreamSession::Begin(Handshake handshake) {
  {
    base::MutexLock lock(mutex_);
    if (end_) return;
    handshake_ = std::move(handshake);
    last_word_monotonic_ = clock_.Monotonic();
    last_word_ = clock_.Now();
    begun_ = true;
  }
  service_.stream_pool().Submit([self = shared_from_this()] { self->Run(); });
  CallSink([](AckSink& sink) { sink.OnRoom(); });
}

void StreamSession::Push(std::unique_ptr<RawMessage> message) {
  const absl::Duration now = clock_.Monotonic();
  const absl::Time wall = clock_.Now();
  bool room;
  {
    base::MutexLock lock(mutex_);
    if (end_) return;
    last_word_monotonic_ = now;
    last_word_ = wall;
    queue_bytes_ += message->bytes();
    queue_.push_back(std::move(message));
    room = reading_ = queue_bytes_ < options_.queue_bytes_max;
    if (idle_) wake_.NotifyOne();
  }
  if (room) CallSink([](AckSink& sink) { sink.OnRoom(); });
}

void StreamSession::ReadsDone() {
  bool begun;
  {
    base::MutexLock lock(mutex_);
    begun = begun_;
    reads_done_ = true;
    reading_ = false;
    ack_forced_ = true;  // shows whether the peer is still there
    if (begun_) {
      wake_.NotifyOne();
    }
  }
  if (begun) {
    AnswerIfDue();
  } else {
    End(absl::InvalidArgumentError("write stream: ended before a handshake"));
  }
}

void StreamSession::End(absl::Status status) {
  std::deque<std::unique_ptr<RawMessage>> dropped;  // destroyed outside the lock
  {
    base::MutexLock lock(mutex_);
    if (end_) return;
    end_ = std::move(status);
    dropped.swap(queue_);
    wake_.NotifyOne();
  }
  DeliverEnd();
}

std::optional<Answer> StreamSession::TakeAnswer() {
  base::MutexLock lock(mutex_);
  taken_after_reads_ = reads_done_;
  if (reply_) {
    greeted_ = true;
    HandshakeReply reply = *std::move(reply_);
    reply_.reset();
    return reply;
  }
  if (!greeted_) return std::nullopt;
  if (std::exchange(checkpoint_wanted_, false)) return CheckpointWanted{};
  if (std::exchange(handover_wanted_, false)) return HandoverWanted{};
  if (!ack_forced_ && ack_ == sent_ack_) return std::nullopt;
  ack_forced_ = false;
  sent_ack_ = ack_;
  last_ack_ = clock_.Monotonic();
  if (reads_done_ && idle_) wake_.NotifyOne();
  return ack_;
}

void StreamSession::OnWritten(bool ok) {
  if (!ok) return End(absl::CancelledError("write stream: the agent has gone away"));
  {
    base::MutexLock lock(mutex_);
    farewell_ = farewell_ || taken_after_reads_;
    if (reads_done_ && idle_) wake_.NotifyOne();
  }
  AnswerIfDue();
}

void StreamSession::AnswerIfDue() {
  CallSink([](AckSink& sink) { sink.OnAnswer(); });
}

// ---- the group's side ---------------------------------------------------------------------------------------------------

void StreamSession::WantCheckpoint() {
  {
    base::MutexLock lock(mutex_);
    checkpoint_wanted_ = true;
  }
  AnswerIfDue();
}

void StreamSession::WantHandover() {
  {
    base::MutexLock lock(mutex_);
    handover_wanted_ = true;
  }
  AnswerIfDue();
}

void StreamSession::OnCommitted(Epoch epoch, uint64_t sequence, uint64_t bytes,
                                absl::Duration duration) {
  {
    base::MutexLock lock(mutex_);
    if (epoch.value() < ack_.committed_epoch) return;
    // The commit may be done before the storage thread says that it has taken the marker. At the marker the stream was complete.
    if (sequence > ack_.received_sequence) ack_.incomplete = false;
    ack_.received_sequence = std::max(ack_.received_sequence, sequence);
    ack_.committed_epoch = epoch.value();
    ack_.committed_sequence = sequence;
    ack_.committed_bytes = bytes;
    ack_.committed_duration_micros = static_cast<uint64_t>(absl::ToInt64Microseconds(duration));
    replica_changed_ = true;  // durability and completeness changed with it
    if (idle_) wake_.NotifyOne();
  }
  AnswerIfDue();
}

void StreamSession::OnMarkerRefused(uint64_t sequence) {
  {
    base::MutexLock lock(mutex_);
    ack_.received_sequence = std::max(ack_.received_sequence, sequence);
    ack_.aborted_sequence = std::max(ack_.aborted_sequence, sequence);
  }
  AnswerIfDue();
}

void StreamSession::OnReplicaChange() {
  base::MutexLock lock(mutex_);
  replica_changed_ = true;
  if (idle_) wake_.NotifyOne();
}

bool StreamSession::WaitFinished(absl::Duration timeout) {
  const base::Deadline deadline = base::Deadline::After(timeout);
  base::MutexLock lock(mutex_);
  while (begun_ && !finished_) {
    if (!deadline.Wait(finished_wake_, mutex_) && !finished_) return false;
  }
  return true;
}

bool StreamSession::ended() const {
  base::MutexLock lock(mutex_);
  return end_.has_value();
}

bool StreamSession::finished() const {
  base::MutexLock lock(mutex_);
  return !begun_ || finished_;
}

absl::Time StreamSession::last_word() const {
  base::MutexLock lock(mutex_);
  return last_word_;
}

absl::Duration StreamSession::Silence() const {
  const absl::Duration now = clock_.Monotonic();
  base::MutexLock lock(mutex_);
  return reading_ ? now - last_word_monotonic_ : absl::ZeroDuration();
}

absl::Duration StreamSession::UndurableFor() const {
  const absl::Duration now = clock_.Monotonic();
  base::MutexLock lock(mutex_);
  if (ack_.received_sequence <= ack_.durable_sequence) return absl::ZeroDuration();
  return std::max(absl::ZeroDuration(), now - undurable_since_);
}

// ---- the timer ----------------------------------------------------------------------------------------------------------

void StreamSession::ScheduleTick() {
  service_.timer_pool().SubmitAfter(options_.heartbeat_interval / 2, [weak = weak_from_this()] {
    const std::shared_ptr<StreamSession> self = weak.lock();
    if (self == nullptr) return;
    self->Tick();
    if (!self->ended()) self->ScheduleTick();
  });
}

void StreamSession::Tick() {
  const absl::Duration now = clock_.Monotonic();
  bool silent;
  {
    base::MutexLock lock(mutex_);
    // While the queue is full nobody listens, so silence means nothing.
    silent = reading_ && now - last_word_monotonic_ >= options_.peer_lost_after;
    // The timer runs twice per interval, so no gap between two acks is longer than one.
    if (now - last_ack_ >= options_.heartbeat_interval / 2) ack_forced_ = true;
  }
  if (silent) {
    End(absl::DeadlineExceededError(absl::StrCat("write stream: no word from the agent for ",
                                                 absl::FormatDuration(options_.peer_lost_after))));
    return;
  }
  AnswerIfDue();
}

// ---- the storage thread -------------------------------------------------------------------------------------------------

void StreamSession::Run() {
  absl::Status status = Greet();
  const bool joined = status.ok();
  if (joined) {
    service_.refusals().LetIn(handshake_.group, handshake_.agent_id);
    status = Serve();
  }
  End(std::move(status));
  absl::Status end;
  {
    base::MutexLock lock(mutex_);
    end = *end_;
  }
  if (joined) {
    base::LogInfo("stream_ended")
        .With("group", handshake_.group)
        .With("agent", handshake_.agent_id)
        .With("status", end);
  } else {
    service_.refusals().Refused(handshake_.group, handshake_.agent_id, end);
  }
  if (group_ != nullptr) group_->Leave(*this, joined, end);
  group_.reset();
  base::MutexLock lock(mutex_);
  finished_ = true;
  finished_wake_.NotifyAll();
}

absl::Status StreamSession::Greet() {
  absl::StatusOr<std::shared_ptr<Group>> group = service_.FindGroup(handshake_.group);
  if (!group.ok()) {
    service_.stats().sessions_refused.Add();
    return group.status();
  }
  group_ = *std::move(group);
  ASSIGN_OR_RETURN(const Group::Joined joined, group_->Join(handshake_, shared_from_this()));
  const HandshakeReply& reply = joined.reply;
  {
    base::MutexLock lock(mutex_);
    ack_.received_sequence = reply.received_sequence;
    ack_.durable_sequence = reply.durable_sequence;
    ack_.incomplete = reply.incomplete;
    // A checkpoint may have been committed, and told to this session, while the reply was made.
    if (ack_.committed_epoch <= reply.committed_epoch.value()) {
      ack_.committed_epoch = reply.committed_epoch.value();
      ack_.committed_sequence = reply.committed_sequence;
      sent_ack_ = ack_;
      ack_.committed_bytes = joined.committed_bytes;
      ack_.committed_duration_micros = joined.committed_duration_micros;
    }
    undurable_since_ = last_ack_ = clock_.Monotonic();
    reply_ = reply;
    replica_changed_ = true;  // an epoch that an earlier stream session prepared is told in an ack
  }
  AnswerIfDue();
  return absl::OkStatus();
}

absl::Status StreamSession::Serve() {
  std::unique_ptr<RawMessage> message;
  while (Next(message)) {
    if (message == nullptr) {
      RefreshFromReplica();
      AnswerIfDue();
      continue;
    }
    const absl::Status status = Take(*message);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

bool StreamSession::Next(std::unique_ptr<RawMessage>& message) {
  message.reset();
  bool resume = false;
  {
    base::MutexLock lock(mutex_);
    while (!end_ && !replica_changed_ && queue_.empty()) {
      if (farewell_ && ack_ == sent_ack_) return false;
      idle_ = true;
      wake_.Wait(mutex_);
      idle_ = false;
    }
    if (end_) return false;
    if (std::exchange(replica_changed_, false)) return true;
    message = std::move(queue_.front());
    queue_.pop_front();
    queue_bytes_ -= message->bytes();
    if (!reading_ && !reads_done_ && queue_bytes_ < options_.queue_bytes_max / 2) {
      resume = reading_ = true;
      last_word_monotonic_ = clock_.Monotonic();
    }
  }
  if (resume) CallSink([](AckSink& sink) { sink.OnRoom(); });
  return true;
}

absl::Status StreamSession::Take(const RawMessage& message) {
  const absl::StatusOr<FrameDecoder::Kind> kind = decoder_.Decode(message.slices());
  if (!kind.ok()) {
    group_->OnWriteRefused(decoder_.first_sequence(), kind.status());
    return kind.status();
  }
  if (*kind == FrameDecoder::Kind::kFrame) return TakeFrame();
  TakeHeartbeat();
  return absl::OkStatus();
}

absl::Status StreamSession::TakeFrame() {
  storage::IncomingFrame frame = decoder_.frame();
  frame.stream_id = handshake_.stream_id;
  const uint64_t last_sequence = frame.first_sequence + frame.operations.size() - 1;
  storage::CheckpointCallback on_checkpoint;
  const bool handover = decoder_.Holds(OperationKind::kHandover);
  if (handover || decoder_.Holds(OperationKind::kCheckpoint)) {
    on_checkpoint = group_->BeginMarker(handshake_.stream_id, last_sequence, handover);
  } else if (decoder_.Holds(OperationKind::kPrepare)) {
    on_checkpoint = group_->BeginPrepare(handshake_.stream_id, last_sequence);
  }
  // Before Append(): the checkpoint that commits the resync may be done before it returns.
  if (decoder_.Holds(OperationKind::kComplete)) group_->OnResyncComplete();
  const bool skipped = decoder_.Holds(OperationKind::kIncomplete);
  storage::ReplicaState before;
  if (skipped) before = group_->replica().state();
  const absl::Status status = group_->replica().Append(frame, std::move(on_checkpoint));
  if (!status.ok()) {
    group_->OnWriteRefused(frame.first_sequence, status, frame.operations);
    return status;
  }
  group_->OnFrameTaken(decoder_.payload_bytes(), frame.operations.size());
  if (skipped) TellSkipped(frame, before.received_sequence, before.incomplete);
  if (decoder_.HoldsControl()) RefreshFromReplica();
  AckReceived(last_sequence);
  return absl::OkStatus();
}

// Operations through `received` are a replay: they were told when they came first. Of a group that was `incomplete` before, one
// without a range says nothing new.
void StreamSession::TellSkipped(const storage::IncomingFrame& frame, uint64_t received,
                                bool incomplete) {
  uint64_t sequence = frame.first_sequence;
  for (const Operation& operation : frame.operations) {
    const bool news = sequence > received && (!incomplete || operation.length > 0);
    if (operation.kind == OperationKind::kIncomplete && news) {
      group_->OnWriteSkipped(operation);
    }
    ++sequence;
  }
}

void StreamSession::TakeHeartbeat() {
  if (decoder_.durable_wanted()) group_->replica().RequestDurablePoint();
  {
    base::MutexLock lock(mutex_);
    ack_forced_ = true;
    ack_.echo_micros = decoder_.sent_micros();
  }
  if (const auto told = decoder_.told(); told.has_value()) {
    told_.store(*told, std::memory_order_relaxed);
  }
  AnswerIfDue();
}

void StreamSession::AckReceived(uint64_t sequence) {
  const absl::Duration now = clock_.Monotonic();
  bool due;
  {
    base::MutexLock lock(mutex_);
    if (ack_.received_sequence <= ack_.durable_sequence) undurable_since_ = now;
    ack_.received_sequence = std::max(ack_.received_sequence, sequence);
    due = queue_.empty() || now - last_ack_ >= options_.ack_interval;
  }
  if (due) AnswerIfDue();
}

void StreamSession::RefreshFromReplica() {
  const storage::ReplicaState state = group_->replica().state();
  const absl::Duration now = clock_.Monotonic();
  base::MutexLock lock(mutex_);
  ack_.incomplete = state.incomplete;
  if (state.stream_id != handshake_.stream_id) return;
  if (state.durable_sequence > ack_.durable_sequence) undurable_since_ = now;
  ack_.durable_sequence = std::max(ack_.durable_sequence, state.durable_sequence);
  ack_.prepared_epoch = state.prepared_sequence == 0 ? 0 : state.prepared_epoch.value();
  ack_.prepared_sequence = state.prepared_sequence;
}

}  // namespace understudy::server
