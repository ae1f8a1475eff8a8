#include "client/volume.h"

#include <optional>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"

#include "client/differences.h"
#include "client/forwarder.h"
#include "client/intent_log.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"
#include "storage/base/window_time.h"

namespace understudy::client {
namespace {
void Add(std::atomic<uint64_t>& counter, uint64_t amount) {
  counter.fetch_add(amount, std::memory_order_relaxed);
}

// From before local writes until they have their place in the stream.
class Intents {
 public:
  Intents(IntentLog* log, uint32_t volume) : log_(log), volume_(volume) {}
  ~Intents() {
    for (const ByteRange& range : begun_) log_->End(volume_, range, ticket);
  }
  Intents(const Intents&) = delete;
  Intents& operator=(const Intents&) = delete;

  // As IntentLog::BeginAll().
  void Begin(std::span<const ByteRange> ranges, std::span<absl::Status> results) {
    if (log_ == nullptr) return;
    log_->BeginAll(volume_, ranges, results);
    for (size_t i = 0; i < ranges.size(); ++i) {
      if (results[i].ok()) begun_.push_back(ranges[i]);
    }
  }
  // Of the last operation that was queued. For those before it, it only says more than is needed.
  uint64_t ticket = 0;

 private:
  IntentLog* const log_;
  const uint32_t volume_;
  absl::InlinedVector<ByteRange, 1> begun_;
};
}  // namespace

Volume::Volume(VolumeOptions options, Forwarder* forwarder, base::IoGate* gate,
               std::unique_ptr<PrimaryDisk> disk, BeforeChange before_change, IntentLog* intents)
    : options_(std::move(options)),
      forwarder_(forwarder),
      gate_(gate),
      disk_(std::move(disk)),
      before_change_(std::move(before_change)),
      intents_(intents) {}

void Volume::Count(IoKind kind, uint64_t requests, uint64_t bytes) {
  Add(figures_.requests[static_cast<size_t>(kind)], requests);
  Add(figures_.bytes[static_cast<size_t>(kind)], bytes);
}

absl::Status Volume::CheckRequest(const base::IoGate::Pass& pass, uint64_t offset,
                                  uint64_t length) {
  if (!pass.open()) {
    return absl::CancelledError(
        absl::StrCat("volume ", options_.name, ": the agent is shutting down; connect again"));
  }
  if (fenced_.load(std::memory_order_acquire) && options_.stop_when_fenced) {
    Add(figures_.fenced_requests, 1);
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "volume ", options_.name,
            ": another primary has taken over; this one has stopped (--on-fenced=stop)")),
        kReasonFenced);
  }
  if (offset > options_.size_bytes || length > options_.size_bytes - offset) {
    return absl::OutOfRangeError(absl::StrCat("volume ", options_.name, ": request at ", offset,
                                              " of ", length, " bytes ends past ",
                                              options_.size_bytes));
  }
  return absl::OkStatus();
}

absl::Status Volume::CheckSectors(uint64_t offset, uint64_t length) const {
  if (length != 0 && offset % kSectorBytes == 0 && length % kSectorBytes == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("volume ", options_.name, ": request at ", offset,
                                                 " of ", length,
                                                 " bytes is empty or not sector-aligned"));
}

absl::Status Volume::CheckMayChange() const {
  // Without a local disk the VM may go on with its own: the forwarder refuses the write, and notes that it is missing.
  if (!tee() || !handed_over_.load(std::memory_order_acquire)) return absl::OkStatus();
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "volume ", options_.name,
          ": the primary has handed over and refuses writes until the standby gives it back")),
      kReasonHandedOver);
}

void Volume::AwaitChanges() { const base::RangeLock::Hold all(ranges_, {0, options_.size_bytes}); }

absl::Status Volume::LocalResult(IoKind kind, ByteRange range, const absl::Status& status) {
  if (status.ok()) return status;
  Add(figures_.local_errors[static_cast<size_t>(kind)], 1);
  forwarder_->errors().Latch(options_.name, kind == IoKind::kRead ? "read" : "write", status,
                             range);
  return status;
}

absl::Status Volume::AfterForward(IoKind kind, const absl::Status& status) {
  if (status.ok()) return status;
  const bool stopped = HasReason(status, kReasonNotRunning);
  if (!stopped && !HasReason(status, kReasonHandedOver))
    Add(figures_.remote_errors[static_cast<size_t>(kind)], 1);
  if (HasReason(status, kReasonFenced)) {
    Add(figures_.fenced_requests, 1);
    return options_.stop_when_fenced || !tee() ? status : absl::OkStatus();
  }
  if (absl::IsInvalidArgument(status) || absl::IsOutOfRange(status)) return status;
  if (HasReason(status, kReasonHandedOver)) return status;
  if (tee()) return absl::OkStatus();
  if (stopped || options_.report_forward_errors) return Annotate(status, options_.name);
  return absl::OkStatus();
}

