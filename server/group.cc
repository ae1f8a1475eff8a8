#include "server/group.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "server/fenced.h"
#include "server/stage_table.h"
#include "server/stream_session.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::server {
namespace {

// A commit job that stopped before this process started has left no latched error behind, only the stage.
LatchedError UnknownCommitError(absl::Time now) {
  return {.operation = "commit",
          .code = absl::StatusCode::kInternal,
          .message =
              "I/O error occurred: the commit job stopped before the service was restarted; "
              "call stop with failover again to go on with it",
          .first = now,
          .last = now,
          .count = 1};
}

SyncState SyncStateOf(const storage::ReplicaState& state, bool connected, bool proved) {
  if (state.stage != Stage::kRunning) return SyncState::kNone;
  if (!connected) return SyncState::kDisconnected;
  if (!state.valid) return SyncState::kResyncing;
  if (state.incomplete) return SyncState::kBehind;
  return proved ? SyncState::kInSync : SyncState::kAssumed;
}

}  // namespace

std::shared_ptr<Group> Group::Make(std::shared_ptr<storage::Replica> replica,
                                   const base::Clock& clock, ServiceStats& service_stats) {
  std::shared_ptr<Group> group(new Group(std::move(replica), clock, service_stats));
  group->replica_->SetListener(group.get());
  return group;
}

Group::Group(std::shared_ptr<storage::Replica> replica, const base::Clock& clock,
             ServiceStats& service_stats)
    : replica_(std::move(replica)),
      clock_(clock),
      service_stats_(service_stats),
      disconnected_since_(clock.Monotonic()) {
  for (size_t i = 0; i < volumes().size(); ++i) io_stats_.push_back(std::make_unique<IoStats>());
}

