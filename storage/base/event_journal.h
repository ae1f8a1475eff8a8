// storage/base/event_journal.h
//
// EventJournal is what has happened to the groups of one daemon since it began, in order and numbered, for those who watch it: a
// ring in memory that every watcher reads at its own pace.
//
//     change --Append()--> [ 41 42 43 44 ] <--Read(41)-- watcher          one that is slower than the ring finds a gap
//
// Token    (run, number). A run is one life of a daemon; the number is that of the last event its owner was told, so a reader who
//          comes back with it gets exactly what it has missed, or is told that there is a gap.
// Bound    `bytes_max` of events, strings included; the oldest give way, and who has not read them finds the gap.
// Order    numbers follow the order of the Append() calls: call it under the lock or turn that orders the changes themselves.
// Threads  all methods from any thread. Append() never blocks; the listener is called without a lock, and must not block.
#ifndef UNDERSTUDY_STORAGE_BASE_EVENT_JOURNAL_H_
#define UNDERSTUDY_STORAGE_BASE_EVENT_JOURNAL_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "storage/base/clock.h"
#include "storage/base/error_log.h"
#include "storage/base/ids.h"
#include "storage/base/mutex.h"

namespace understudy::base {

enum class EventKind : uint8_t {
  kOpened,
  kRemoved,
  kStage,              // entered `stage`
  kCheckpoint,         // `epoch` was committed
  kConnected,          // a write stream attached
  kDisconnected,       // and is gone; `detail` says why
  kIncomplete,         // operations are missing: no checkpoint can commit
  kComplete,           // none are missing any more
  kFenced,             // somebody was refused for good
  kError,              // `error` was latched, the first of its kind
  kJobBegun,           // `job`
  kJobEnded,           // `job`; `detail` is empty when it did what it was to do
  kHandedOver,         // the primary has given up writing, with the newest checkpoint
  kHandoverTakenBack,  // and may write again
};

// Fields that a kind does not name are empty.
struct Event {
  EventKind kind = EventKind::kOpened;
  std::string group;
  uint64_t number = 0;  // set by the journal, from 1
  absl::Time time;      // likewise
  Stage stage = Stage::kNone;
  Term term;
  Epoch epoch;
  uint64_t bytes = 0;       // of volume ranges that the epoch changed
  absl::Duration duration;  // from the marker's arrival to the commit
  LatchedError error;
  std::string job;  // apply, commit, scrub
  std::string detail;
};

class EventListener {
 public:
  virtual ~EventListener() = default;
  // There is something to read.
  virtual void OnEvent() = 0;
};

class EventJournal {
 public:
  struct Position {
    uint64_t run = 0;
    uint64_t number = 0;  // everything up to it has been told
    friend bool operator==(const Position&, const Position&) = default;
  };
  struct Reading {
    bool gap = false;            // events after the position are lost, or it is none of this run
    std::optional<Event> event;  // the next one; none: there is none yet
    Position position;           // after it; behind other groups' events that were passed over
  };

  static constexpr size_t kBytesMax = 8 << 20;

  // `run` is another one in every life of the daemon; `clock` outlives this.
  EventJournal(uint64_t run, const Clock& clock, size_t bytes_max = kBytesMax)
      : run_(run), clock_(clock), bytes_max_(bytes_max) {}
  static uint64_t NewRun();

  void Append(Event event);
  // The first event after `position` that concerns `group` (empty: any).
  Reading Read(const Position& position, const std::string& group) const;
  // After the newest event: for who begins now.
  Position End() const;

  // At most one; nullptr takes it away and returns only when no call into the old one is under way.
  void SetListener(EventListener* listener);

 private:
  const uint64_t run_;
  const Clock& clock_;
  const size_t bytes_max_;

  mutable Mutex mutex_;
  CondVar listener_idle_;
  std::deque<Event> events_ ABSL_GUARDED_BY(mutex_);  // numbers without holes
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t newest_ ABSL_GUARDED_BY(mutex_) = 0;
  EventListener* listener_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int listener_calls_ ABSL_GUARDED_BY(mutex_) = 0;
};

// 16 bytes for clients to bring back; kInvalidArgument for any other length.
std::string EncodePosition(const EventJournal::Position& position);
absl::StatusOr<EventJournal::Position> DecodePosition(absl::string_view bytes);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_EVENT_JOURNAL_H_
