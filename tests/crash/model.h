// tests/crash/model.h
//
// Model is the oracle of a crash test: what a group may look like after whatever ends its process. It knows what was asked for
// and what was answered; only what was asked for and not answered may be either way.
//
//     answered   the call returned OK: survives a kill -9, and the store itself must show it
//     durable    promised to survive a power cut as well
//
// A view (what the secondary VM sees) is a checkpoint of all volumes plus the VM's writes since. Checkpoints are a list; what is
// found must be one of those at or after the newest promised one, the same for every volume. A failover to an older one makes
// that one the newest, without what the VM has written.
#ifndef UNDERSTUDY_TESTS_CRASH_MODEL_H_
#define UNDERSTUDY_TESTS_CRASH_MODEL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/replica.h"

namespace understudy::crash {

// A verdict: the store has not kept its word.
inline absl::Status Wrong(const std::string& what) { return absl::InternalError(what); }

using Images = std::vector<std::string>;  // by volume

enum class Ending { kStillRunning, kClosed, kKill, kPowerCut };

// What a model holds is shared with its copies, of which each run makes one.
template <typename T>
using Shared = std::shared_ptr<const T>;
template <typename T>
Shared<T> Share(T value) {
  return std::make_shared<const T>(std::move(value));
}

struct PrimaryOperation {
  Operation operation;
  Shared<std::string> data;  // kData only
};

struct VmWrite {
  uint32_t volume = 0;
  uint64_t offset = 0;
  Shared<std::string> data;
  bool answered = false;
  bool durable = false;
};

struct ModelCheckpoint {
  Epoch epoch;
  uint64_t sent = 0;    // operations of the primary that it covers
  Shared<Images> view;  // as the checkpoint made it
  std::vector<VmWrite> writes;
  bool gone_back_to = false;  // by a failover
};

class Model {
 public:
  explicit Model(Images initial);

  // ---- what the primary has sent -------------------------------------------------------------------------------------------
  std::vector<PrimaryOperation> sent;
  uint64_t received = 0;               // operations answered
  uint64_t durable = 0;                // operations reported durable
  std::map<uint64_t, uint64_t> bases;  // stream id -> operations sent before its first
  std::set<uint64_t> streams = {0};    // that may be the attached one
  Images PrimaryAfter(uint64_t operations) const;

  // ---- checkpoints, the oldest that may still be found first --------------------------------------------------------------
  // Returns its index; the one that was begun before, when the same one is begun again.
  size_t BeginCheckpoint(Epoch epoch, uint64_t operations);
  void AnswerCheckpoint(size_t index, bool is_durable);
  // A failover to an older checkpoint. REQUIRES: HasEpoch().
  size_t BeginGoingBack(Epoch epoch);
  // An answered PREPARE is durable, and stays the one that can be committed until something is asked for that ends it.
  void BeginPrepare(Epoch epoch, uint64_t operations);
  void AnswerPrepare(Epoch epoch);
  void GiveUpPrepared() { prepared_ = Epoch(); }
  uint64_t PreparedAfter(Epoch epoch) const { return prepares_.at(epoch); }  // operations
  const ModelCheckpoint& checkpoint(size_t index) const { return checkpoints_[index]; }
  size_t answered() const { return answered_; }

  // An answered HANDOVER is durable. It and the checkpoint that it makes are there together or not at all.
  void BeginHandover(uint64_t operations) { handover_ = operations; }
  void AnswerHandover() { handed_over_ = true; }
  void BeginTakingBack() {
    handed_over_ = false;
    taken_back_ = true;
  }
  void AnswerTakingBack() { handover_.reset(); }
  bool handover_asked() const { return handover_.has_value(); }

  // ---- history: what may be gone back to ------------------------------------------------------------------------------------
  bool HasEpoch(Epoch epoch) const { return FindCheckpoint(epoch).has_value(); }
  Images ViewOf(Epoch epoch) const { return PrimaryAfter(*FindCheckpoint(epoch)); }
  // Stop() applies all of it.
  void GiveUpHistory();
  // What is wrong with what is offered, newest first, by a store that keeps so many.
  absl::Status CheckHistory(const std::vector<Epoch>& offered, uint64_t history_epochs) const;

  // ---- the secondary VM -------------------------------------------------------------------------------------------------------
  // Of the view that is shown now: a checkpoint's index.
  size_t BeginWrite(size_t shown, VmWrite write);
  void AnswerWrite(size_t shown, size_t index) {
    checkpoints_[shown].writes[index].answered = true;
  }
  void AnswerFlush(size_t shown, uint32_t volume);

  // ---- the group ------------------------------------------------------------------------------------------------------------------
  std::set<Stage> stages = {Stage::kNone};
  Term term_min;
  Term term_max;
  bool open_asked = false;  // Store::Open() was called ...
  bool open_answered = false;
  bool remove_asked = false;
  std::set<std::string> agents = {""};

  // ---- verdicts -------------------------------------------------------------------------------------------------------------------
  // What is wrong with `state` and `view` after `ending`; else which checkpoint it is.
  absl::StatusOr<size_t> Check(const storage::ReplicaState& state, const Images& view,
                               Ending ending) const;
  // What was found is the truth from now on.
  void Settle(const storage::ReplicaState& state, Images view, size_t checkpoint, Ending ending);
  // Operations of the primary that `state` has received.
  uint64_t ReceivedIn(const storage::ReplicaState& state) const;
  // The checkpoint whose view a store in `state` shows; the newest with its number.
  size_t Shown(const storage::ReplicaState& state) const;

 private:
  // Operations of the primary that the checkpoint covers; nullopt: there was none, or it has been lost.
  std::optional<uint64_t> FindCheckpoint(Epoch epoch) const;
  absl::Status CheckGroup(const storage::ReplicaState& state) const;
  absl::Status CheckHandover(const storage::ReplicaState& state) const;
  absl::Status CheckReceived(const storage::ReplicaState& state, Ending ending) const;
  static absl::Status CheckView(const ModelCheckpoint& checkpoint, const Images& view,
                                Ending ending);

  Shared<Images> initial_;
  std::map<Epoch, uint64_t> older_;  // those before checkpoints_: operations that they cover
  Epoch newest_begun_;
  Epoch history_given_up_;  // through this one
  std::vector<ModelCheckpoint> checkpoints_;
  std::map<Epoch, uint64_t> prepares_;  // what each one covers, asked for or answered
  Epoch prepared_;                      // the one that was promised; 0: none
  std::optional<uint64_t> handover_;    // operations up to the HANDOVER that was asked for
  bool handed_over_ = false;            // and answered
  bool taken_back_ = false;             // was asked for since
  size_t answered_ = 0;                 // index of the newest answered checkpoint
  size_t durable_ = 0;                  // of the newest one that survives a power cut
};

// "volume 1 sector 17", where two views differ first; empty: nowhere.
std::string FirstDifference(const Images& found, const Images& expected);

}  // namespace understudy::crash

#endif  // UNDERSTUDY_TESTS_CRASH_MODEL_H_
