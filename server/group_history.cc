// The point-in-time half of server/group.h: history, clones, and who may not see a disk go back.
#include <algorithm>

#include "absl/strings/str_cat.h"

#include "server/group.h"
#include "storage/base/file_limit.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::server {
namespace {

// The newest checkpoint may be superseded between the question and the call.
constexpr int kNewestTries = 5;

}  // namespace

HistoryReport Group::History() const {
  return {.stage = replica_->state().stage, .epochs = replica_->History()};
}

absl::StatusOr<storage::CloneInfo> Group::CreateClone(storage::CloneSpec spec,
                                                      const Expected& expected) {
  RETURN_IF_ERROR(CheckName("clone", spec.name));
  RETURN_IF_ERROR(CheckExpected(expected));
  const bool newest = spec.epoch == Epoch();
  absl::Status created;
  for (int i = 0; i < (newest ? kNewestTries : 1); ++i) {
    if (newest) {
      const std::vector<storage::EpochInfo> history = replica_->History();
      // Without one the replica says why: not running, or no checkpoint yet.
      spec.epoch = history.empty() ? Epoch() : history.front().epoch;
    }
    created = replica_->CreateClone(spec);
    if (!absl::IsNotFound(created)) break;
  }
  if (absl::IsNotFound(created) && newest) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat("group ", name(),
                                                   ": there is no checkpoint to clone yet: take "
                                                   "one with understudyctl checkpoint ",
                                                   name())),
        kReasonNoCheckpoint);
  }
  RETURN_IF_ERROR(created);
  for (storage::CloneInfo& info : replica_->clones()) {
    if (info.spec.name == spec.name) return std::move(info);
  }
  return absl::AbortedError(absl::StrCat("group ", name(), ": clone ", spec.name,
                                         " has ended already: was there a failover?"));
}

absl::Status Group::RemoveClone(const std::string& clone, const Expected& expected) {
  RETURN_IF_ERROR(CheckExpected(expected));
  return replica_->RemoveClone(clone);
}

// ---- connections -----------------------------------------------------------------------------------------------------------

void Group::OnConnect() {
  base::MutexLock lock(mutex_);
  while (going_back_ > 0) may_connect_.Wait(mutex_);
  ++connections_;
}

void Group::OnDisconnect() {
  base::MutexLock lock(mutex_);
  --connections_;
}

uint64_t Group::ConnectionFiles() const {
  base::MutexLock lock(mutex_);
  return std::min<uint64_t>(connections_, volumes().size()) * base::kFilesOfConnection +
         (session_ != nullptr ? 1 : 0);
}

storage::FailoverOptions Group::BeginFailover(const StopCommand& command) {
  storage::FailoverOptions options{.received = command.received,
                                   .epoch = command.epoch,
                                   .after_handover = command.after_handover};
  if (!options.epoch) return options;
  base::MutexLock lock(mutex_);
  options.in_use = connections_ > 0 && !command.force;
  ++going_back_;
  return options;
}

void Group::EndFailover(const storage::FailoverOptions& options) {
  if (!options.epoch) return;
  base::MutexLock lock(mutex_);
  --going_back_;
  may_connect_.NotifyAll();
}

}  // namespace understudy::server
