#include "client/intent_cleaner.h"

#include <algorithm>
#include <utility>

#include "client/differences.h"
#include "client/forwarder.h"
#include "client/intent_log.h"
#include "client/volume.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace understudy::client {

IntentCleaner::IntentCleaner(IntentLog* intents, Forwarder* forwarder,
                             const Differences* differences, std::vector<Volume*> volumes,
                             std::function<absl::Status()> make)
    : intents_(intents),
      forwarder_(forwarder),
      differences_(differences),
      volumes_(std::move(volumes)),
      make_(std::move(make)),
      thread_([this] { Run(); }) {}

IntentCleaner::~IntentCleaner() {
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  thread_.join();
}

absl::Status IntentCleaner::Clean(Round round) {
  if (!intents_->kept()) make_().IgnoreError();  // it tells by itself
  if (round == Round::kExcess && !intents_->over_limit()) return absl::OkStatus();
  const auto keep = [this](uint32_t volume, ByteRange region) {
    return differences_->Holds(volume, region);
  };
  const uint64_t durable = forwarder_->durable_ticket();
  const std::vector<IntentLog::Region> regions =
      round == Round::kQuiet ? intents_->Cleanable(durable, keep) : intents_->Excess(durable, keep);
  for (Volume* const volume : volumes_) {
    const bool touched = std::any_of(regions.begin(), regions.end(), [&](const auto& region) {
      return region.volume == volume->options().index;
    });
    if (touched) RETURN_IF_ERROR(volume->SyncDisk());
  }
  return intents_->Clear(regions);
}

void IntentCleaner::Run() {
  const int64_t rounds_until_quiet = kQuietInterval / kInterval;
  bool failing = false;
  for (int64_t round = 1;; ++round) {
    {
      base::MutexLock lock(mutex_);
      if (!stopping_) wake_.WaitFor(mutex_, kInterval);
      if (stopping_) return;
    }
    const absl::Status status =
        Clean(round % rounds_until_quiet == 0 ? Round::kQuiet : Round::kExcess);
    if (!status.ok() && !failing) {
      base::LogError("intent_log_not_cleaned")
          .With("status", status)
          .With("consequence", "after a crash more is compared than necessary");
    }
    failing = !status.ok();
  }
}

}  // namespace understudy::client