absl::Status Volume::Read(uint64_t offset, std::span<char> out) {
  const base::IoGate::Pass pass(*gate_);
  RETURN_IF_ERROR(CheckRequest(pass, offset, out.size()));
  RETURN_IF_ERROR(CheckSectors(offset, out.size()));
  Count(IoKind::kRead, 1, out.size());
  if (!tee()) {
    if (!read_refused_.exchange(true)) {
      base::LogWarning("read_refused")
          .With("volume", options_.name)
          .With("reason", "it has no local disk (forward mode)");
    }
    return absl::InternalError(absl::StrCat(
        "volume ", options_.name, " has no local disk: it cannot be read (forward mode)"));
  }
  return LocalResult(IoKind::kRead, ByteRange::OfLength(offset, out.size()),
                     disk_->Read(offset, out));
}

absl::Status Volume::BeginChange(const base::IoGate::Pass& pass, IoKind kind, uint64_t offset,
                                 uint64_t length) {
  RETURN_IF_ERROR(CheckRequest(pass, offset, length));
  RETURN_IF_ERROR(CheckSectors(offset, length));
  RETURN_IF_ERROR(CheckMayChange());
  if (before_change_.store) RETURN_IF_ERROR(before_change_.store());
  Count(kind, 1, length);
  return absl::OkStatus();
}

absl::Status Volume::Change(IoKind kind, uint64_t offset, uint64_t length, bool fua,
                            absl::FunctionRef<absl::Status()> locally,
                            absl::FunctionRef<absl::Status(uint64_t* ticket)> forward) {
  const base::IoGate::Pass pass(*gate_);
  RETURN_IF_ERROR(BeginChange(pass, kind, offset, length));
  ByteRange range = ByteRange::OfLength(offset, length);
  absl::Status result;
  ChangeAll(
      kind, {&range, 1}, {&result, 1}, [&](size_t) { return locally(); },
      [&](std::span<absl::Status> results, uint64_t* ticket) {
        if (results[0].ok()) results[0] = forward(ticket);
      });
  RETURN_IF_ERROR(result);
  if (fua && tee()) return LocalResult(IoKind::kFlush, range, disk_->Sync());
  return absl::OkStatus();
}

void Volume::ChangeAll(
    IoKind kind, std::span<ByteRange> ranges, std::span<absl::Status> results,
    absl::FunctionRef<absl::Status(size_t index)> locally,
    absl::FunctionRef<void(std::span<absl::Status> results, uint64_t* ticket)> forward) {
  absl::InlinedVector<absl::Status, 1> forwarded;
  {
    Intents intents(intents_, options_.index);
    intents.Begin(ranges, results);
    for (size_t i = 0; i < ranges.size(); ++i) {
      if (results[i].ok() || ranges[i].empty()) continue;
      LocalResult(kind, ranges[i], results[i]).IgnoreError();
      ranges[i] = {};
    }
    const base::RangeLock::Hold hold(ranges_, ranges);
    // Again: whoever waits for those that hold a range relies on it.
    const absl::Status may_change = CheckMayChange();
    for (size_t i = 0; i < ranges.size(); ++i) {
      if (results[i].ok()) results[i] = may_change;
      if (!results[i].ok() || !tee()) continue;
      results[i] = LocalResult(kind, ranges[i], locally(i));
      if (results[i].ok()) continue;
      // Any part of it may be on the local disk.
      forwarder_->NoteMissed(options_.index, ranges[i],
                             Annotate(results[i], "a local write failed"));
    }
    forwarded.assign(results.begin(), results.end());
    const base::WindowTime::Scope in_window;
    forward({forwarded.data(), forwarded.size()}, &intents.ticket);
  }
  for (size_t i = 0; i < results.size(); ++i) {
    if (results[i].ok()) results[i] = AfterForward(kind, forwarded[i]);
  }
}

absl::Status Volume::Write(uint64_t offset, std::span<const char> data, bool fua) {
  const BlockWrite write{.offset = offset, .data = data, .fua = fua};
  absl::Status result;
  WriteAll({&write, 1}, {&result, 1});
  return result;
}

