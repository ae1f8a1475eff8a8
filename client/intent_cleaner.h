// client/intent_cleaner.h
//
// IntentCleaner takes regions out of the write-intent log when they are the same on both sides for sure: everything written there
// is durable at the standby, the local disk has been synced since, and nobody has touched them meanwhile.
//
// Pace     every kInterval what exceeds the log's limit, least recently touched first; every kQuietInterval what was not touched since
//          the time before. A region that is cleaned costs its next write a sync, one that is not costs a crash 4 MiB of
//          comparing: so up to the limit, which bounds that, regions stay for minutes (docs/performance.md#write-intent-log).
// Lost     a write-intent log that had to be removed, or cannot even be, is made anew, once `make`
//          can: tried every kInterval.
// Cost     an fdatasync of the local disks every kInterval at most, and none while there is nothing to clean.
// Threads  one of its own.
#ifndef UNDERSTUDY_CLIENT_INTENT_CLEANER_H_
#define UNDERSTUDY_CLIENT_INTENT_CLEANER_H_

#include <functional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

#include "storage/base/mutex.h"

namespace understudy::client {

class Differences;
class Forwarder;
class IntentLog;
class Volume;

class IntentCleaner {
 public:
  static constexpr absl::Duration kInterval = absl::Seconds(2);
  static constexpr absl::Duration kQuietInterval = absl::Minutes(5);

  // All of them outlive this.
  IntentCleaner(IntentLog* intents, Forwarder* forwarder, const Differences* differences,
                std::vector<Volume*> volumes, std::function<absl::Status()> make);
  ~IntentCleaner();

 private:
  enum class Round { kExcess, kQuiet };

  absl::Status Clean(Round round);
  void Run();

  IntentLog* const intents_;
  Forwarder* const forwarder_;
  const Differences* const differences_;
  const std::vector<Volume*> volumes_;
  const std::function<absl::Status()> make_;
  base::Mutex mutex_;
  base::CondVar wake_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_INTENT_CLEANER_H_
