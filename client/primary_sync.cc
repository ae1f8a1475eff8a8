// What may differ at the standby, in client/primary.h: remembered over restarts, made good by the resync, asked for by Sync and Verify.
#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

#include "client/differences.h"
#include "client/intent_log.h"
#include "client/primary.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {
constexpr absl::Duration kSyncLook = absl::Milliseconds(50);
constexpr absl::Duration kForwardAbsenceMax = absl::Seconds(8);
}  // namespace

bool Primary::any(bool tee) const {
  return std::any_of(volumes_.begin(), volumes_.end(),
                     [tee](const auto& volume) { return volume->tee() == tee; });
}

bool Primary::Differs(bool tee) const {
  return std::any_of(volumes_.begin(), volumes_.end(), [&](const auto& volume) {
    const uint32_t index = volume->options().index;
    return volume->tee() == tee &&
           differences_->missing_bytes(index) + differences_->suspect_bytes(index) > 0;
  });
}

absl::Status Primary::SyncDisks() {
  for (const auto& volume : volumes_) RETURN_IF_ERROR(volume->SyncDisk());
  return absl::OkStatus();
}

absl::Status Primary::OpenIntents(base::FileSystem& file_system, const PrimaryOptions& options) {
  ASSIGN_OR_RETURN(
      intents_,
      IntentLog::Open(file_system, state_->PathOf(kIntentFile), forwarder_->options().volumes,
                      options.intent_regions, state_->record().intent,
                      [this](const absl::Status& why, bool gone) { LatchTrackLost(why, gone); }));
  return absl::OkStatus();
}

void Primary::LatchTrackLost(const absl::Status& why, bool gone) {
  constexpr char kGone[] =
      ": the VM is served, but after the agent's next end everything is compared; remedy: free "
      "space there, or make it writable again";
  constexpr char kFailed[] =
      ": the write-intent log can be neither written nor removed, so the VM's writes fail: all, or "
      "those to regions (4 MiB) that are not marked in it; remedy: make the directory writable "
      "again, then they go on within seconds";
  forwarder_->errors().Latch(
      "", "state",
      absl::Status(why.code(),
                   absl::StrCat("state directory ", base::DirectoryOf(state_->PathOf("")), ": ",
                                why.message(), gone ? kGone : kFailed)));
}

absl::Status Primary::LoseTrackLocked(const absl::Status& why) { return intents_->Lose(why); }

absl::Status Primary::BeforeWrite() {
  const absl::Status marked = state_->MarkUnclean();
  if (marked.ok() || intents_ == nullptr) return marked;
  const base::MutexLock lock(store_mutex_);
  return LoseTrackLocked(marked);
}

absl::Status Primary::KeepRecord(const std::function<void(AgentRecord&)>& change) {
  const absl::Status stored = state_->Update(change);
  if (stored.ok() || intents_ == nullptr) return stored;
  const base::MutexLock lock(store_mutex_);
  return LoseTrackLocked(stored);
}

absl::Status Primary::KeepDifferences() {
  if (intents_ == nullptr) return absl::OkStatus();
  const base::MutexLock lock(store_mutex_);
  const absl::Status stored = StoreDifferencesLocked();
  return stored.ok() ? stored : LoseTrackLocked(stored);
}

// Under one lock: whoever fails to store something meanwhile removes the write-intent log that is made here.
absl::Status Primary::TakeUpTrack() {
  if (intents_ == nullptr) return absl::OkStatus();
  const base::MutexLock lock(store_mutex_);
  if (intents_->kept()) return absl::OkStatus();
  const absl::Status taken = TakeUpTrackLocked();
  if (taken.ok()) {
    forwarder_->errors().ClearState();
    return taken;
  }
  // Also when Start or Stop has cleared it. Once: this is tried every few seconds.
  const std::vector<base::LatchedError> latched = errors();
  const bool told = std::any_of(latched.begin(), latched.end(),
                                [](const auto& error) { return error.operation == "state"; });
  if (!told) LatchTrackLost(taken, intents_->failure().ok());
  return taken;
}

