// What the replica tells server/group.h, as events for those who watch.
#include <utility>

#include "server/group.h"

namespace understudy::server {

void Group::OnStage(Stage stage, Term term) {
  {
    base::MutexLock lock(mutex_);
    last_fenced_.clear();
  }
  journal_.Append({.kind = base::EventKind::kStage, .group = name(), .stage = stage, .term = term});
}

void Group::OnCommitted(const storage::CheckpointResult& result) {
  {
    base::MutexLock lock(mutex_);
    if (result.epoch > last_checkpoint_.epoch) last_checkpoint_ = result;
    committed_at_ = clock_.Monotonic();
  }
  journal_.Append({.kind = base::EventKind::kCheckpoint,
                   .group = name(),
                   .epoch = result.epoch,
                   .bytes = result.bytes,
                   .duration = result.duration});
}

void Group::OnIncomplete(bool incomplete) {
  if (incomplete) FailHandoverWaiters(IncompleteError());
  const auto kind = incomplete ? base::EventKind::kIncomplete : base::EventKind::kComplete;
  journal_.Append({.kind = kind, .group = name()});
}

void Group::OnHandover(bool handed_over) {
  const auto kind =
      handed_over ? base::EventKind::kHandedOver : base::EventKind::kHandoverTakenBack;
  journal_.Append({.kind = kind, .group = name()});
}

void Group::OnJob(absl::string_view kind, const std::optional<absl::Status>& ended) {
  base::Event event{.kind = ended ? base::EventKind::kJobEnded : base::EventKind::kJobBegun,
                    .group = name()};
  event.job = std::string(kind);
  if (ended) event.detail = std::string(ended->message());
  journal_.Append(std::move(event));
}

void Group::NoteFenced(const absl::Status& status) {
  base::MutexLock lock(mutex_);
  std::string text(status.message());
  if (text == last_fenced_) return;
  last_fenced_ = text;
  journal_.Append({.kind = base::EventKind::kFenced, .group = name(), .detail = std::move(text)});
}

}  // namespace understudy::server
