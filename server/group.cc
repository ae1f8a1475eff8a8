#include "server/group.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "server/fenced.h"
#include "server/stream_session.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::server {
namespace {

// A commit job that stopped before this process started has left no latched error behind, only the stage.
base::LatchedError UnknownCommitError(absl::Time now) {
  return {.operation = "commit",
          .code = absl::StatusCode::kInternal,
          .message =
              "I/O error occurred: the commit job stopped before the service was restarted; "
              "call stop with failover again to go on with it",
          .first = now,
          .last = now,
          .count = 1};
}

// `told`: by the agent, which alone knows both disks.
SyncState SyncStateOf(const storage::ReplicaState& state, bool connected, SyncState told) {
  if (state.stage != Stage::kRunning) return SyncState::kNone;
  if (!connected) return SyncState::kDisconnected;
  if (!state.valid) return SyncState::kResyncing;
  if (state.incomplete) return SyncState::kBehind;
  return told;
}

// What leads on from a stage that refuses a call.
std::string RemedyFor(Verb verb, Stage stage, const std::string& group) {
  const std::string stop = absl::StrCat("understudyctl stop ", group);
  switch (stage) {
    case Stage::kNone:
      return absl::StrCat("understudyctl start ", group, " --mode secondary begins it");
    case Stage::kRunning:
      if (verb == Verb::kStartSecondary || verb == Verb::kStartPrimary) {
        return absl::StrCat("none is needed, it runs already: understudyctl status ", group);
      }
      return absl::StrCat(stop, " ends it, with --failover as a failover");
    case Stage::kFailover:
      return "wait until its commit job has copied everything to the disk, stage DONE";
    case Stage::kFailoverFailed:
      return absl::StrCat(stop, " --failover goes on with the failover; understudyctl remove ",
                          group, " --force gives up what is not on the disk");
    case Stage::kDone:
      break;
  }
  return absl::StrCat("understudyctl remove ", group, ", then start it anew");
}

absl::Status CheckStop(const StopCommand& command) {
  if (command.received && command.epoch) {
    return absl::InvalidArgumentError(
        "stop: received (commit all that has come in) and epoch (go back) exclude each other");
  }
  if (!command.failover &&
      (command.received || command.epoch || command.force || command.after_handover)) {
    return absl::InvalidArgumentError("stop: received, epoch and force go with failover only");
  }
  return absl::OkStatus();
}

}  // namespace

std::shared_ptr<Group> Group::Make(std::shared_ptr<storage::Replica> replica,
                                   const base::Clock& clock, ServiceStats& service_stats,
                                   base::EventJournal& journal, base::WorkerPool& stop_pool,
                                   std::shared_ptr<base::ErrorFile> error_file) {
  std::shared_ptr<Group> group(new Group(std::move(replica), clock, service_stats, journal,
                                         stop_pool, std::move(error_file)));
  group->RestoreErrors();  // before the replica tells what it finds again
  group->replica_->SetListener(group.get());
  return group;
}

Group::Group(std::shared_ptr<storage::Replica> replica, const base::Clock& clock,
             ServiceStats& service_stats, base::EventJournal& journal, base::WorkerPool& stop_pool,
             std::shared_ptr<base::ErrorFile> error_file)
    : replica_(std::move(replica)),
      clock_(clock),
      service_stats_(service_stats),
      journal_(journal),
      stop_pool_(stop_pool),
      error_file_(std::move(error_file)),
      silent_since_(clock.Monotonic()),
      committed_at_(silent_since_) {
  const storage::ReplicaState state = replica_->state();
  if (state.committed_epoch != Epoch()) committed_at_ = clock.MonotonicOf(state.committed_time);
  for (size_t i = 0; i < volumes().size(); ++i) io_stats_.push_back(std::make_unique<IoStats>());
}

Group::~Group() {
  if (error_file_ != nullptr) error_file_->Close();
  bool detached = false;
  {
    base::MutexLock lock(mutex_);
    detached = detached_;
  }
  if (!detached) replica_->SetListener(nullptr);  // waits for calls, which take the lock
}

// ---- control calls ------------------------------------------------------------------------------------------------------

absl::Status Group::CheckExpected(const Expected& expected) const {
  const storage::ReplicaState state = replica_->state();
  const bool other_incarnation =
      !expected.incarnation.none() && expected.incarnation != state.incarnation;
  if (!other_incarnation && (expected.term == Term() || expected.term == state.term)) {
    return absl::OkStatus();
  }
  return FencedError(absl::StrCat("group ", name(), ": the call is meant for another ",
                                  other_incarnation ? "incarnation" : "term",
                                  "; the current term is ", state.term.value()),
                     state.term);
}

