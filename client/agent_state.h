// client/agent_state.h
//
// What an agent must remember over its own restart, in one small file of key=value lines, `STATE-DIR/agent`, replaced
// atomically:
//
//     version=2            of this layout; a newer one is refused
//     lines=               as far as intent=: a file that was cut short before is found out
//     agent_id=...         made at first use; the secondary binds the primaryship to it
//     stage=RUNNING        NONE, RUNNING or DONE
//     incarnation=, term=  the grant; stored before it is used
//     fenced=1             refused for good, until the next Start
//     handed_over=1        the VM's writes are refused, in every stage, until the secondary lets us in again
//     pair=, pair_agent=   the incarnation of the newest grant and whom it was given to, over stages
//     failback_of=         the pair whose failback maps are where `differences` began
//     failback_new=1       no grant since: whoever lets us in first is the other end of that pair
//     proof=PROVED         or REFUTED, of the pair with this grant: see Proof; none: the disks were declared equal
//     forward=A,B          the volumes that had no local disk: nobody followed it
//     disks=A:IDENTITY:MODIFIED,B:...   the local disks, as they were when the run began, or with clean=1 ended
//     differences=         the CRC32C of that file; while it is replaced, also of the one before it
//     intent=              the id of that file
//     stored=              when this file was written, in unix microseconds
//     boot_id=, since_boot=   the same by the host's clock since its boot, in microseconds: measures
//                          an absence. An older file has neither: it is not known then
//     clean=1              ended in order: `differences` says all that may differ at the secondary
//     next_sequence=, stream_id=   only after a clean shutdown: the stream goes on here
//
// clean, stream_id and next_sequence are gone from the file before the first write after a start is queued; so after a crash they are missing, a new stream
// begins, and the secondary knows that operations may be missing. They come last, with the time, so that they can be cut off where a
// full file system has no room for a new file. In a file of an older release, which has them
// elsewhere, they are written over with zeroes.
//
// Tee mode keeps two files more. `STATE-DIR/differences` (client/differences.h) never says less
// than what differs but for what was written since, and `STATE-DIR/intent` (client/intent_log.h)
// says where that was. One that is not the one this file names is as good as none. Where there is
// no `intent`, neither `differences` nor what comes last in `agent` counts: everything may differ.
// So whoever cannot store what the next start must know removes it. `agent` itself is not made anew
// beside any of the others: it was lost.
//
// Beside it lie `STATE-DIR/errors`, what is latched (storage/base/error_file.h), and `STATE-DIR/requests`, the answers to request ids
// (storage/base/request_log.h).
//
// Durability   every method that changes something returns when the file is durable; on error memory is unchanged too.
// Threads      all methods from any thread; one at a time does I/O.
#ifndef UNDERSTUDY_CLIENT_AGENT_STATE_H_
#define UNDERSTUDY_CLIENT_AGENT_STATE_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "client/client_types.h"
#include "storage/base/clock.h"
#include "storage/base/file_system.h"
#include "storage/base/mutex.h"

namespace understudy::client {

class Differences;

// In the state directory, beside `agent`.
inline constexpr char kDifferencesFile[] = "differences";
inline constexpr char kIntentFile[] = "intent";

struct AgentRecord {
  std::string agent_id;
  Stage stage = Stage::kNone;
  Grant grant;
  bool fenced = false;
  bool handed_over = false;
  bool clean = false;
  Proof proof = Proof::kNone;
  std::string forward;
  std::string disks;
  ResumePoint resume;
  Incarnation pair;
  std::string pair_agent;
  Incarnation failback_of;
  bool failback_new = false;
  int64_t stored_micros = 0;
  base::BootTime stored_at;
  std::string differences;
  uint64_t intent = 0;
  friend bool operator==(const AgentRecord& a, const AgentRecord& b) = default;
};

std::string NewAgentId();

std::string EncodeAgentRecord(const AgentRecord& record);
// kDataLoss naming the line that is wrong; kFailedPrecondition for a newer version.
absl::StatusOr<AgentRecord> DecodeAgentRecord(absl::string_view text);

class AgentState {
 public:
  // Reads or makes `directory`. Empty: nothing is kept, the agent id is new at every start.
  // kFailedPrecondition when another agent uses the directory; kDataLoss, naming the file and the
  // remedy, when it is damaged or lost. `file_system` and `clock` outlive this.
  static absl::StatusOr<std::unique_ptr<AgentState>> Open(
      base::FileSystem& file_system, const std::string& directory,
      const base::Clock& clock = base::Clock::Real());

  AgentRecord record() const;
  absl::Status Update(const std::function<void(AgentRecord&)>& change);
  // Forgets the resume point and that all is clean; costs nothing after the first time. Works on a full file system.
  absl::Status MarkUnclean();
  bool unclean() const { return unclean_.load(std::memory_order_acquire); }  // it costs nothing
  // How long ago `record` was stored; InfiniteDuration() when nobody knows.
  absl::Duration SinceStored(const AgentRecord& record) const {
    return base::BootTime::Between(record.stored_at, clock_.SinceBoot());
  }
  bool kept() const { return !path_.empty(); }
  // A file of this name in the directory. REQUIRES: kept().
  std::string PathOf(const std::string& name) const {
    return path_.substr(0, path_.rfind('/') + 1) + name;
  }

 private:
  AgentState(base::FileSystem& file_system, std::string path, const base::Clock& clock)
      : file_system_(file_system), path_(std::move(path)), clock_(clock) {}
  void Take(AgentRecord record);
  absl::Status CutOffEnd();

  base::FileSystem& file_system_;
  const std::string path_;
  const base::Clock& clock_;
  std::unique_ptr<base::File> lock_file_;
  base::Mutex
      io_mutex_;  // orders the writers of the file; held across I/O on purpose, taken before mutex_
  mutable base::Mutex mutex_;
  AgentRecord record_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> unclean_{false};  // neither is stored
};

// What could not be stored in a directory that has nothing yet, with the remedy.
absl::Status NewDirectory(absl::string_view directory, const absl::Status& status);

// Adds what `STATE-DIR/differences` says. False, and logged: it or the other file, which
// `has_intents` tells of, is lost, damaged, or of another copy of the directory, so nothing is
// known. kFailedPrecondition, naming file and remedy, when it is of other volumes or of a newer
// release.
absl::StatusOr<bool> LoadDifferences(base::FileSystem& file_system, const AgentState& state,
                                     bool has_intents, Differences* differences);
// Replaces it, durably. On error it is as it was, or replaced, and the record names it. One at a
// time. REQUIRES: state.kept().
absl::Status StoreDifferences(base::FileSystem& file_system, AgentState& state,
                              const Differences& differences);

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_AGENT_STATE_H_
