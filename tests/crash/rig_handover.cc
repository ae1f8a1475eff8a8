// The hand-over: the stream's last operation.
#include "storage/base/status_macros.h"
#include "tests/crash/rig.h"

namespace understudy::crash {

absl::Status Rig::HandOver() {
  model_.sent.push_back({.operation = {.kind = OperationKind::kHandover}, .data = nullptr});
  RETURN_IF_ERROR(Send());
  return SettleIfRepeatable();
}

absl::Status Rig::AwaitHandover(size_t index, uint64_t sent, const AskCheckpoint& ask) {
  model_.BeginHandover(sent);
  RETURN_IF_ERROR(AwaitCheckpoint(index, /*durable=*/true, ask));
  model_.AnswerHandover();
  return absl::OkStatus();
}

absl::Status Rig::TakeBackHandover() {
  model_.BeginTakingBack();
  RETURN_IF_ERROR(replica_->TakeBackHandover());
  model_.AnswerTakingBack();
  return SettleIfRepeatable();
}

}  // namespace understudy::crash