absl::StatusOr<bool> Group::Decide(Verb verb, Stage stage) const {
  const auto [ignored, refusal] = Judge(verb, stage);
  if (refusal.ok()) return ignored;
  if (!absl::IsFailedPrecondition(refusal)) return refusal;
  absl::Status told(refusal.code(),
                    absl::StrCat(refusal.message(), ": group ", name(), " is in stage ",
                                 StageName(stage), "; remedy: ", RemedyFor(verb, stage, name())));
  refusal.ForEachPayload(
      [&](absl::string_view type, const absl::Cord& payload) { told.SetPayload(type, payload); });
  return told;
}

absl::StatusOr<bool> Group::Ask(Verb verb, const Expected& expected) const {
  RETURN_IF_ERROR(CheckExpected(expected));
  return Decide(verb, replica_->state().stage);
}

absl::StatusOr<StartOutcome> Group::Start(bool secondary, const Expected& expected,
                                          const base::Deadline& deadline) {
  const Verb verb = secondary ? Verb::kStartSecondary : Verb::kStartPrimary;
  ASSIGN_OR_RETURN(bool ignored, Ask(verb, expected));
  if (!ignored) {
    ASSIGN_OR_RETURN(const base::Gate::Pass pass, gate_.Enter(deadline));
    ASSIGN_OR_RETURN(ignored, Ask(verb, expected));  // another call was in the gate
    const uint64_t mark = MarkErrors();
    if (!ignored) {
      RETURN_IF_ERROR(replica_->Start());
      ClearErrorsBefore(mark);
      StoreErrors();
      write_refused_ = false;
      base::MutexLock lock(mutex_);
      resync_complete_ = false;
      silent_since_ = clock_.Monotonic();
      last_contact_ = absl::UnixEpoch();
      committed_at_ = silent_since_;  // the disks as they are now
    }
  }
  const storage::ReplicaState state = replica_->state();
  return StartOutcome{.stage = state.stage,
                      .ignored = ignored,
                      .incarnation = state.incarnation,
                      .term = state.term};
}

// ---- Stop ---------------------------------------------------------------------------------------------------------------

StopOutcome Group::StopOutcomeNow(bool ignored) const {
  const storage::ReplicaState state = replica_->state();
  return {
      .stage = state.stage, .ignored = ignored, .epoch = state.committed_epoch, .term = state.term};
}

absl::StatusOr<StopOutcome> Group::Stop(const StopCommand& command,
                                        const base::Deadline& deadline) {
  RETURN_IF_ERROR(CheckStop(command));
  if (command.failover) return Failover(command);
  ASSIGN_OR_RETURN(const std::shared_ptr<PlannedStop> stop, BeginStop(command.expected, deadline));
  if (stop == nullptr) return StopOutcomeNow(true);
  base::MutexLock lock(mutex_);
  while (!stop->outcome) {
    if (!deadline.Wait(stop_done_, mutex_) && !stop->outcome) {
      return deadline.Passed(
          absl::StrCat("group ", name(),
                       ": the stop goes on in the background, until the secondary disk has "
                       "everything; look with "
                       "status (stage DONE when it has ended), or call stop again to wait for it"));
    }
  }
  return *stop->outcome;
}

// No gate: nothing that can be stuck in file I/O may stand in the way.
absl::StatusOr<StopOutcome> Group::Failover(const StopCommand& command) {
  ASSIGN_OR_RETURN(const bool ignored, Ask(Verb::kFailover, command.expected));
  if (ignored) return StopOutcomeNow(true);
  // Before the call: the commit job may fail before this thread goes on.
  const uint64_t mark = MarkErrors();
  const storage::FailoverOptions options = BeginFailover(command);
  const absl::Status status = replica_->Failover(options);
  EndFailover(options);
  if (!status.ok()) {
    // Another failover, or the end of a planned stop, came first.
    if (Judge(Verb::kFailover, replica_->state().stage).ignored) return StopOutcomeNow(true);
    if (!HasReason(status, kReasonNotHandedOver)) stats_.failovers_failed.Add();
    return Explain(status);
  }
  stats_.failovers_ok.Add();
  ClearErrorsBefore(mark);
  return EndReplication("the standby has taken over");
}

absl::StatusOr<std::shared_ptr<Group::PlannedStop>> Group::BeginStop(
    const Expected& expected, const base::Deadline& deadline) {
  const std::shared_ptr<PlannedStop> ignored;
  ASSIGN_OR_RETURN(const bool done, Ask(Verb::kStop, expected));
  if (done) return ignored;
  {
    base::MutexLock lock(mutex_);
    if (stopping_ != nullptr) return stopping_;
  }
  ASSIGN_OR_RETURN(base::Gate::Pass pass, gate_.Enter(deadline));
  ASSIGN_OR_RETURN(const bool done_meanwhile, Ask(Verb::kStop, expected));
  if (done_meanwhile) return ignored;
  const auto stop = std::make_shared<PlannedStop>();
  {
    base::MutexLock lock(mutex_);
    stopping_ = stop;
  }
  stop_pool_.Submit([self = shared_from_this(), stop, pass = std::move(pass)] {
    absl::StatusOr<StopOutcome> outcome = self->RunStop();
    base::LogInfo("stop_ended").With("group", self->name()).With("status", outcome.status());
    base::MutexLock lock(self->mutex_);
    stop->outcome = std::move(outcome);
    self->stopping_ = nullptr;
    self->stop_done_.NotifyAll();
  });
  return stop;
}