void Volume::WriteAll(std::span<const BlockWrite> writes, std::span<absl::Status> results) {
  const base::IoGate::Pass pass(*gate_);
  absl::InlinedVector<ByteRange, 1> ranges(writes.size());
  for (size_t i = 0; i < writes.size(); ++i) {
    const uint64_t length = writes[i].data.size();
    results[i] = BeginChange(pass, IoKind::kWrite, writes[i].offset, length);
    if (results[i].ok()) ranges[i] = writes[i].range();
  }
  ChangeAll(
      IoKind::kWrite, {ranges.data(), ranges.size()}, results,
      [&](size_t i) { return disk_->Write(writes[i].offset, writes[i].data); },
      [&](std::span<absl::Status> forwarded, uint64_t* ticket) {
        forwarder_->WriteAll(options_.index, writes, forwarded, ticket);
      });
  if (!tee()) return;
  std::optional<absl::Status> synced;  // one sync for all
  for (size_t i = 0; i < writes.size(); ++i) {
    if (!writes[i].fua || !results[i].ok()) continue;
    if (!synced.has_value()) synced = disk_->Sync();
    results[i] = LocalResult(IoKind::kFlush, ranges[i], *synced);
  }
}

size_t Volume::TryWrite(std::span<const BlockWrite> writes) {
  if (tee()) return 0;
  const base::IoGate::Pass pass(*gate_);
  if (!pass.open() || fenced_.load(std::memory_order_acquire)) return 0;
  if (before_change_.stored && !before_change_.stored()) return 0;
  const base::WindowTime::Scope in_window;
  const size_t taken = forwarder_->TryWrite(options_.index, writes);
  uint64_t bytes = 0;
  for (const BlockWrite& write : writes.first(taken)) bytes += write.data.size();
  Count(IoKind::kWrite, taken, bytes);
  return taken;
}

absl::Status Volume::WriteZeroes(uint64_t offset, uint64_t length, ZeroedSpace space, bool fua) {
  return Change(
      IoKind::kWriteZeroes, offset, length, fua,
      [&] { return disk_->Zero(ByteRange::OfLength(offset, length), space); },
      [&](uint64_t* ticket) {
        return forwarder_->WriteZeroes(options_.index, offset, length, ticket);
      });
}

absl::Status Volume::Discard(uint64_t offset, uint64_t length, bool fua) {
  return Change(
      IoKind::kDiscard, offset, length, fua,
      [&] { return disk_->Zero(ByteRange::OfLength(offset, length), ZeroedSpace::kGivenBack); },
      [&](uint64_t* ticket) {
        return forwarder_->Discard(options_.index, offset, length, ticket);
      });
}

absl::Status Volume::Flush() {
  const base::IoGate::Pass pass(*gate_);
  RETURN_IF_ERROR(CheckRequest(pass, 0, 0));
  Count(IoKind::kFlush, 1, 0);
  if (tee()) RETURN_IF_ERROR(LocalResult(IoKind::kFlush, {}, disk_->Sync()));
  const base::WindowTime::Scope in_window;
  return AfterForward(IoKind::kFlush, forwarder_->Flush(options_.index));
}

absl::StatusOr<std::vector<BlockRun>> Volume::Map(ByteRange range, size_t runs_max) {
  const base::IoGate::Pass pass(*gate_);
  RETURN_IF_ERROR(CheckRequest(pass, range.start, range.size()));
  if (!tee()) return absl::UnimplementedError("forward mode has no map");
  return disk_->Map(range, runs_max);
}

absl::Status Volume::ReadDisk(uint64_t offset, std::span<char> out) const {
  return Annotate(disk_->Read(offset, out), absl::StrCat("volume ", options_.name));
}

absl::Status Volume::Resend(ByteRange range, Differences& differences) {
  // What is in the window and in no file is known from the write-intent log alone, which counts after an unclean end only.
  if (before_change_.store) RETURN_IF_ERROR(before_change_.store());
  Intents intents(intents_, options_.index);
  absl::Status begun;
  intents.Begin({&range, 1}, {&begun, 1});
  RETURN_IF_ERROR(begun);
  std::vector<char> data(range.size());
  const base::RangeLock::Hold hold(ranges_, range);
  RETURN_IF_ERROR(LocalResult(IoKind::kRead, range, ReadDisk(range.start, data)));
  differences.RemoveMissing(options_.index, range);
  const absl::Status sent = forwarder_->Resend(options_.index, range.start, data, &intents.ticket);
  if (!sent.ok()) differences.AddMissing(options_.index, range);
  return sent;
}

absl::Status Volume::WhileHeld(ByteRange range, absl::FunctionRef<absl::Status()> run) {
  const base::RangeLock::Hold hold(ranges_, range);
  return run();
}

}  // namespace understudy::client
