// The hand-over half of client/primary.h. The order is the point: refused lastingly, then nothing under way, then HANDOVER in the stream.
// So a standby that has it can take over at any time, whatever becomes of this process.
#include "client/differences.h"
#include "client/intent_log.h"
#include "client/primary.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::client {

void Primary::SetHandedOver(bool handed_over) {
  handed_over_.store(handed_over, std::memory_order_release);
  for (const auto& volume : volumes_) volume->SetHandedOver(handed_over);
}

void Primary::OnHandoverWanted() {
  handover_pool_.Submit([this] { HandOver(); });
}

void Primary::HandOver() {
  if (!BeginHandover()) return;
  for (const auto& volume : volumes_) volume->AwaitChanges();
  EndHandover(forwarder_->HandOver());
}

bool Primary::BeginHandover() {
  const auto pass = control_.Enter(base::Deadline::Never());
  if (stage() != Stage::kRunning || fenced() || !forwarder_->state().running) return false;
  const absl::Status stored =
      state_->Update([](AgentRecord& record) { record.handed_over = true; });
  if (!stored.ok()) {
    forwarder_->errors().Latch("", "handover", stored);
    forwarder_->RefuseHandover();
    return false;
  }
  SetHandedOver(true);
  base::LogInfo("handover_begun").With("group", group());
  return true;
}

void Primary::EndHandover(const absl::StatusOr<ResumePoint>& outcome) {
  if (outcome.ok()) {
    base::LogWarning("handed_over")
        .With("group", group())
        .With("consequence", "the VM's writes are refused until the standby gives it back");
    // Nothing can be written now, so the stream can go on from here even after a kill -9.
    const auto pass = control_.Enter(base::Deadline::Never());
    if (!handed_over() || stage() != Stage::kRunning) return;
    const absl::Status stored = StoreCleanEnd(*outcome, /*handed_over=*/true);
    if (!stored.ok()) base::LogError("resume_point_lost").With("error", stored);
    return;
  }
  base::LogWarning("handover_failed").With("group", group()).With("status", outcome.status());
  const bool none =
      absl::IsCancelled(outcome.status()) || HasReason(outcome.status(), kReasonIncomplete);
  // Else it may have come, and only an accepted handshake says that it has not.
  if (!none) return;
  if (const absl::Status stored = OnHandoverTakenBack(); !stored.ok()) {
    forwarder_->errors().Latch("", "handover", stored);
  }
}

absl::Status Primary::OnHandoverTakenBack() {
  const absl::Status stored = state_->Update([](AgentRecord& record) {
    record.handed_over = false;
    record.resume = {};
  });
  if (!stored.ok()) {
    // What the file goes on saying refuses the writes after a restart, until the standby lets us in: no reason to refuse them now. But
    // the stream does not go on where it says.
    RETURN_IF_ERROR(BeforeWrite());
    forwarder_->errors().Latch("", "state", stored);
  }
  SetHandedOver(false);
  base::LogInfo("handover_taken_back").With("group", group());
  return absl::OkStatus();
}

}  // namespace understudy::client