Group::~Group() {
  base::MutexLock lock(mutex_);
  if (!detached_) replica_->SetListener(nullptr);
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

absl::StatusOr<StartOutcome> Group::Start(bool secondary, const Expected& expected,
                                          absl::Time deadline) {
  ASSIGN_OR_RETURN(const Gate::Pass pass, gate_.Enter(deadline));
  RETURN_IF_ERROR(CheckExpected(expected));
  const Verdict verdict =
      Judge(secondary ? Verb::kStartSecondary : Verb::kStartPrimary, replica_->state().stage);
  RETURN_IF_ERROR(verdict.refusal);
  if (!verdict.ignored) {
    RETURN_IF_ERROR(replica_->Start());
    base::MutexLock lock(mutex_);
    errors_.Clear();
    resync_complete_ = proved_ = false;
    disconnected_since_ = clock_.Monotonic();
  }
  const storage::ReplicaState state = replica_->state();
  return StartOutcome{.stage = state.stage,
                      .ignored = verdict.ignored,
                      .incarnation = state.incarnation,
                      .term = state.term};
}

StopOutcome Group::StopOutcomeNow(bool ignored) const {
  const storage::ReplicaState state = replica_->state();
  return {
      .stage = state.stage, .ignored = ignored, .epoch = state.committed_epoch, .term = state.term};
}

absl::StatusOr<StopOutcome> Group::Stop(const StopCommand& command, absl::Time deadline) {
  ASSIGN_OR_RETURN(const Gate::Pass pass, gate_.Enter(deadline));
  RETURN_IF_ERROR(CheckExpected(command.expected));
  const Verdict verdict =
      Judge(command.failover ? Verb::kFailover : Verb::kStop, replica_->state().stage);
  RETURN_IF_ERROR(verdict.refusal);
  if (verdict.ignored) return StopOutcomeNow(true);
  // Cleared before, not after: the commit job may fail before this thread goes on.
  ErrorLog cleared;
  {
    base::MutexLock lock(mutex_);
    std::swap(cleared, errors_);
  }
  const absl::Status status =
      command.failover ? replica_->Failover({.received = command.received, .epoch = command.epoch})
                       : replica_->Stop();
  if (command.failover) (status.ok() ? stats_.failovers_ok : stats_.failovers_failed).Add();
  if (!status.ok()) {
    base::MutexLock lock(mutex_);
    errors_.Restore(std::move(cleared));
    return status;
  }
  const StopOutcome outcome = StopOutcomeNow(false);
  if (const auto stream = TakeSession(); stream != nullptr) {
    stream->End(
        FencedError(absl::StrCat("group ", name(),
                                 command.failover ? ": the standby has taken over" : ": stopped",
                                 "; stop this primary"),
                    outcome.term));
  }
  return outcome;
}

absl::StatusOr<ErrorReport> Group::GetError() const {
  ErrorReport report{.stage = replica_->state().stage};
  RETURN_IF_ERROR(Judge(Verb::kGetError, report.stage).refusal);
  {
    base::MutexLock lock(mutex_);
    report.errors = errors_.errors();
  }
  if (report.stage != Stage::kFailoverFailed) return report;
  bool known = false;
  for (LatchedError& error : report.errors) {
    if (error.operation != "commit") continue;
    error.message = absl::StrCat("I/O error occurred: ", error.message);
    known = true;
  }
  if (!known) report.errors.push_back(UnknownCommitError(clock_.Now()));
  return report;
}

absl::Status Group::Remove(bool force, const Expected& expected, absl::Time deadline,
                           const std::function<absl::Status()>& forget) {
  ASSIGN_OR_RETURN(const Gate::Pass pass, gate_.Enter(deadline));
  RETURN_IF_ERROR(CheckExpected(expected));
  RETURN_IF_ERROR(
      Judge(force ? Verb::kForceRemove : Verb::kRemove, replica_->state().stage).refusal);
  const absl::Status removed = absl::NotFoundError(absl::StrCat("group ", name(), " was removed"));
  RETURN_IF_ERROR(EvictStreams(removed));
  RETURN_IF_ERROR(forget());
  Detach(removed);
  return absl::OkStatus();
}

GroupStatus Group::Status() const {
  GroupStatus status{.group = name(), .replica = replica_->state(), .volumes = volumes()};
  status.received_bytes = stats_.received_bytes.value();
  status.received_operations = stats_.received_operations.value();
  std::shared_ptr<StreamSession> stream;
  {
    base::MutexLock lock(mutex_);
    stream = session_;
    status.errors = errors_.errors();
    status.sync_state = SyncStateOf(status.replica, stream != nullptr, proved_);
    status.last_contact = last_contact_;
    status.lag = clock_.Monotonic() - disconnected_since_;
  }
  status.connected = stream != nullptr;
  if (stream != nullptr) {
    status.last_contact = stream->last_word();
    status.lag = stream->UndurableFor();
  }
  if (status.replica.stage != Stage::kRunning) status.lag = absl::ZeroDuration();
  return status;
}

void Group::Detach(const absl::Status& status) {
  {
    base::MutexLock lock(mutex_);
    if (std::exchange(detached_, true)) return;
  }
  if (const absl::Status evicted = EvictStreams(status); !evicted.ok()) {
    base::LogWarning("stream_stuck").With("group", name()).With("status", evicted);
  }
  replica_->SetListener(nullptr);
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
  bool first;
  {
    base::MutexLock lock(mutex_);
    first = errors_.Latch(volume_name, operation, range, status, clock_.Now());
  }
  if (!first) return;
  base::LogError("error_latched")
      .With("group", name())
      .With("volume", volume_name)
      .With("operation", operation)
      .With("range", range.ToString())
      .With("status", status);
}

void Group::OnBackgroundError(const storage::BackgroundError& error) {
  if (error.operation == "commit") stats_.failovers_failed.Add();
  Latch(error.volume, error.operation, error.range, error.status);
}

void Group::OnChange() {
  if (const auto stream = session(); stream != nullptr) stream->OnReplicaChange();
}

void Group::OnWriteRefused(uint64_t first_sequence, const absl::Status& status) {
  stats_.errors[static_cast<size_t>(ErrorReasonOf(status))].Add();
  if (HasReason(status, kReasonFenced)) {
    stats_.fenced_requests.Add();
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
  Latch(std::nullopt, "write", {}, status);
}

}  // namespace understudy::server
