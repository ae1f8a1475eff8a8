#include "client/primary.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

#include "client/differences.h"
#include "client/intent_cleaner.h"
#include "client/intent_log.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

// How long Start() waits for the secondary's first word before it leaves the rest to the forwarder.
constexpr absl::Duration kFirstAnswer = absl::Seconds(1);
constexpr absl::Duration kDrainLook = absl::Milliseconds(5);

absl::Status RunningOrDone(const std::string& group) {
  return absl::FailedPreconditionError(
      absl::StrCat("group ", group, ": Block replication is running or done"));
}

absl::Status NotRunning(const std::string& group) {
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat("group ", group, ": Block replication is not running")),
                    kReasonNotRunning);
}

bool IsOfFencing(const base::LatchedError& error) { return error.reason == kReasonFenced; }

absl::Status InUse(const std::string& group) {
  return absl::FailedPreconditionError(
      absl::StrCat("Block device is in use by internal backup job: group ", group,
                   " is in stage RUNNING; remedy: understudyctl stop ", group, " ends it"));
}

absl::StatusOr<std::unique_ptr<PrimaryDisk>> OpenDisk(base::FileSystem& file_system,
                                                      const PrimaryVolumeOptions& volume) {
  if (volume.disk_path.empty()) return std::unique_ptr<PrimaryDisk>();
  auto disk = PrimaryDisk::Open(file_system, volume.disk_path, volume.size_bytes);
  if (!disk.ok()) return Annotate(disk.status(), absl::StrCat("volume ", volume.name));
  return disk;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Primary>> Primary::Create(
    PrimaryOptions options, base::FileSystem& file_system, std::unique_ptr<AgentState> state,
    Transport* transport, ChecksumSource* checksums, const base::Clock& clock) {
  std::vector<std::unique_ptr<PrimaryDisk>> disks;
  for (PrimaryVolumeOptions& volume : options.volumes) {
    ASSIGN_OR_RETURN(std::unique_ptr<PrimaryDisk> disk, OpenDisk(file_system, volume));
    if (disk != nullptr) volume.size_bytes = disk->size_bytes();
    options.forwarder.volumes.push_back({.name = volume.name, .size_bytes = volume.size_bytes});
    disks.push_back(std::move(disk));
  }
  const bool all_tee =
      std::all_of(disks.begin(), disks.end(), [](const auto& disk) { return disk != nullptr; });
  options.forwarder.remembered_ranges_max = all_tee ? options.remembered_ranges_max : 0;
  options.forwarder.agent_id = state->record().agent_id;
  RETURN_IF_ERROR(options.forwarder.Validate());
  auto primary = std::unique_ptr<Primary>(
      new Primary(std::move(state), std::move(options.failback), file_system, clock));
  AgentState* const kept = primary->state_.get();
  ForwarderListener* const listener = primary.get();
  primary->forwarder_ = std::make_unique<Forwarder>(options.forwarder, transport, clock, listener,
                                                    &primary->journal_);
  primary->requests_ = std::make_unique<base::RequestLog>(
      file_system, kept->kept() ? kept->PathOf("requests") : "", clock, primary->state_pool_);
  if (kept->kept()) {
    primary->forwarder_->errors().KeepIn(
        base::ErrorFile::Create(file_system, kept->PathOf("errors"), primary->state_pool_,
                                options.forwarder.group),
        std::string(StageName(kept->record().stage)));
  }
  primary->differences_ =
      std::make_unique<Differences>(options.forwarder.volumes, options.dirty_map_bytes);
  const bool any_tee =
      std::any_of(disks.begin(), disks.end(), [](const auto& disk) { return disk != nullptr; });
  if (any_tee && kept->kept()) RETURN_IF_ERROR(primary->OpenIntents(file_system, options));
  Primary* const self = primary.get();
  std::vector<Volume*> volumes;
  for (size_t i = 0; i < disks.size(); ++i) {
    IntentLog* const intents = disks[i] != nullptr ? primary->intents_.get() : nullptr;
    primary->volumes_.push_back(std::make_unique<Volume>(
        VolumeOptions{.index = static_cast<uint32_t>(i),
                      .name = options.volumes[i].name,
                      .size_bytes = options.volumes[i].size_bytes,
                      .report_forward_errors = options.report_forward_errors,
                      .stop_when_fenced = options.stop_when_fenced},
        primary->forwarder_.get(), &primary->gate_, std::move(disks[i]),
        BeforeChange{.store = [self] { return self->BeforeWrite(); },
                     .stored = [self] { return self->state_->unclean(); }},
        intents));
    volumes.push_back(primary->volumes_.back().get());
  }
  primary->resync_ = std::make_unique<Resync>(
      Resync::Parts{.forwarder = self->forwarder_.get(),
                    .volumes = volumes,
                    .differences = self->differences_.get(),
                    .source = checksums,
                    .journal = &self->journal_,
                    .clock = &clock,
                    .bytes_per_second = options.resync_bytes_per_second,
                    .store = [self] { self->StoreProgress(); },
                    .store_proof = [self](Proof proof) { self->StoreProof(proof); }});
  return primary;
}

Primary::Primary(std::unique_ptr<AgentState> state, std::vector<FailbackMap> failback,
                 base::FileSystem& file_system, const base::Clock& clock)
    : file_system_(file_system),
      state_(std::move(state)),
      failback_(std::move(failback)),
      journal_(base::EventJournal::NewRun(), clock) {}

Primary::~Primary() {
  if (resync_ != nullptr) resync_->Stop();
  if (forwarder_ != nullptr) forwarder_->Stop(false).IgnoreError();
}

absl::Status Primary::Resume() {
  const auto pass = control_.Enter(base::Deadline::Never());
  ASSIGN_OR_RETURN(const bool failback, TakeFailback());
  const AgentRecord record = state_->record();
  stage_ = record.stage;
  SetHandedOver(record.handed_over);
  if (!failback) RETURN_IF_ERROR(LoadDifferences(record));
  RETURN_IF_ERROR(SuspectFormerForward(record));
  RETURN_IF_ERROR(CheckDisks(record));
  resync_->SetProof(state_->record().proof);
  if (intents_ != nullptr) {
    // The cleaner tries again.
    if (const absl::Status kept = TakeUpTrack(); !kept.ok()) {
      LatchTrackLost(kept, intents_->failure().ok());
    } else {
      forwarder_->errors().ClearState();  // one that was over before the agent's end, and kept
    }
    std::vector<Volume*> volumes;
    for (const auto& volume : volumes_) volumes.push_back(volume.get());
    cleaner_ =
        std::make_unique<IntentCleaner>(intents_.get(), forwarder_.get(), differences_.get(),
                                        std::move(volumes), [this] { return TakeUpTrack(); });
  }
  RETURN_IF_ERROR(BeginRun(record));
  if (record.stage != Stage::kRunning) return absl::OkStatus();
  if (record.fenced) {
    SetFenced(true);
    const std::vector<base::LatchedError> kept = errors();
    const bool told = std::any_of(kept.begin(), kept.end(), IsOfFencing);
    if (!told) forwarder_->errors().Latch("", "connect", FencedError());
    return absl::OkStatus();
  }
  const bool forward = any(/*tee=*/false);
  const bool away = forward && WasAway(record);
  // Without any file of differences only the standby can know that a stream does not go on, and not one that never had a stream.
  const bool forgotten = forward && intents_ == nullptr && record.resume.stream_id == 0;
  if (away || forgotten) SuspectForward();
  // Without the write-intent log the record's last lines do not count.
  const bool lost = intents_ != nullptr && intents_->was_missing();
  return forwarder_->Start(
      {.grant = record.grant,
       .handed_over = record.handed_over,
       .resume = away || lost ? ResumePoint() : record.resume,
       .incomplete = (any(/*tee=*/true) || away || forgotten) && !differences_->empty(),
       .covered = intents_ != nullptr});
}

absl::Status Primary::BeginRun(const AgentRecord& record) {
  // A resume point is good for this one run: its first operation, be it a marker, makes it untrue.
  // Who has handed over queues none before it is taken back, which forgets it as well. Nor is a
  // forward volume followed by anybody when this run is killed, had it written or not; its clean
  // end keeps its time until it is forgotten, see WasAway().
  const bool forward = any(/*tee=*/false);
  const bool end_of_forward = record.clean && forward;
  const bool forgets = record.stage == Stage::kRunning && !record.fenced && !record.handed_over &&
                       (record.resume.stream_id != 0 || end_of_forward);
  const uint64_t kept = state_->record().intent;
  const uint64_t id = intents_ != nullptr ? intents_->id() : kept;
  const bool keeps = id != kept && !end_of_forward;
  if (!forgets && !keeps) return absl::OkStatus();
  const absl::Status stored = state_->Update([&](AgentRecord& next) {
    if (forgets) next.resume = {};
    if (forgets) next.clean = next.clean && !forward;
    next.intent = id;
  });
  // The write-intent log has the id that is kept, too.
  return stored.ok() || !forgets ? absl::OkStatus() : BeforeWrite();
}

void Primary::Shutdown(absl::Duration grace) {
  const base::Deadline deadline = base::Deadline::After(grace);
  resync_->Interrupt();
  // A request that stays inside may wait for the standby, or be on the local disk only: half of the time is for the drain.
  const bool quiet = gate_.Close(grace / 2);
  if (!quiet) base::LogWarning("io_stuck_at_shutdown").With("group", group());
  // Before the drain, so that it queues nothing more; but it may wait for a range that a stuck request holds until the forwarder ends.
  if (quiet) resync_->Stop();
  urgent_.fetch_add(1);
  const auto pass = control_.Enter(base::Deadline::Never());
  EndForwarding(deadline, quiet);
  resync_->Stop();
  forwarder_->errors().Store().IgnoreError();
}

void Primary::EndForwarding(const base::Deadline& deadline, bool quiet) {
  if (forwarder_->state().running && !forwarder_->Stop(true, deadline).ok()) {
    forwarder_->Stop(false).IgnoreError();
  }
  if (!quiet) return;
  TakeUpTrack().IgnoreError();  // a clean end counts with the write-intent log only
  const absl::Status stored = StoreCleanEnd(forwarder_->resume_point());
  if (!stored.ok()) base::LogError("resume_point_lost").With("error", stored);
}

absl::Status Primary::SetStage(Stage stage) {
  RETURN_IF_ERROR(state_->Update([&](AgentRecord& record) {
    record.stage = stage;
    record.resume = {};
    record.clean = false;
    record.fenced = false;
    record.proof = Proof::kNone;
    // A start asks for a grant of its own; the same agent gets the same one again.
    record.grant = {};
  }));
  stage_.store(stage, std::memory_order_release);
  TellStage();
  return absl::OkStatus();
}

void Primary::TellStage() {
  journal_.Append({.kind = base::EventKind::kStage, .group = group(), .stage = stage()});
  base::LogInfo("stage").With("group", group()).With("stage", std::string(StageName(stage())));
}

// In the standby's words.
absl::Status Primary::FencedError() const {
  const std::vector<base::LatchedError> latched = errors();
  const auto told = std::find_if(latched.begin(), latched.end(), IsOfFencing);
  const std::string text =
      told != latched.end()
          ? told->message
          : absl::StrCat("group ", group(), ": the standby has another primary, or none any more");
  return WithReason(absl::FailedPreconditionError(text), kReasonFenced);
}

void Primary::SetFenced(bool fenced) {
  fenced_.store(fenced, std::memory_order_release);
  for (const auto& volume : volumes_) volume->SetFenced(fenced);
}

absl::Status Primary::OnGrant(const Grant& grant) {
  const Proof proof = FirstProof();
  const bool was_fenced = fenced();  // a takeover has brought it back
  RETURN_IF_ERROR(state_->Update([&](AgentRecord& record) {
    if (was_fenced) {
      record.resume = {};
      record.clean = false;
      record.fenced = false;
    }
    record.grant = grant;
    record.pair = grant.incarnation;
    record.pair_agent = record.agent_id;
    record.failback_new = false;
    record.proof = proof;
  }));
  resync_->SetProof(proof);
  if (was_fenced) {
    ClearErrors();
    SetFenced(false);
    TellStage();
  }
  return absl::OkStatus();
}

void Primary::OnFenced(const absl::Status& status) {
  base::LogError("fenced").With("group", group()).With("status", status);
  SetFenced(true);
  base::Event event{.kind = base::EventKind::kFenced, .group = group()};
  event.detail = std::string(status.message());
  journal_.Append(std::move(event));
  const absl::Status stored = state_->Update([](AgentRecord& record) { record.fenced = true; });
  if (!stored.ok()) forwarder_->errors().Latch("", "connect", stored);
}

absl::StatusOr<Primary::Outcome> Primary::Start(bool takeover, const base::Deadline& deadline) {
  const auto refused = [&] {
    const bool out = takeover && (fenced() || handed_over());
    return stage() == Stage::kRunning && !out;
  };
  if (refused()) return RunningOrDone(group());
  ASSIGN_OR_RETURN(const base::Gate::Pass pass, control_.Enter(deadline));
  if (refused()) return RunningOrDone(group());
  if (stage() == Stage::kDone) return Outcome{.stage = Stage::kDone, .ignored = true};
  if (stage() == Stage::kRunning) forwarder_->Stop(false).IgnoreError();
  copy_begun_.store(false);
  copying_.store(false);
  const bool was_fenced = fenced();  // and is until OnGrant()
  if (!was_fenced) {
    RETURN_IF_ERROR(SetStage(Stage::kRunning));
    ClearErrors();
    resync_->SetProof(Proof::kNone);
  }
  if (absl::Status status = forwarder_->Start(
          {.takeover = takeover,
           .handed_over = handed_over(),
           .missing = [this] { return any(/*tee=*/true) && !differences_->empty(); }});
      !status.ok()) {
    if (!was_fenced) SetStage(Stage::kNone).IgnoreError();
    return status;
  }
  const auto wait = base::Deadline::After(std::min(deadline.left(), kFirstAnswer));
  ForwarderState state = forwarder_->WaitForAnswer(wait);
  // What was written before the start is little, as a rule: who starts and takes a checkpoint need not wait for the resync.
  while (any(/*tee=*/true) && state.connected && state.incomplete && !state.fenced &&
         !wait.over()) {
    absl::SleepFor(kDrainLook);
    state = forwarder_->state();
  }
  if (!state.fenced) return Outcome{.stage = Stage::kRunning};
  base::LogError("start_refused").With("group", group()).With("reason", std::string(kReasonFenced));
  forwarder_->Stop(false).IgnoreError();
  const absl::Status told = FencedError();
  if (was_fenced) return told;
  SetFenced(false);
  RETURN_IF_ERROR(SetStage(Stage::kNone));
  return told;
}

absl::StatusOr<Primary::Outcome> Primary::Checkpoint(const base::Deadline& deadline) {
  if (stage() != Stage::kRunning) return Outcome{.stage = stage(), .ignored = true};
  if (fenced()) return FencedError();
  ASSIGN_OR_RETURN(const CheckpointResult result, forwarder_->Checkpoint(deadline));
  return Outcome{.stage = stage(), .checkpoint = result};
}

absl::StatusOr<Primary::Outcome> Primary::Prepare(const base::Deadline& deadline) {
  if (stage() != Stage::kRunning) return Outcome{.stage = stage(), .ignored = true};
  if (fenced()) return FencedError();
  ASSIGN_OR_RETURN(const CheckpointResult result, forwarder_->Prepare(deadline));
  return Outcome{.stage = stage(), .checkpoint = result};
}

absl::Status Primary::Drain(const base::Deadline& deadline) {
  const auto until =
      base::Deadline::After(deadline.left(), [&] { return deadline.gone() || urgent_.load() > 0; });
  absl::Status status = forwarder_->Stop(true, until);
  if (status.ok() || urgent_.load() == 0) return status;
  return absl::CancelledError(absl::StrCat(
      "group ", group(),
      ": a stop with failover came while this one drained, or the agent is shutting down"));
}

absl::StatusOr<Primary::Outcome> Primary::Stop(bool failover, const base::Deadline& deadline) {
  if (failover) urgent_.fetch_add(1);
  const auto no_longer = absl::MakeCleanup([&] {
    if (failover) urgent_.fetch_sub(1);
  });
  ASSIGN_OR_RETURN(const base::Gate::Pass pass, control_.Enter(deadline));
  if (stage() == Stage::kNone) return NotRunning(group());
  if (stage() == Stage::kDone) return Outcome{.stage = Stage::kDone, .ignored = true};
  const ForwarderState state = forwarder_->state();
  if (state.running) {
    const bool drain = !failover && !state.fenced;
    if (drain && state.incomplete) {
      return WithReason(
          absl::AbortedError(absl::StrCat(forwarder_->IncompleteError().message(),
                                          "; stop with failover to end replication without them")),
          kReasonIncomplete);
    }
    RETURN_IF_ERROR(drain ? Drain(deadline) : forwarder_->Stop(false));
  }
  RETURN_IF_ERROR(SetStage(Stage::kDone));
  SetFenced(false);
  ClearErrors();
  return Outcome{.stage = Stage::kDone};
}

absl::StatusOr<Primary::Outcome> Primary::Remove(const base::Deadline& deadline) {
  if (stage() == Stage::kRunning) return InUse(group());
  ASSIGN_OR_RETURN(const base::Gate::Pass pass, control_.Enter(deadline));
  if (stage() == Stage::kRunning) return InUse(group());
  if (stage() == Stage::kDone) RETURN_IF_ERROR(SetStage(Stage::kNone));
  return Outcome{.stage = Stage::kNone};
}

Grant Primary::grant() const {
  const Grant live = forwarder_->state().grant;
  return live.none() ? state_->record().grant : live;
}

Volume* Primary::FindExport(const std::string& export_name) const {
  if (export_name.empty() && volumes_.size() == 1) return volumes_[0].get();
  for (const auto& volume : volumes_) {
    if (ExportName(*volume) == export_name) return volume.get();
  }
  return nullptr;
}

}  // namespace understudy::client
