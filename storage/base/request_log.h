// storage/base/request_log.h
//
// RequestLog makes control calls safe to repeat. A call that carries a request id enters it before it does anything: the first one
// runs, others of the same id join it, and later ones get its answer.
//
//     Enter() -> a turn     run the call, then Leave() with what came of it
//             -> no turn    the answer was delivered already, or will be: Waiter
//
// Answers  only successes are remembered, the newest kRequestsMax for kKeptFor. An error forgets the id. When it may have had an
//          effect after all (a deadline that passed, a daemon that ended in between), the next call of that id is told so, and
//          what was noted before the first run, to find out.
// File     a journal, so that a restart forgets nothing: a line for each run that begins and for each that ends, text with C escapes
//          and a CRC32C. Written before the call goes on but synced behind it: kill -9 loses nothing, a power cut at most
//          what came within the last second. What is damaged, or cannot be written, is as if it had not been remembered.
// Threads  all methods from any thread; Enter() and Leave() write to the file. A Waiter is called without a lock held.
#ifndef UNDERSTUDY_STORAGE_BASE_REQUEST_LOG_H_
#define UNDERSTUDY_STORAGE_BASE_REQUEST_LOG_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "storage/base/clock.h"
#include "storage/base/file_system.h"
#include "storage/base/mutex.h"
#include "storage/base/turn.h"
#include "storage/base/worker_pool.h"

namespace understudy::base {

class RequestLog {
 public:
  static constexpr size_t kRequestsMax = 1024;
  static constexpr absl::Duration kKeptFor = absl::Hours(1);
  static constexpr size_t kCallBytesMax = 64 << 10;

  // A call's turn to run.
  struct Permit {
    bool repeated = false;  // an earlier run may have had an effect
    std::string before;     // what the first run noted
  };
  // A call that waits for another one. One of the two, once.
  class Waiter {
   public:
    virtual ~Waiter() = default;
    virtual void OnAnswer(const std::string& answer) = 0;
    virtual void OnPermit(const Permit& permit) = 0;
  };
  struct Request {
    std::string id;
    std::string call;     // the method and its arguments
    std::string before;   // to be noted if this is the first run
    bool durable = true;  // false: means nothing to another process
  };

  // `path` empty: memory only. `file_system`, `clock` and `pool` outlive the log.
  RequestLog(FileSystem& file_system, const std::string& path, const Clock& clock,
             WorkerPool& pool);
  ~RequestLog();

  // kInvalidArgument for a malformed id, one that names another call, or a call over kCallBytesMax. No permit: `waiter` has been or will be called.
  absl::StatusOr<std::optional<Permit>> Enter(const Request& request,
                                              const std::shared_ptr<Waiter>& waiter);
  // The run of this id has ended: `answer` counts when `status` is OK. Any other status hands over to who waits first.
  void Leave(const std::string& id, const absl::Status& status, const std::string& answer);
  // `waiter` waits no more: true, and it will not be called. False: it has been, or is being.
  bool GiveUp(const std::string& id, const Waiter* waiter);

 private:
  enum class State { kRunning, kAnswered, kOpen };  // kOpen: an earlier run ended without an answer
  struct Entry {
    State state = State::kRunning;
    std::string call;
    std::string before;
    std::string answer;
    bool durable = true;
    absl::Time changed;
    absl::Duration changed_steady;  // the same, as Clock::Monotonic()
    std::deque<std::shared_ptr<Waiter>> waiters;
  };

  void Load();
  bool Replay(absl::string_view line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetChanged(Entry& entry, absl::Time at) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EvictLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string LinesLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Append(const std::string& line);
  absl::Status TryAppend(const std::string& line);
  absl::Status Rewrite();
  void SyncLater();

  FileSystem& file_system_;
  const std::string path_;
  const Clock& clock_;
  WorkerPool& pool_;

  mutable Mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);

  struct Journal;  // the file, with a life of its own: a sync may come late
  const std::shared_ptr<Journal> journal_;
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_REQUEST_LOG_H_