absl::Status Primary::TakeUpTrackLocked() {
  if (const absl::Status failure = intents_->failure(); !failure.ok()) {
    RETURN_IF_ERROR(intents_->Lose(failure));
  }
  RETURN_IF_ERROR(state_->MarkUnclean());
  RETURN_IF_ERROR(StoreDifferencesLocked());
  RETURN_IF_ERROR(state_->Update([&](AgentRecord& record) { record.intent = intents_->id(); }));
  return intents_->Make();
}

// The state becomes that of a new pair whose differences are known.
absl::StatusOr<bool> Primary::TakeFailback() {
  if (failback_.empty()) return false;
  const AgentRecord record = state_->record();
  if (failback_[0].incarnation == record.failback_of) return false;  // at an earlier start
  if (intents_ == nullptr || any(/*tee=*/false)) {
    return absl::InvalidArgumentError(
        absl::StrCat("group ", group(), ": a failback needs volumes with local disks (tee mode)"));
  }
  const std::vector<VolumeSpec>& volumes = forwarder_->options().volumes;
  RETURN_IF_ERROR(CheckFailback(failback_, group(), volumes));
  const bool used = file_system_.Exists(state_->PathOf(kDifferencesFile));
  for (const FailbackMap& map : failback_) {
    const bool before = record.stored_micros != 0 &&  // it is not known after a cut
                        record.stored_micros < absl::ToUnixMicros(map.taken);
    if (!used || map.of_primary || before) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("group ", group(),
                     ": this agent has run since the failback map was taken, and its VM may have "
                     "written; remedy: start without --failback-map, and everything is compared"));
  }
  for (const FailbackMap& map : failback_) {
    for (const FailbackMap::Volume& volume : map.volumes) {
      const auto found = std::find_if(volumes.begin(), volumes.end(), [&](const auto& spec) {
        return spec.name == volume.spec.name;
      });
      const auto index = static_cast<uint32_t>(found - volumes.begin());
      for (const ByteRange& range : volume.ranges) differences_->AddSuspect(index, range);
    }
  }
  RETURN_IF_ERROR(StoreDifferences());
  base::LogInfo("failback_begun")
      .With("group", group())
      .With("pair", failback_[0].incarnation.ToHex())
      .With("to_compare_bytes", differences_->bytes());
  RETURN_IF_ERROR(state_->Update([&](AgentRecord& stored) {
    AgentRecord next;
    next.agent_id = stored.agent_id;
    next.clean = true;
    next.failback_of = failback_[0].incarnation;
    next.failback_new = true;
    next.differences = stored.differences;
    next.intent = stored.intent;
    stored = std::move(next);
  }));
  return true;
}

