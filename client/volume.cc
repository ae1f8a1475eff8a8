#include "client/volume.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "client/differences.h"
#include "client/forwarder.h"
#include "client/intent_log.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {
void Add(std::atomic<uint64_t>& counter, uint64_t amount) {
  counter.fetch_add(amount, std::memory_order_relaxed);
}

// From before a local write until the write has its place in the stream.
class Intent {
 public:
  Intent(IntentLog* log, uint32_t volume, ByteRange range)
      : log_(log), volume_(volume), range_(range) {
    if (log_ != nullptr) status_ = log_->Begin(volume_, range_);
  }
  ~Intent() {
    if (log_ != nullptr && status_.ok()) log_->End(volume_, range_, ticket);
  }
  Intent(const Intent&) = delete;
  Intent& operator=(const Intent&) = delete;

  const absl::Status& status() const { return status_; }
  uint64_t ticket = 0;

 private:
  IntentLog* const log_;
  const uint32_t volume_;
  const ByteRange range_;
  absl::Status status_;
};
}  // namespace

Volume::Volume(VolumeOptions options, Forwarder* forwarder, base::IoGate* gate,
               std::unique_ptr<PrimaryDisk> disk, std::function<absl::Status()> before_write,
               IntentLog* intents)
    : options_(std::move(options)),
      forwarder_(forwarder),
      gate_(gate),
      disk_(std::move(disk)),
      before_write_(std::move(before_write)),
      intents_(intents) {}

void Volume::Count(IoKind kind, uint64_t length) {
  Add(figures_.requests[static_cast<size_t>(kind)], 1);
  Add(figures_.bytes[static_cast<size_t>(kind)], length);
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
  Count(IoKind::kRead, out.size());
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

absl::Status Volume::Change(IoKind kind, uint64_t offset, uint64_t length, bool fua,
                            absl::FunctionRef<absl::Status()> locally,
                            absl::FunctionRef<absl::Status(uint64_t* ticket)> forward) {
  const base::IoGate::Pass pass(*gate_);
  RETURN_IF_ERROR(CheckRequest(pass, offset, length));
  RETURN_IF_ERROR(CheckSectors(offset, length));
  RETURN_IF_ERROR(CheckMayChange());
  if (before_write_) RETURN_IF_ERROR(before_write_());
  Count(kind, length);
  const ByteRange range = ByteRange::OfLength(offset, length);
  absl::Status forwarded;
  {
    Intent intent(intents_, options_.index, range);
    if (!intent.status().ok()) return LocalResult(kind, range, intent.status());
    const base::RangeLock::Hold hold(ranges_, range);
    RETURN_IF_ERROR(
        CheckMayChange());  // again: whoever waits for those that hold a range relies on it
    if (tee()) {
      if (const absl::Status status = LocalResult(kind, range, locally()); !status.ok()) {
        // Any part of it may be on the local disk.
        forwarder_->NoteMissed(options_.index, range, Annotate(status, "a local write failed"));
        return status;
      }
    }
    forwarded = forward(&intent.ticket);
  }
  RETURN_IF_ERROR(AfterForward(kind, forwarded));
  if (fua && tee()) return LocalResult(IoKind::kFlush, range, disk_->Sync());
  return absl::OkStatus();
}

absl::Status Volume::Write(uint64_t offset, std::span<const char> data, bool fua) {
  return Change(
      IoKind::kWrite, offset, data.size(), fua, [&] { return disk_->Write(offset, data); },
      [&](uint64_t* ticket) { return forwarder_->Write(options_.index, offset, data, ticket); });
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
  Count(IoKind::kFlush, 0);
  if (tee()) RETURN_IF_ERROR(LocalResult(IoKind::kFlush, {}, disk_->Sync()));
  return AfterForward(IoKind::kFlush, forwarder_->Flush(options_.index));
}

absl::StatusOr<std::vector<DiskRun>> Volume::Map(ByteRange range) {
  const base::IoGate::Pass pass(*gate_);
  RETURN_IF_ERROR(CheckRequest(pass, range.start, range.size()));
  if (!tee()) return absl::UnimplementedError("forward mode has no map");
  return disk_->Map(range);
}

absl::Status Volume::ReadDisk(uint64_t offset, std::span<char> out) const {
  return Annotate(disk_->Read(offset, out), absl::StrCat("volume ", options_.name));
}

absl::Status Volume::Resend(ByteRange range, Differences& differences) {
  // What is in the window and in no file is known from the write-intent log alone, which counts after an unclean end only.
  if (before_write_) RETURN_IF_ERROR(before_write_());
  Intent intent(intents_, options_.index, range);
  RETURN_IF_ERROR(intent.status());
  std::vector<char> data(range.size());
  const base::RangeLock::Hold hold(ranges_, range);
  RETURN_IF_ERROR(LocalResult(IoKind::kRead, range, ReadDisk(range.start, data)));
  differences.RemoveMissing(options_.index, range);
  const absl::Status sent = forwarder_->Resend(options_.index, range.start, data, &intent.ticket);
  if (!sent.ok()) differences.AddMissing(options_.index, range);
  return sent;
}

absl::Status Volume::WhileHeld(ByteRange range, absl::FunctionRef<absl::Status()> run) {
  const base::RangeLock::Hold hold(ranges_, range);
  return run();
}

}  // namespace understudy::client