absl::StatusOr<StopOutcome> Group::RunStop() {
  const uint64_t mark = MarkErrors();
  RETURN_IF_ERROR(Explain(replica_->Stop()));
  ClearErrorsBefore(mark);
  StoreErrors();
  return EndReplication("stopped");
}

bool Group::AwaitPlannedStop(const base::Deadline& deadline) {
  base::MutexLock lock(mutex_);
  while (stopping_ != nullptr) {
    if (!deadline.Wait(stop_done_, mutex_) && stopping_ != nullptr) return false;
  }
  return true;
}

StopOutcome Group::EndReplication(absl::string_view why) {
  const StopOutcome outcome = StopOutcomeNow(false);
  const absl::Status fenced =
      FencedError(absl::StrCat("group ", name(), ": ", why, "; stop this primary"), outcome.term);
  for (const auto& stream : TakeStreams(fenced)) stream->End(fenced);
  return outcome;
}

absl::StatusOr<ErrorReport> Group::GetError() const {
  ErrorReport report{.stage = replica_->state().stage};
  RETURN_IF_ERROR(Decide(Verb::kGetError, report.stage).status());
  GroupStatus status = Status();
  report.errors = std::move(status.errors);
  report.disconnected = status.disconnected();
  if (report.stage != Stage::kFailoverFailed) return report;
  bool known = false;
  for (base::LatchedError& error : report.errors) {
    if (error.operation != "commit") continue;
    error.message = absl::StrCat("I/O error occurred: ", error.message);
    known = true;
  }
  if (!known) report.errors.push_back(UnknownCommitError(clock_.Now()));
  return report;
}

absl::StatusOr<uint64_t> Group::Scrub(const storage::ScrubOptions& options,
                                      const Expected& expected) {
  RETURN_IF_ERROR(CheckExpected(expected));
  const uint64_t mark = MarkErrors();
  const uint64_t next = replica_->state().scrub.number + 1;
  {
    base::MutexLock lock(mutex_);
    scrub_marks_.try_emplace(next, mark);  // before it can end
  }
  const absl::StatusOr<uint64_t> number = replica_->Scrub(options);
  base::MutexLock lock(mutex_);
  if (!number.ok() || *number < next) scrub_marks_.erase(next);  // one runs already
  return number;
}

void Group::OnScrubEnded(const storage::ScrubState& result) {
  base::MutexLock lock(mutex_);
  const auto mark = scrub_marks_.find(result.number);
  if (mark == scrub_marks_.end()) return;
  if (result.outcome == storage::ScrubOutcome::kClean) {
    errors_.ClearDataLossBefore(mark->second);
    ErrorsChanged();
  }
  scrub_marks_.erase(mark);
}

absl::Status Group::AwaitRemovable(bool force, const Expected& expected,
                                   const base::Deadline& deadline) {
  // First: a planned stop holds the gate as long as it takes.
  RETURN_IF_ERROR(Ask(force ? Verb::kForceRemove : Verb::kRemove, expected).status());
  return gate_.Enter(deadline).status();
}

absl::Status Group::Remove(bool force, const Expected& expected, const base::Deadline& deadline,
                           const std::function<absl::Status()>& forget) {
  const Verb verb = force ? Verb::kForceRemove : Verb::kRemove;
  RETURN_IF_ERROR(Ask(verb, expected).status());
  ASSIGN_OR_RETURN(const base::Gate::Pass pass, gate_.Enter(deadline));
  RETURN_IF_ERROR(Ask(verb, expected).status());  // another call was in the gate
  const absl::Status removed = absl::NotFoundError(absl::StrCat("group ", name(), " was removed"));
  RETURN_IF_ERROR(EvictStreams(removed, base::Deadline::After(kEvictTimeout)));
  RETURN_IF_ERROR(forget());
  Detach(removed, base::Deadline::After(kEvictTimeout));
  ForgetErrors();
  return absl::OkStatus();
}

void Group::RestoreContact(absl::Time last_contact) {
  base::MutexLock lock(mutex_);
  last_contact_ = last_contact;
  silent_since_ = clock_.MonotonicOf(last_contact);
}