// A new state directory has neither of the two files, and no run has noted its disks. A used one
// has both: whoever has lost one of them knows nothing.
absl::Status Primary::LoadDifferences(const AgentRecord& record) {
  if (intents_ == nullptr) {
    // Nobody follows now what the standby misses: who comes back to tee mode must know that it knows nothing.
    if (!state_->kept() || !file_system_.Exists(state_->PathOf(kDifferencesFile))) {
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(file_system_.Remove(state_->PathOf(kDifferencesFile)));
    return file_system_.SyncDirectory(state_->PathOf(""));
  }
  const std::string path = state_->PathOf(kDifferencesFile);
  const bool fresh = !file_system_.Exists(path) && intents_->was_missing() && record.grant.none() &&
                     record.disks.empty();
  bool known = fresh;
  if (!fresh) {
    ASSIGN_OR_RETURN(known, client::LoadDifferences(file_system_, *state_, !intents_->was_missing(),
                                                    differences_.get()));
  }
  if (!known) return SuspectAll();
  if (!record.clean) SuspectIntents(record.stage);
  // Without the two files the next start would find it new as well, and suspect nothing.
  return fresh ? NewDirectory(base::DirectoryOf(path), TakeUpTrack()) : absl::OkStatus();
}

// While a volume was only forwarded nobody here followed its disk.
absl::Status Primary::SuspectFormerForward(const AgentRecord& record) {
  const std::vector<std::string> former = absl::StrSplit(record.forward, ',', absl::SkipEmpty());
  std::vector<std::string> forward;
  bool suspected = false;
  for (const auto& volume : volumes_) {
    const VolumeOptions& options = volume->options();
    if (!volume->tee()) {
      forward.push_back(options.name);
    } else if (std::count(former.begin(), former.end(), options.name) > 0) {
      differences_->AddSuspect(options.index, {0, options.size_bytes});
      suspected = true;
    }
  }
  if (suspected) RETURN_IF_ERROR(KeepDifferences());
  const std::string names = absl::StrJoin(forward, ",");
  if (names == record.forward) return absl::OkStatus();
  return KeepRecord([&](AgentRecord& stored) {
    stored.forward = names;
    stored.proof = Proof::kNone;
  });
}

std::string Primary::DisksText() const {
  std::vector<std::string> disks;
  for (const auto& volume : volumes_) {
    const PrimaryDisk* const disk = volume->disk();
    if (disk == nullptr) continue;
    disks.push_back(absl::StrCat(volume->options().name, ":", disk->IdentityText(), ":",
                                 disk->ModifiedNanos()));
  }
  return absl::StrJoin(disks, ",");
}

absl::Status Primary::CheckDisks(const AgentRecord& record) {
  const std::string now = DisksText();
  if (intents_ == nullptr || now == record.disks) return absl::OkStatus();
  std::map<std::string, std::pair<std::string, std::string>> before;
  for (const absl::string_view disk : absl::StrSplit(record.disks, ',', absl::SkipEmpty())) {
    const std::vector<std::string> fields = absl::StrSplit(disk, ':');
    if (fields.size() == 3) before[fields[0]] = {fields[1], fields[2]};
  }
  bool suspected = false;
  bool same = true;  // but for when they were written, which counts after a clean end only
  for (const auto& volume : volumes_) {
    const VolumeOptions& options = volume->options();
    const auto known = before.find(options.name);
    if (!volume->tee()) continue;
    same = same && known != before.end();
    if (known == before.end()) continue;
    const auto& [identity, modified] = known->second;
    const bool other = !volume->disk()->WasIdentifiedAs(identity);
    const bool written = modified != absl::StrCat(volume->disk()->ModifiedNanos());
    if (!other && !(record.clean && written)) continue;
    base::LogWarning("primary_disk_changed")
        .With("group", group())
        .With("volume", options.name)
        .With("disk", volume->disk_path())
        .With("what", other ? "another disk" : "written to while no agent ran")
        .With("consequence", "it is compared, and sent where it differs");
    differences_->AddSuspect(options.index, {0, options.size_bytes});
    suspected = true;
  }
  if (suspected) RETURN_IF_ERROR(KeepDifferences());
  if (same && !suspected) return absl::OkStatus();
  return KeepRecord([&](AgentRecord& stored) { stored.disks = now; });
}

// In this order: a proof that is stored vouches for what is stored of the differences.
absl::Status Primary::SuspectAll() {
  const Proof proof = any(/*tee=*/false) ? Proof::kNone : Proof::kProved;
  differences_->SuspectAll();
  resync_->SetProof(proof);
  RETURN_IF_ERROR(KeepDifferences());
  return KeepRecord([&](AgentRecord& record) { record.proof = proof; });
}

Proof Primary::FirstProof() const {
  const bool all_suspect = std::all_of(volumes_.begin(), volumes_.end(), [&](const auto& volume) {
    const VolumeOptions& options = volume->options();
    return volume->tee() && differences_->suspect_bytes(options.index) == options.size_bytes;
  });
  return all_suspect ? Proof::kProved : Proof::kNone;
}

void Primary::StoreProof(Proof proof) {
  if (state_->record().proof == proof) return;
  const absl::Status stored = state_->Update([&](AgentRecord& record) { record.proof = proof; });
  if (!stored.ok()) base::LogError("proof_lost").With("group", group()).With("error", stored);
}

// QEMU waits for an agent that is restarted, but not for ever: then it goes on with its own disk.
// Who does not know was away.
bool Primary::WasAway(const AgentRecord& record) const {
  const absl::Duration absence = state_->SinceStored(record);
  if (!record.clean || (absence >= absl::ZeroDuration() && absence <= kForwardAbsenceMax)) {
    return false;
  }
  base::LogWarning("was_away")
      .With("group", group())
      .With("for", absence)
      .With("consequence", "volumes without a local disk have to be mirrored again");
  return true;
}

// Of a volume without a local disk nobody knows how its owner went on without the agent.
void Primary::SuspectForward() {
  for (const auto& volume : volumes_) {
    const VolumeOptions& options = volume->options();
    if (!volume->tee()) differences_->AddSuspect(options.index, {0, options.size_bytes});
  }
}

void Primary::SuspectIntents(Stage stage) {
  if (stage == Stage::kRunning) SuspectForward();
  uint64_t bytes = 0;
  for (const auto& volume : volumes_) {
    if (!volume->tee()) continue;
    const uint32_t index = volume->options().index;
    for (const ByteRange& range : intents_->Loaded(index)) {
      differences_->AddSuspect(index, range);
      bytes += range.size();
    }
  }
  if (bytes == 0) return;
  base::LogWarning("unclean_restart")
      .With("group", group())
      .With("to_compare_bytes", bytes)
      .With("missing_bytes", differences_->bytes() - bytes);
}

absl::Status Primary::StoreDifferences() {
  if (intents_ == nullptr) return absl::OkStatus();
  const base::MutexLock lock(store_mutex_);
  return StoreDifferencesLocked();
}

void Primary::StoreProgress() {
  const absl::Status stored = StoreDifferences();
  if (stored.ok()) return;
  base::LogWarning("resync_progress_not_stored")
      .With("group", group())
      .With("status", stored)
      .With("consequence", "after a restart it begins where it was stored last");
}

absl::Status Primary::StoreDifferencesLocked() {
  return client::StoreDifferences(file_system_, *state_, *differences_);
}

void Primary::OnMissed(uint32_t volume, ByteRange range) {
  differences_->AddMissing(volume, range);
}

absl::Status Primary::OnUnknown() {
  // Of the first standby that lets us in the failback maps know.
  if (state_->record().failback_new) return absl::OkStatus();
  base::LogWarning("standby_unknown")
      .With("group", group())
      .With("consequence", any(/*tee=*/false)
                               ? "volumes without a local disk have to be mirrored again, others "
                                 "are compared, and sent where they differ"
                               : "everything is compared, and sent where it differs");
  copy_begun_.store(false);
  return SuspectAll();
}

SyncState Primary::sync_state() const {
  if (fenced()) return SyncState::kDiverged;
  const SyncState state = forwarder_->state().sync_state;
  const bool resyncing = resync_->resync_job().running || copying_.load();
  if (state == SyncState::kBehind && resyncing) return SyncState::kResyncing;
  if (state != SyncState::kAssumed) return state;
  const Proof proof = resync_->proof();
  if (proof == Proof::kRefuted) return SyncState::kDiverged;
  return proof == Proof::kProved && differences_->empty() ? SyncState::kInSync : state;
}

Proof Primary::KnownOfDisks() const {
  switch (sync_state()) {
    case SyncState::kInSync:
      return Proof::kProved;
    case SyncState::kDiverged:
      return Proof::kRefuted;
    default:
      return Proof::kNone;
  }
}

absl::StatusOr<Primary::Outcome> Primary::Sync(SyncMode mode, const base::Deadline& deadline) {
  if (stage() != Stage::kRunning) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat("group ", group(), ": Block replication is not running")),
                      kReasonNotRunning);
  }
  Outcome outcome{.stage = stage()};
  if (mode == SyncMode::kFull) {
    const bool copy = any(/*tee=*/false);
    RETURN_IF_ERROR(forwarder_->CheckTakesWrites());
    RETURN_IF_ERROR(SuspectAll());
    for (const auto& volume : volumes_) {  // what was missed comes again with the copy
      const VolumeOptions& options = volume->options();
      if (!volume->tee()) differences_->RemoveMissing(options.index, {0, options.size_bytes});
    }
    copy_begun_.store(copy);
    copying_.store(copy);
    RETURN_IF_ERROR(forwarder_->MakeIncomplete(absl::AbortedError(
        copy ? "the volumes are being copied: the standby stays at its last checkpoint until the "
               "copy is declared complete; remedy: understudyctl attach does both"
             : "a full sync was asked for: the standby stays at its last checkpoint until "
               "everything is compared; remedy: none needed")));
    return outcome;
  }
  if (!forwarder_->state().incomplete) {
    outcome.ignored = true;
    return outcome;
  }
  if (mode == SyncMode::kDeclareComplete) RETURN_IF_ERROR(DeclareComplete(deadline, outcome));
  return outcome;
}

