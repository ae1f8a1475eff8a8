#include "client/resync.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "client/comparison.h"
#include "client/differences.h"
#include "client/forwarder.h"
#include "client/volume.h"
#include "storage/base/deadline.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

constexpr uint64_t kSendBytes = 256 << 10;
// Compared between two looks at what is missing: bounds what a failure in between makes compare again.
constexpr uint64_t kCompareBytes = 64 << 20;
constexpr uint64_t kRecheckBytes = 1 << 20;
constexpr absl::Duration kResyncLook = absl::Milliseconds(200);
constexpr absl::Duration kRetry = absl::Seconds(1);
constexpr absl::Duration kStoreInterval = absl::Seconds(10);
constexpr absl::Duration kCheckpointTimeout = absl::Seconds(60);
constexpr absl::Duration kReceiveTimeout = absl::Seconds(10);
constexpr int kDifferencesNamed = 16;  // latched one by one; the rest is counted

absl::Status Stopped() { return absl::CancelledError("the agent is shutting down"); }

}  // namespace

Resync::Resync(Parts parts)
    : parts_(std::move(parts)),
      limit_(parts_.bytes_per_second),
      sent_bytes_(parts_.volumes.size()),
      resync_thread_([this] { Run(); }),
      verify_thread_([this] { RunVerify(); }) {}

Resync::~Resync() { Stop(); }

void Resync::Interrupt() {
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  if (parts_.source != nullptr) parts_.source->Cancel();
}

void Resync::Stop() {
  Interrupt();
  if (resync_thread_.joinable()) resync_thread_.join();
  if (verify_thread_.joinable()) verify_thread_.join();
}

bool Resync::stopping() const {
  base::MutexLock lock(mutex_);
  return stopping_;
}

void Resync::Sleep(absl::Duration duration) {
  base::MutexLock lock(mutex_);
  if (!stopping_) wake_.WaitFor(mutex_, duration);
}

bool Resync::tee() const {
  return std::all_of(parts_.volumes.begin(), parts_.volumes.end(),
                     [](const Volume* volume) { return volume->tee(); });
}

uint64_t Resync::Remaining() const {
  uint64_t bytes = 0;
  for (const Volume* const volume : parts_.volumes) {
    const uint32_t index = volume->options().index;
    if (!volume->tee()) continue;
    bytes += parts_.differences->missing_bytes(index) + parts_.differences->suspect_bytes(index);
  }
  return bytes;
}

bool Resync::HasWork() const {
  const bool any_tee = std::any_of(parts_.volumes.begin(), parts_.volumes.end(),
                                   [](const Volume* volume) { return volume->tee(); });
  return any_tee && (Remaining() > 0 || parts_.differences->empty());
}

absl::Status Resync::Pace(base::RateLimit& limit, uint64_t bytes) {
  while (true) {
    if (stopping()) return Stopped();
    const absl::Duration wait = limit.Take(bytes, parts_.clock->Monotonic());
    if (wait <= absl::ZeroDuration()) return absl::OkStatus();
    Sleep(std::min(wait, kResyncLook));
  }
}

Comparison Resync::ComparisonOf(Volume& volume) const {
  return {.source = parts_.source,
          .group = parts_.forwarder->options().group,
          .grant = parts_.forwarder->state().grant,
          .volume = &volume};
}

void Resync::Tell(base::EventKind kind, const std::string& job, const absl::Status& status) {
  base::Event event{.kind = kind, .group = parts_.forwarder->options().group};
  event.job = job;
  if (!status.ok()) event.detail = std::string(status.message());
  parts_.journal->Append(std::move(event));
}

// ---- the resync ---------------------------------------------------------------------------------------------------------------

void Resync::Run() {
  while (!stopping()) {
    const absl::Status begun =
        parts_.forwarder->BeginResync(base::Deadline::After(kRetry, [this] { return stopping(); }));
    if (begun.ok() && HasWork()) {
      RunOnce();
    } else if (begun.ok() || !absl::IsDeadlineExceeded(begun)) {
      Sleep(kResyncLook);
    }
  }
}

void Resync::RunOnce() {
  {
    base::MutexLock lock(mutex_);
    job_ = {.running = true, .total_bytes = Remaining()};
  }
  Tell(base::EventKind::kJobBegun, "resync", absl::OkStatus());
  base::LogInfo("resync_begun")
      .With("group", parts_.forwarder->options().group)
      .With("bytes", Remaining());
  const absl::Status status = BringUpToDate();
  SyncJob job;
  {
    base::MutexLock lock(mutex_);
    job_.running = false;
    job = job_;
  }
  ++(status.ok() ? ended_ok_ : ended_failed_);
  Tell(base::EventKind::kJobEnded, "resync", status);
  // The same cause again and again is one line.
  if (std::string failure(status.message()); failure != last_failure_ || status.ok()) {
    last_failure_ = std::move(failure);
    base::LogInfo("resync_ended")
        .With("group", parts_.forwarder->options().group)
        .With("done_bytes", job.done_bytes)
        .With("status", status);
  }
  if (!status.ok()) Sleep(kRetry);
}