GroupStatus Group::Status() const {
  GroupStatus status{.group = name(),
                     .replica = replica_->state(),
                     .volumes = volumes(),
                     .clones = replica_->clones()};
  status.received_bytes = stats_.received_bytes.value();
  status.received_operations = stats_.received_operations.value();
  std::shared_ptr<StreamSession> stream;
  {
    base::MutexLock lock(mutex_);
    stream = session_;
    status.errors = errors_.errors();
    status.last_contact = last_contact_;
    status.nbd_connections = connections_;
    status.lag = clock_.Monotonic() - silent_since_;
    status.checkpoint_age = clock_.Monotonic() - committed_at_;
  }
  status.silence = status.lag;
  status.connected = stream != nullptr;
  status.sync_state = SyncStateOf(status.replica, status.connected,
                                  stream != nullptr ? stream->told() : SyncState::kNone);
  if (stream != nullptr) {
    status.last_contact = stream->last_word();
    status.silence = stream->Silence();
    status.lag = stream->UndurableFor();
  }
  const bool running = status.replica.stage == Stage::kRunning;
  const bool due = running && !status.replica.handed_over;
  if (!running) status.lag = absl::ZeroDuration();
  if (!due) status.silence.reset();
  if (!due || !status.replica.valid) status.checkpoint_age.reset();
  return status;
}

bool Group::Detach(const absl::Status& status, const base::Deadline& deadline) {
  {
    base::MutexLock lock(mutex_);
    if (std::exchange(detached_, true)) return true;
  }
  const absl::Status evicted = EvictStreams(status, deadline);
  if (!evicted.ok()) {
    base::LogWarning("stream_stuck").With("group", name()).With("status", evicted);
  }
  replica_->SetListener(nullptr);
  return evicted.ok();
}

// ---- errors -------------------------------------------------------------------------------------------------------------

std::string Group::VolumeName(std::optional<VolumeId> volume) const {
  return volume && volume->value() < volumes().size() ? volumes()[volume->value()].name : "";
}

void Group::Latch(std::optional<VolumeId> volume, const std::string& operation, ByteRange range,
                  const absl::Status& status) {
  const std::string volume_name = VolumeName(volume);
  if (!volume_name.empty() && absl::IsDataLoss(status)) {
    io_stats_[volume->value()]->disk_checksum_failures.Add();
  }
  bool first = false;
  {
    base::MutexLock lock(mutex_);
    first = errors_.Latch(volume_name, operation, range, status, clock_.Now());
    if (first) {
      journal_.Append(
          {.kind = base::EventKind::kError, .group = name(), .error = errors_.errors().back()});
    }
  }
  ErrorsChanged();
  if (!first) return;
  base::LogError("error_latched")
      .With("group", name())
      .With("volume", volume_name)
      .With("operation", operation)
      .With("range", range.ToString())
      .With("status", status);
}

void Group::OnBackgroundError(const storage::BackgroundError& error) {
  // The secondary VM's own I/O: Export, which made the request, counts and latches it.
  if (error.operation == "read" || error.operation == "write") return;
  const bool known = error.volume && error.volume->value() < io_stats_.size();
  auto& errors = known ? io_stats_[error.volume->value()]->replication_errors : stats_.errors;
  errors[static_cast<size_t>(base::ErrorReasonOf(error.status))].Add();
  if (error.operation == "commit") stats_.failovers_failed.Add();
  Latch(error.volume, error.operation, error.range, error.status);
}

void Group::OnChange() {
  if (const auto stream = session(); stream != nullptr) stream->OnReplicaChange();
}

void Group::OnWriteRefused(uint64_t first_sequence, const absl::Status& status,
                           std::span<const Operation> operations) {
  stats_.errors[static_cast<size_t>(base::ErrorReasonOf(status))].Add();
  if (HasReason(status, kReasonFenced)) {
    stats_.fenced_requests.Add();
    NoteFenced(status);
    return;
  }
  if (absl::IsFailedPrecondition(status)) return;  // the stage changed meanwhile: no error
  if (absl::IsDataLoss(status)) {
    // Once is a damaged packet, which the agent sends again.
    stats_.wire_checksum_failures.Add();
    base::MutexLock lock(mutex_);
    if (std::exchange(bad_crc_sequence_, first_sequence) != first_sequence) bad_crc_times_ = 0;
    if (++bad_crc_times_ < 3) return;
  }
  write_refused_ = true;
  // The first operation of each volume says where.
  std::set<VolumeId> latched;
  for (const Operation& operation : operations) {
    const std::optional<VolumeId> volume = VolumeOf(operation);
    if (!operation.has_range() || !volume || !latched.insert(*volume).second) continue;
    Latch(volume, "write", operation.range(), status);
  }
  if (latched.empty()) Latch(std::nullopt, "write", {}, status);
}

}  // namespace understudy::server
