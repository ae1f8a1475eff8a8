#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"
#include "storage/verifier.h"

namespace understudy::storage {

// Everything of the group that has records in the index. An overlay keeps its records and its segments for as long as it is held.
OverlayList ReplicaImpl::AllOverlays() const {
  const Received received = LookAtReceived();
  OverlayList all = received.chain->committed;
  if (received.chain->active != nullptr) all.push_back(received.chain->active);
  for (const auto& overlay : received.overlays) {
    if (std::find(all.begin(), all.end(), overlay) == all.end()) all.push_back(overlay);
  }
  return all;
}

absl::StatusOr<uint64_t> ReplicaImpl::Scrub(const ScrubOptions& options) {
  {
    base::MutexLock lock(mutex_);
    if (closing_ && damage_.ok()) {
      RETURN_IF_ERROR(failed_);  // a disk that could not be opened
      return absl::UnavailableError(absl::StrCat("group ", name_, " is being closed"));
    }
    if (scrub_.outcome == ScrubOutcome::kRunning) return scrub_.number;
    scrub_ = {.outcome = ScrubOutcome::kRunning,
              .number = scrub_.number + 1,
              .started = context_.clock.Now(),
              .last_clean = scrub_.last_clean,
              .last_damage = scrub_.last_damage,
              .damages_total = scrub_.damages_total};
    scrub_progress_ = {.kind = "scrub"};
  }
  TellJob("scrub", std::nullopt);
  context_.scrubs.Submit([self = shared_from_this(), options] { self->RunScrub(options); });
  NotifyChange();
  return scrub_state().number;
}

ScrubState ReplicaImpl::scrub_state() const {
  base::MutexLock lock(mutex_);
  return scrub_;
}

void ReplicaImpl::RunScrub(const ScrubOptions& options) {
  absl::Status ended;
  bool isolated = false;
  Stage stage;
  {
    base::MutexLock lock(mutex_);
    stage = record_.stage;
    isolated = !damage_.ok();
    scrub_working_ = !closing_ || isolated;
    ended = absl::IsDataLoss(failed_) ? failed_ : absl::OkStatus();
    if (!scrub_working_) ended = absl::AbortedError("the group is being closed");
  }
  if (absl::IsDataLoss(
          ended)) {  // found at recovery: it stays until a restart, a failover or Remove
    NoteScrubDamage({.operation = "scrub", .status = ended});
    ended = absl::OkStatus();
  }
  if (ended.ok() && !isolated) ended = ScrubOverlays(options, stage);
  ScrubState result;
  {
    base::MutexLock lock(mutex_);
    result = scrub_;
  }
  result.ended = context_.clock.Now();
  result.message = std::string(ended.message());
  result.outcome = !ended.ok()           ? ScrubOutcome::kStopped
                   : result.damages == 0 ? ScrubOutcome::kClean
                                         : ScrubOutcome::kDamaged;
  if (result.outcome == ScrubOutcome::kClean) result.last_clean = result.ended;
  // Who sees the outcome sees what follows from it.
  CallListener([&](ReplicaListener& listener) { listener.OnScrubEnded(result); });
  {
    base::MutexLock lock(mutex_);
    scrub_ = result;
    if (result.outcome == ScrubOutcome::kClean) RetryJob();
    scrub_working_ = false;
    changed_.NotifyAll();
  }
  TellJob("scrub", ended);
  base::LogInfo("scrub_ended")
      .With("group", name_)
      .With("outcome", ScrubOutcomeName(result.outcome))
      .With("extents", result.extents)
      .With("bytes", result.bytes)
      .With("damages", result.damages)
      .With("status", ended)
      .With("took", result.ended - result.started);
  NotifyChange();
  ScheduleJob();
}

// What was written when it begins, overlay by overlay; one that is dropped meanwhile is left.
absl::Status ReplicaImpl::ScrubOverlays(const ScrubOptions& options, Stage stage) {
  RETURN_IF_ERROR(
      FlushIndex(/*sync=*/false));  // what is only in the log is checked when it is indexed
  std::vector<std::weak_ptr<Overlay>> overlays;
  {
    uint64_t total_bytes = 0;
    for (const auto& overlay : AllOverlays()) {
      overlays.push_back(overlay);
      total_bytes += overlay->bytes();
    }
    base::MutexLock lock(mutex_);
    scrub_progress_.total_bytes = total_bytes;
  }
  for (const std::weak_ptr<Overlay>& weak : overlays) {
    const std::shared_ptr<Overlay> overlay = weak.lock();
    if (overlay != nullptr) RETURN_IF_ERROR(ScrubOverlay(overlay, options, stage));
  }
  return absl::OkStatus();
}

absl::Status ReplicaImpl::ScrubOverlay(const std::shared_ptr<Overlay>& overlay,
                                       const ScrubOptions& options, Stage stage) {
  const SegmentLog& log = overlay->record().role == LogRole::kHidden ? hidden_log_ : active_log_;
  Verifier verifier(context_.index, volumes_, overlay->id(),
                    [&log](uint32_t ordinal) { return log.Find(ordinal); });
  while (true) {
    const OverlayList now = AllOverlays();
    if (std::find(now.begin(), now.end(), overlay) == now.end()) return absl::OkStatus();
    const absl::Duration begun = context_.clock.Monotonic();
    const Verifier::Step step = verifier.Next();
    for (const Damage& damage : step.damages) {
      const std::string where =
          !damage.volume.has_value()
              ? absl::StrCat("group ", name_)
              : absl::StrCat("volume ", name_, "/", volumes_[damage.volume->value()].name);
      NoteScrubDamage(
          {.operation = "scrub",
           .volume = damage.volume,
           .range = damage.range,
           .status = Annotate(
               damage.status,
               absl::StrCat(
                   where, overlay->record().role == LogRole::kActive ? " active epoch " : " epoch ",
                   overlay->epoch().value(), " range ", damage.range.ToString()))});
    }
    {
      base::MutexLock lock(mutex_);
      scrub_.extents += step.extents;
      scrub_.bytes += step.bytes;
      scrub_progress_.done_bytes += step.bytes;
    }
    if (step.done) return absl::OkStatus();
    RETURN_IF_ERROR(PaceScrub(begun, step.bytes, options, stage));
  }
}

void ReplicaImpl::NoteScrubDamage(const BackgroundError& error) {
  {
    base::MutexLock lock(mutex_);
    ++scrub_.damages;
    ++scrub_.damages_total;
    scrub_.last_damage = context_.clock.Now();
  }
  Report(error);
}

// Waits as long as the rate says that a step that began at `begun` takes; kAborted when the scrub must stop.
absl::Status ReplicaImpl::PaceScrub(absl::Duration begun, uint64_t bytes,
                                    const ScrubOptions& options, Stage stage) {
  absl::Duration until = begun;
  if (options.bytes_per_second > 0) {
    until +=
        absl::Seconds(static_cast<double>(bytes) / static_cast<double>(options.bytes_per_second));
  }
  base::MutexLock lock(mutex_);
  while (true) {
    if (closing_) return absl::AbortedError("the group is being closed");
    if (record_.stage != stage) {
      return absl::AbortedError(absl::StrCat("the group went to stage ", StageName(record_.stage)));
    }
    const absl::Duration left = until - context_.clock.Monotonic();
    if (left <= absl::ZeroDuration()) return absl::OkStatus();
    changed_.WaitFor(mutex_, left);
  }
}

absl::string_view ScrubOutcomeName(ScrubOutcome outcome) {
  switch (outcome) {
    case ScrubOutcome::kNone:
      return "NONE";
    case ScrubOutcome::kRunning:
      return "RUNNING";
    case ScrubOutcome::kClean:
      return "CLEAN";
    case ScrubOutcome::kDamaged:
      return "DAMAGED";
    case ScrubOutcome::kStopped:
      return "STOPPED";
  }
  return "UNKNOWN";
}

}  // namespace understudy::storage