// Whether nothing differs any more, once the copy counts. Under the forwarder's lock. Whoever suspects meanwhile has first said that no
// copy was begun, or makes RemoveSuspect() do nothing.
bool Primary::TakeCopy() {
  std::vector<std::pair<uint32_t, Differences::Suspect>> copied;
  for (const auto& volume : volumes_) {
    const VolumeOptions& options = volume->options();
    if (volume->tee()) continue;
    const auto suspect = differences_->NextSuspect(options.index, 0, options.size_bytes);
    if (suspect.has_value()) copied.emplace_back(options.index, *suspect);
    if (differences_->missing_bytes(options.index) > 0) return false;
  }
  if (Differs(/*tee=*/true) || !copy_begun_.load()) return false;
  for (const auto& [index, suspect] : copied) differences_->RemoveSuspect(index, suspect);
  return differences_->empty();
}

absl::Status Primary::DeclareComplete(const base::Deadline& deadline, Outcome& outcome) {
  if (!any(/*tee=*/false)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "group ", group(),
        ": its volumes have local disks (tee mode), so the agent compares and sends by itself; "
        "nothing needs to be declared"));
  }
  if (!copy_begun_.load()) {
    return absl::AbortedError(
        absl::StrCat("group ", group(),
                     ": the agent or its stream has begun anew since the copy began, so writes may "
                     "be missing; remedy: copy anew"));
  }
  while (true) {
    const auto ended = forwarder_->EndResync([this] { return TakeCopy(); }, deadline);
    if (ended.ok()) outcome.checkpoint = *ended;
    // The resync of the other volumes may have been the last one, and has ended it.
    if (ended.ok() || !forwarder_->state().incomplete) break;
    if (!HasReason(ended.status(), kReasonIncomplete) || !Differs(/*tee=*/true)) {
      return ended.status();
    }
    if (deadline.over()) {
      return deadline.Passed(
          absl::StrCat("group ", group(),
                       ": the volumes with local disks (tee mode) are still being resynced; the "
                       "copy of the others is kept: declare it again when dirty_bytes is 0"));
    }
    absl::SleepFor(kSyncLook);
  }
  copying_.store(false);
  return StoreDifferences();
}

absl::Status Primary::StoreCleanEnd(const ResumePoint& resume, bool handed_over) {
  // What the standby has must not be lost here by a power cut that nothing tells of.
  RETURN_IF_ERROR(SyncDisks());
  RETURN_IF_ERROR(StoreDifferences());
  return state_->Update([&](AgentRecord& record) {
    if (handed_over && !record.handed_over) return;
    record.clean = true;
    record.disks = DisksText();
    record.resume = intents_ == nullptr && Differs(/*tee=*/false) ? ResumePoint() : resume;
    if (resync_->proof() == Proof::kRefuted) record.proof = Proof::kRefuted;
  });
}

absl::StatusOr<uint64_t> Primary::Verify(uint64_t bytes_per_second) {
  if (stage() != Stage::kRunning) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat("group ", group(), ": Block replication is not running")),
                      kReasonNotRunning);
  }
  return resync_->StartVerify(bytes_per_second);
}

}  // namespace understudy::client