// What an earlier stream has left there must not be lost after it was compared: nobody would send it again. This stream's own
// operations are in the window until they are durable, and come after it.
absl::Status Resync::BringUpToDate() {
  RETURN_IF_ERROR(parts_.forwarder->AwaitDurable(
      base::Deadline::After(kReceiveTimeout, [this] { return stopping(); })));
  while (true) {
    RETURN_IF_ERROR(SendMissing());
    ASSIGN_OR_RETURN(const bool compared, CompareNext());
    if (compared) continue;
    if (!HasWork()) {  // others have to be copied
      StoreAtTimes(true);
      return absl::OkStatus();
    }
    const absl::Status ended = End();
    // Something was missed between the last look and the end.
    if (HasReason(ended, kReasonIncomplete) && !parts_.forwarder->state().skipping &&
        !parts_.differences->empty()) {
      continue;
    }
    return ended;
  }
}

absl::Status Resync::SendMissing() {
  for (Volume* const volume : parts_.volumes) {
    if (!volume->tee()) continue;
    const uint32_t index = volume->options().index;
    uint64_t from = 0;
    while (const auto range = parts_.differences->NextMissing(index, from, kSendBytes)) {
      RETURN_IF_ERROR(Pace(limit_, range->size()));
      RETURN_IF_ERROR(parts_.forwarder->AwaitSpareRoom(
          range->size(),
          base::Deadline::After(absl::InfiniteDuration(), [this] { return stopping(); })));
      RETURN_IF_ERROR(volume->Resend(*range, *parts_.differences));
      sent_bytes_[index] += range->size();
      from = range->end;
      {
        base::MutexLock lock(mutex_);
        job_.done_bytes += range->size();
        job_.total_bytes = job_.done_bytes + Remaining();
      }
      StoreAtTimes(false);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Resync::CompareNext() {
  for (Volume* const volume : parts_.volumes) {
    if (!volume->tee()) continue;
    const uint32_t index = volume->options().index;
    const auto suspect = parts_.differences->NextSuspect(index, 0, kCompareBytes);
    if (!suspect.has_value()) continue;
    if (parts_.source == nullptr) {
      return absl::FailedPreconditionError("nothing here tells what the standby holds");
    }
    RETURN_IF_ERROR(Compare(
        ComparisonOf(*volume), suspect->range,
        [&](ByteRange differs) { parts_.differences->AddMissing(index, differs); },
        [&](ByteRange slice) -> absl::Status {
          {
            base::MutexLock lock(mutex_);
            job_.done_bytes += slice.size();
            // What is compared counts as suspect until the whole range is.
            job_.total_bytes = std::max(job_.total_bytes, job_.done_bytes);
          }
          return Pace(limit_, slice.size());
        }));
    parts_.differences->RemoveSuspect(index, *suspect);
    {
      base::MutexLock lock(mutex_);
      job_.total_bytes = job_.done_bytes + Remaining();
    }
    StoreAtTimes(false);
    return true;
  }
  return false;
}

absl::Status Resync::End() {
  const auto ended = parts_.forwarder->EndResync(
      [this] { return parts_.differences->empty(); },
      base::Deadline::After(kCheckpointTimeout, [this] { return stopping(); }));
  RETURN_IF_ERROR(ended.status());
  base::LogInfo("resync_committed")
      .With("group", parts_.forwarder->options().group)
      .With("epoch", ended->epoch.value());
  if (everything_.exchange(false)) Prove();
  StoreAtTimes(true);
  return absl::OkStatus();
}

void Resync::SetProof(Proof proof) {
  everything_.store(proof == Proof::kProved && !parts_.differences->empty());
  proof_.store(proof, std::memory_order_release);
}

void Resync::Prove() {
  proof_.store(Proof::kProved, std::memory_order_release);
  parts_.forwarder->errors().ClearVerify();
  parts_.store_proof(Proof::kProved);
}

void Resync::StoreAtTimes(bool now) {
  if (!now && parts_.clock->Monotonic() - stored_ < kStoreInterval) return;
  stored_ = parts_.clock->Monotonic();
  parts_.store();
}

SyncJob Resync::resync_job() const {
  base::MutexLock lock(mutex_);
  return job_;
}

// ---- verify -------------------------------------------------------------------------------------------------------------------

absl::StatusOr<uint64_t> Resync::StartVerify(uint64_t bytes_per_second) {
  const std::string& group = parts_.forwarder->options().group;
  if (!tee()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "group ", group,
        ": a volume in forward mode has no local disk to compare; remedy: give it one (tee mode)"));
  }
  const ForwarderState state = parts_.forwarder->state();
  if (!state.connected) {
    return absl::UnavailableError(
        absl::StrCat("group ", group,
                     ": no connection to the standby; try again when status says "
                     "connected"));
  }
  if (state.incomplete) {
    return WithReason(
        absl::FailedPreconditionError(
            absl::StrCat("group ", group,
                         ": a resync is under way and compares by itself; verify when it has ended "
                         "(understudyctl sync ",
                         group, " --wait)")),
        kReasonIncomplete);
  }
  base::MutexLock lock(mutex_);
  if (stopping_) return Stopped();
  if (verify_.outcome == VerifyOutcome::kRunning) return verify_.number;
  verify_ = {.outcome = VerifyOutcome::kRunning,
             .number = verify_.number + 1,
             .started = parts_.clock->Now(),
             .last_equal = verify_.last_equal};
  verify_rate_ = bytes_per_second;
  wake_.NotifyAll();
  return verify_.number;
}

void Resync::RunVerify() {
  while (true) {
    uint64_t rate = 0;
    {
      base::MutexLock lock(mutex_);
      while (!stopping_ && verify_.outcome != VerifyOutcome::kRunning) wake_.Wait(mutex_);
      if (stopping_) return;
      rate = verify_rate_;
    }
    Tell(base::EventKind::kJobBegun, "verify", absl::OkStatus());
    base::RateLimit limit(rate);
    EndVerify(VerifyAll(limit));
  }
}

absl::Status Resync::VerifyAll(base::RateLimit& limit) {
  const Grant begun = parts_.forwarder->state().grant;
  for (Volume* const volume : parts_.volumes) {
    const ByteRange all{0, volume->options().size_bytes};
    for (uint64_t from = 0; from < all.end; from += kCompareBytes) {
      std::vector<ByteRange> candidates;
      RETURN_IF_ERROR(Compare(
          ComparisonOf(*volume), {from, std::min(from + kCompareBytes, all.end)},
          [&](ByteRange differs) { candidates.push_back(differs); },
          [&](ByteRange slice) -> absl::Status {
            {
              base::MutexLock lock(mutex_);
              verify_.bytes += slice.size();
            }
            return Pace(limit, slice.size());
          }));
      for (const ByteRange& candidate : candidates) {
        for (uint64_t at = candidate.start; at < candidate.end; at += kRecheckBytes) {
          RETURN_IF_ERROR(Recheck(*volume, {at, std::min(at + kRecheckBytes, candidate.end)}));
        }
      }
    }
  }
  // What the standby of another grant held proves nothing of this one. Slow as it may be, no call to that one needs to have failed.
  if (parts_.forwarder->state().grant != begun) {
    return absl::AbortedError("the pair has changed in the middle of it");
  }
  return absl::OkStatus();
}

// Nobody writes it, and the standby has everything that was written: what differs now differs.
absl::Status Resync::Recheck(Volume& volume, ByteRange range) {
  return volume.WhileHeld(range, [&]() -> absl::Status {
    RETURN_IF_ERROR(parts_.forwarder->AwaitReceived(
        base::Deadline::After(kReceiveTimeout, [this] { return stopping(); })));
    if (parts_.differences->Holds(volume.options().index, range)) {
      return absl::AbortedError("the standby missed writes in the middle of it");
    }
    return Compare(
        ComparisonOf(volume), range,
        [&](ByteRange differs) {
          bool named = false;
          {
            base::MutexLock lock(mutex_);
            verify_.different_bytes += differs.size();
            named = verify_.different_bytes <= kDifferencesNamed * kRecheckBytes;
          }
          parts_.forwarder->errors().Latch(
              volume.options().name, "verify",
              absl::DataLossError(absl::StrCat(
                  "the standby's data differs from the primary's; remedy: understudyctl sync ",
                  parts_.forwarder->options().group, " --full sends what differs")),
              differs);
          if (!named) return;
          base::LogError("verify_difference")
              .With("group", parts_.forwarder->options().group)
              .With("volume", volume.options().name)
              .With("range", differs.ToString());
        },
        [](ByteRange) { return absl::OkStatus(); });
  });
}

void Resync::EndVerify(const absl::Status& status) {
  VerifyState state = verify();
  // Before anybody can ask for the outcome.
  if (state.different_bytes > 0) {
    parts_.store_proof(Proof::kRefuted);
    proof_.store(Proof::kRefuted, std::memory_order_release);
  } else if (status.ok()) {
    Prove();
  }
  {
    base::MutexLock lock(mutex_);
    verify_.ended = parts_.clock->Now();
    verify_.message = status.ok() ? "" : std::string(status.message());
    if (verify_.different_bytes > 0) {
      verify_.outcome = VerifyOutcome::kDifferent;
    } else {
      verify_.outcome = status.ok() ? VerifyOutcome::kEqual : VerifyOutcome::kStopped;
    }
    if (verify_.outcome == VerifyOutcome::kEqual) verify_.last_equal = verify_.ended;
    state = verify_;
  }
  Tell(base::EventKind::kJobEnded, "verify", status);
  base::LogInfo("verify_ended")
      .With("group", parts_.forwarder->options().group)
      .With("bytes", state.bytes)
      .With("different_bytes", state.different_bytes)
      .With("status", status);
}

VerifyState Resync::verify() const {
  base::MutexLock lock(mutex_);
  return verify_;
}

SyncJob Resync::verify_job() const {
  uint64_t total = 0;
  for (const Volume* volume : parts_.volumes) total += volume->options().size_bytes;
  base::MutexLock lock(mutex_);
  return {.running = verify_.outcome == VerifyOutcome::kRunning,
          .done_bytes = verify_.bytes,
          .total_bytes = total};
}

}  // namespace understudy::client
