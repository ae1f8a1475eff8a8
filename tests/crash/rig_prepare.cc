// Lock-step checkpoints: what is prepared, and what becomes of it.
#include "storage/base/status_macros.h"
#include "tests/crash/rig.h"

namespace understudy::crash {

absl::Status Rig::Prepare() {
  model_.sent.push_back({.operation = {.kind = OperationKind::kPrepare}, .data = nullptr});
  RETURN_IF_ERROR(Send());
  return SettleIfRepeatable();
}

absl::Status Rig::AwaitPrepare(Epoch epoch, uint64_t sent, const AskCheckpoint& ask) {
  model_.BeginPrepare(epoch, sent);
  const auto result = Await(ask);
  RETURN_IF_ERROR(result.status());
  model_.AnswerPrepare(result->epoch);
  return absl::OkStatus();
}

absl::Status Rig::CommitPrepared() {
  const Epoch epoch = replica_->state().prepared_epoch;
  if (epoch == Epoch()) return absl::OkStatus();
  const size_t index = model_.BeginCheckpoint(epoch, model_.PreparedAfter(epoch));
  RETURN_IF_ERROR(replica_->CommitPrepared(epoch).status());
  model_.AnswerCheckpoint(index, /*is_durable=*/true);
  return SettleIfRepeatable();
}

absl::Status Rig::AbandonPrepared() {
  model_.GiveUpPrepared();
  return replica_->AbandonPrepared().status();
}

}  // namespace understudy::crash
