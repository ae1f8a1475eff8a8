// What may differ at the standby, in client/primary.h: remembered over restarts, made good by the resync, asked for by Sync and Verify.
#include <algorithm>

#include "absl/strings/str_cat.h"

#include "client/primary.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
bool Primary::tee() const {
  return std::all_of(volumes_.begin(), volumes_.end(),
                     [](const auto& volume) { return volume->tee(); });
}

absl::Status Primary::SyncDisks() {
  for (const auto& volume : volumes_) {
    if (volume->tee()) RETURN_IF_ERROR(volume->SyncDisk());
  }
  return absl::OkStatus();
}

absl::Status Primary::OpenIntents(base::FileSystem& file_system, const PrimaryOptions& options) {
  ASSIGN_OR_RETURN(intents_,
                   IntentLog::Open(file_system, state_->PathOf(kIntentFile),
                                   forwarder_->options().volumes, options.intent_regions));
  return absl::OkStatus();
}

// The state becomes that of a new pair whose differences are known.
absl::StatusOr<bool> Primary::TakeFailback() {
  if (failback_.empty()) return false;
  const AgentRecord record = state_->record();
  if (failback_[0].incarnation == record.failback_of) return false;  // at an earlier start
  if (intents_ == nullptr || !tee()) {
    return absl::InvalidArgumentError(
        absl::StrCat("group ", group(), ": a failback needs volumes with local disks (tee mode)"));
  }
  const std::vector<VolumeSpec>& volumes = forwarder_->options().volumes;
  RETURN_IF_ERROR(CheckFailback(failback_, group(), volumes));
  const bool used = file_system_.Exists(state_->PathOf(kDifferencesFile));
  for (const FailbackMap& map : failback_) {
    if (!used || map.of_primary || record.stored_micros < absl::ToUnixMicros(map.taken)) continue;
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
    stored = {.agent_id = stored.agent_id,
              .clean = true,
              .failback_of = failback_[0].incarnation,
              .failback_new = true};
  }));
  return true;
}

// A new state directory has neither of the two files, a used one has both: whoever has lost one of them knows nothing.
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
  const bool kept = file_system_.Exists(path);
  absl::Status loaded;
  if (kept) {
    ASSIGN_OR_RETURN(const std::string encoded, file_system_.ReadWholeFile(path));
    loaded = differences_->DecodeAll(encoded);
    if (!loaded.ok() && !absl::IsDataLoss(loaded)) {
      return Annotate(loaded, absl::StrCat(path, " (remedy: remove it, then all is compared)"));
    }
  }
  const bool fresh = !kept && intents_->created() && record.grant.none();
  if (!fresh && (!kept || !loaded.ok() || intents_->created())) {
    base::LogWarning("differences_unknown")
        .With("group", group())
        .With("file", path)
        .With("status", loaded)
        .With("consequence", "everything is compared, and sent where it differs");
    differences_->SuspectAll();
    resync_->OnSuspectAll();
    return StoreDifferences();
  }
  if (!record.clean) SuspectIntents();
  return fresh ? StoreDifferences() : absl::OkStatus();
}

void Primary::SuspectIntents() {
  uint64_t bytes = 0;
  for (const auto& volume : volumes_) {
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
  return Annotate(
      file_system_.WriteFileAtomically(state_->PathOf(kDifferencesFile), differences_->EncodeAll()),
      "agent state");
}

void Primary::OnMissed(uint32_t volume, ByteRange range) {
  differences_->AddMissing(volume, range);
}

absl::Status Primary::OnUnknown() {
  // Of the first standby that lets us in the failback maps know.
  if (state_->record().failback_new) return absl::OkStatus();
  base::LogWarning("standby_unknown")
      .With("group", group())
      .With("consequence", tee() ? "everything is compared, and sent where it differs"
                                 : "the volumes have to be mirrored again");
  copy_begun_.store(false);
  differences_->SuspectAll();
  resync_->OnSuspectAll();
  return StoreDifferences();
}

SyncState Primary::sync_state() const {
  if (fenced()) return SyncState::kDiverged;
  const SyncState state = forwarder_->state().sync_state;
  const bool resyncing = resync_->resync_job().running || copying_.load();
  if (state == SyncState::kBehind && resyncing) return SyncState::kResyncing;
  if (state != SyncState::kAssumed) return state;
  switch (resync_->proof()) {
    case Resync::Proof::kProved:
      return SyncState::kInSync;
    case Resync::Proof::kRefuted:
      return SyncState::kDiverged;
    case Resync::Proof::kNone:
      break;
  }
  return state;
}

absl::StatusOr<Primary::Outcome> Primary::Sync(SyncMode mode, const base::Deadline& deadline) {
  if (stage() != Stage::kRunning) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat("group ", group(), ": Block replication is not running")),
                      kReasonNotRunning);
  }
  Outcome outcome{.stage = stage()};
  if (mode == SyncMode::kFull) {
    if (!tee()) {
      differences_->Clear();  // what was missed comes again with the copy
      copy_begun_.store(true);
    }
    differences_->SuspectAll();
    resync_->OnSuspectAll();
    RETURN_IF_ERROR(StoreDifferences());
    copying_.store(!tee());
    RETURN_IF_ERROR(forwarder_->MakeIncomplete(absl::AbortedError(
        tee() ? "a full sync was asked for: the standby stays at its last checkpoint until "
                "everything is compared; remedy: none needed"
              : "the volumes are being copied: the standby stays at its last checkpoint until the "
                "copy is declared complete; remedy: understudyctl attach does both")));
    return outcome;
  }
  if (!forwarder_->state().incomplete) {
    outcome.ignored = true;
    return outcome;
  }
  if (mode == SyncMode::kDeclareComplete) RETURN_IF_ERROR(DeclareComplete(deadline, outcome));
  return outcome;
}

absl::Status Primary::DeclareComplete(const base::Deadline& deadline, Outcome& outcome) {
  if (tee()) {
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
  ASSIGN_OR_RETURN(outcome.checkpoint, forwarder_->EndResync(
                                           [this] {
                                             if (!copy_begun_.load()) return false;
                                             if (!differences_->none_missing()) return false;
                                             differences_->Clear();
                                             return true;
                                           },
                                           deadline));
  copying_.store(false);
  return absl::OkStatus();
}

absl::Status Primary::StoreCleanEnd(const ResumePoint& resume, bool handed_over) {
  // What the standby has must not be lost here by a power cut that nothing tells of.
  RETURN_IF_ERROR(SyncDisks());
  RETURN_IF_ERROR(StoreDifferences());
  return state_->Update([&](AgentRecord& record) {
    if (handed_over && !record.handed_over) return;
    record.clean = true;
    record.resume = resume;
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
