// tests/server/fake_replica.h
//
// A replica and a store in memory: enough of storage/replica.h's contract to test what stands on it. Overlays are byte arrays,
// a checkpoint is done on the calling thread unless it is held, and every checkpoint is kept as history.
#ifndef UNDERSTUDY_TESTS_SERVER_FAKE_REPLICA_H_
#define UNDERSTUDY_TESTS_SERVER_FAKE_REPLICA_H_

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "storage/base/mutex.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"
#include "storage/replica.h"
#include "storage/store.h"
#include "tests/server/fake_clone.h"

namespace understudy::testing {

class FakeReplica : public storage::Replica {
 public:
  explicit FakeReplica(const storage::GroupSpec& spec) : name_(spec.name) {
    for (const auto& volume : spec.volumes) {
      volumes_.push_back({.id = VolumeId(static_cast<uint32_t>(volumes_.size())),
                          .name = volume.name,
                          .top_id = volume.top_id,
                          .disk_path = volume.disk_path,
                          .size_bytes = volume.size_bytes});
      disks_.emplace_back(volume.size_bytes, '\0');
    }
    hidden_ = disks_;
    state_.usage.resize(volumes_.size());
  }

  const std::string& name() const override { return name_; }
  const std::vector<storage::VolumeInfo>& volumes() const override { return volumes_; }
  storage::ReplicaState state() const override {
    base::MutexLock lock(mutex_);
    return state_;
  }
  void SetListener(storage::ReplicaListener* listener) override {
    base::MutexLock lock(listener_mutex_);
    listener_ = listener;
  }

  // The calls that may hang on a dead disk, by name.
  enum class Place { kAppend, kStart, kAttachStream, kStop, kFailover, kReceivedZeroesEnd };

  absl::Status Start() override {
    WaitWhileStuck(Place::kStart);
    RETURN_IF_ERROR(DoStart());
    TellStage();
    return absl::OkStatus();
  }
  absl::Status DoStart() {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(start_error_);
    state_.stage = Stage::kRunning;
    state_.incarnation = {.high = 7, .low = state_.incarnation.low + 1};
    state_.term = state_.term.Next();
    state_.agent_id.clear();
    state_.epoch = state_.epoch.Next();
    state_.valid = true;
    state_.incomplete = false;
    state_.stream_id = state_.received_sequence = state_.durable_sequence = 0;
    state_.handing_over = state_.handed_over = false;
    return absl::OkStatus();
  }
  absl::Status BindAgent(const std::string& agent_id, bool takeover) override {
    base::MutexLock lock(mutex_);
    if (state_.agent_id != agent_id && !state_.agent_id.empty()) {
      if (!takeover) return WithReason(absl::FailedPreconditionError("bound"), kReasonFenced);
      state_.term = state_.term.Next();
    }
    state_.agent_id = agent_id;
    if (takeover) state_.handing_over = state_.handed_over = false;
    return absl::OkStatus();
  }
  absl::Status AttachStream(uint64_t stream_id, bool may_checkpoint) override {
    WaitWhileStuck(Place::kAttachStream);
    base::MutexLock lock(mutex_);
    may_checkpoint_ = may_checkpoint;
    if (state_.stage != Stage::kRunning && refuse_late_attach_) return NotRunning();
    if (state_.stream_id == stream_id) return absl::OkStatus();
    if (state_.stream_id != 0) state_.incomplete = true;
    state_.stream_id = stream_id;
    state_.received_sequence = state_.durable_sequence = 0;
    return absl::OkStatus();
  }
  absl::Status Stop() override {
    WaitWhileStuck(Place::kStop);
    RETURN_IF_ERROR(DoStop());
    TellCommitted({.epoch = state().committed_epoch});
    TellStage();
    return absl::OkStatus();
  }
  absl::Status DoStop() {
    base::MutexLock lock(mutex_);
    if (state_.stage != Stage::kRunning) return absl::AbortedError("failed over meanwhile");
    if (state_.incomplete) {
      return WithReason(absl::AbortedError("operations are missing"), kReasonIncomplete);
    }
    CommitLocked();
    clones_.clear();
    state_.stage = Stage::kDone;
    return absl::OkStatus();
  }
  absl::Status Failover(const storage::FailoverOptions& options) override {
    WaitWhileStuck(Place::kFailover);
    RETURN_IF_ERROR(DoFailover(options));
    TellStage();
    return absl::OkStatus();
  }
  absl::Status DoFailover(const storage::FailoverOptions& options) {
    base::MutexLock lock(mutex_);
    if (state_.stage != Stage::kRunning && state_.stage != Stage::kFailoverFailed) {
      return NotRunning();
    }
    if (options.after_handover && state_.stage == Stage::kRunning && !state_.handed_over) {
      return WithReason(absl::FailedPreconditionError("not handed over"), kReasonNotHandedOver);
    }
    if (options.epoch) RETURN_IF_ERROR(GoBackLocked(options));
    clones_.clear();
    state_.stage = Stage::kFailover;
    state_.term = state_.term.Next();
    hidden_ = disks_;
    return absl::OkStatus();
  }

  absl::Status Append(const storage::IncomingFrame& frame,
                      storage::CheckpointCallback on_checkpoint) override {
    WaitWhileStuck(Place::kAppend);
    bool checkpoint = false;
    {
      base::MutexLock lock(mutex_);
      RETURN_IF_ERROR(append_error_);
      RETURN_IF_ERROR(CheckLocked(frame));
      ++appends_;
      checkpoint = TakeLocked(frame);
    }
    if (checkpoint && !HoldCheckpoint(on_checkpoint)) {
      Commit(std::move(on_checkpoint), state().received_sequence);
    }
    Changed();
    return absl::OkStatus();
  }
  void RequestCheckpoint(storage::CheckpointCallback done) override { Commit(std::move(done), 0); }
  absl::StatusOr<storage::CheckpointResult> CommitPrepared(Epoch epoch) override {
    base::MutexLock lock(mutex_);
    if (state_.prepared_epoch != epoch) {
      return WithReason(absl::FailedPreconditionError("not prepared"), kReasonNotPrepared);
    }
    state_.committed_epoch = epoch;
    state_.committed_sequence = state_.prepared_sequence;
    state_.prepared_epoch = Epoch();
    state_.prepared_sequence = 0;
    return storage::CheckpointResult{.epoch = epoch, .sequence = state_.committed_sequence};
  }
  absl::StatusOr<Epoch> AbandonPrepared() override {
    base::MutexLock lock(mutex_);
    state_.prepared_sequence = 0;
    return std::exchange(state_.prepared_epoch, Epoch());
  }
  absl::Status TakeBackHandover() override {
    base::MutexLock lock(mutex_);
    state_.handing_over = state_.handed_over = false;
    return absl::OkStatus();
  }
  void RequestDurablePoint() override {
    {
      base::MutexLock lock(mutex_);
      state_.durable_sequence = state_.received_sequence;
      ++durable_points_;
    }
    Changed();
  }

  absl::Status Read(VolumeId volume, uint64_t offset, std::span<char> out) override {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(io_error_);
    if (state_.stage == Stage::kNone) return absl::FailedPreconditionError("not started");
    std::memcpy(out.data(), disks_[volume.value()].data() + offset, out.size());
    return absl::OkStatus();
  }
  absl::Status Write(VolumeId volume, uint64_t offset, std::span<const char> data, bool) override {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(io_error_);
    if (state_.stage == Stage::kNone) return absl::FailedPreconditionError("not started");
    std::memcpy(disks_[volume.value()].data() + offset, data.data(), data.size());
    return absl::OkStatus();
  }
  void WriteAll(VolumeId volume, std::span<const BlockWrite> writes,
                std::span<absl::Status> results) override {
    for (size_t i = 0; i < writes.size(); ++i) {
      results[i] = Write(volume, writes[i].offset, writes[i].data, writes[i].fua);
    }
  }
  absl::Status WriteZeroes(VolumeId volume, ByteRange range, ZeroedSpace, bool fua) override {
    return Write(volume, range.start, std::string(range.size(), '\0'), fua);
  }
  absl::Status Flush(VolumeId) override {
    base::MutexLock lock(mutex_);
    return io_error_;
  }
  absl::StatusOr<std::vector<BlockRun>> Map(VolumeId, ByteRange range, size_t) override {
    return std::vector<BlockRun>{{.range = range}};
  }
  absl::Status ReadReceived(VolumeId volume, uint64_t offset, std::span<char> out) override {
    base::MutexLock lock(mutex_);
    received_reads_.push_back(ByteRange::OfLength(offset, out.size()));
    RETURN_IF_ERROR(io_error_);
    if (state_.stage != Stage::kRunning) return NotRunning();
    if (received_reads_.back().Overlaps(unreadable_)) return absl::InternalError("disk: EIO");
    std::memcpy(out.data(), hidden_[volume.value()].data() + offset, out.size());
    return absl::OkStatus();
  }
  // Exact, block by block.
  absl::StatusOr<uint64_t> ReceivedZeroesEnd(VolumeId volume, ByteRange range) override {
    WaitWhileStuck(Place::kReceivedZeroesEnd);
    base::MutexLock lock(mutex_);
    if (state_.stage != Stage::kRunning) return NotRunning();
    const std::string bytes = hidden_[volume.value()].substr(range.start, range.size());
    const size_t data = bytes.find_first_not_of('\0');
    return data == std::string::npos ? range.end : range.start + RoundDown(data, 4096);
  }
  absl::StatusOr<storage::FailbackRegions> Failback() const override { return failback; }
  storage::FailbackRegions failback;

  std::vector<storage::EpochInfo> History() const override {
    base::MutexLock lock(mutex_);
    std::vector<storage::EpochInfo> history;
    if (state_.stage != Stage::kRunning) return history;
    for (auto kept = kept_.rbegin(); kept != kept_.rend(); ++kept) {
      history.push_back({.epoch = kept->first,
                         .time = absl::FromUnixSeconds(static_cast<int64_t>(kept->first.value())),
                         .bytes = std::vector<uint64_t>(volumes_.size(), 4096)});
    }
    return history;
  }
  absl::Status CreateClone(const storage::CloneSpec& spec) override {
    base::MutexLock lock(mutex_);
    if (state_.stage != Stage::kRunning) return NotRunning();
    const auto kept = kept_.find(spec.epoch);
    if (kept == kept_.end()) return absl::NotFoundError("not kept");
    if (clones_.count(spec.name) > 0) return absl::AlreadyExistsError("clone");
    clones_[spec.name] = std::make_shared<FakeClone>(spec, kept->second);
    return absl::OkStatus();
  }
  absl::Status RemoveClone(const std::string& name) override {
    base::MutexLock lock(mutex_);
    return clones_.erase(name) > 0 ? absl::OkStatus() : absl::NotFoundError("no clone");
  }
  absl::StatusOr<std::shared_ptr<storage::BlockView>> FindClone(
      const std::string& name) const override {
    base::MutexLock lock(mutex_);
    const auto found = clones_.find(name);
    if (found == clones_.end()) return absl::NotFoundError("no clone");
    return std::shared_ptr<storage::BlockView>(found->second);
  }
  std::vector<storage::CloneInfo> clones() const override {
    base::MutexLock lock(mutex_);
    std::vector<storage::CloneInfo> infos;
    for (const auto& [name, clone] : clones_) infos.push_back(clone->info());
    return infos;
  }
  absl::StatusOr<uint64_t> Scrub(const storage::ScrubOptions&) override {
    base::MutexLock lock(mutex_);
    return ++state_.scrub.number;
  }
  void EndScrub(storage::ScrubOutcome outcome) {
    const uint64_t number = state().scrub.number;
    base::MutexLock lock(listener_mutex_);
    listener_->OnScrubEnded({.outcome = outcome, .number = number});
  }
  absl::Status WaitForJobs(const base::Deadline&) override { return absl::OkStatus(); }

  // ---- for tests ------------------------------------------------------------------------------------------------------

  void Mutate(const std::function<void(storage::ReplicaState&)>& change) {
    {
      base::MutexLock lock(mutex_);
      change(state_);
    }
    Changed();
  }
  void FailStart(absl::Status status) { Set(start_error_, std::move(status)); }
  void FailAppend(absl::Status status) { Set(append_error_, std::move(status)); }
  void FailIo(absl::Status status) { Set(io_error_, std::move(status)); }
  // That call waits, as on a dead disk.
  void Stick(bool stuck, Place place = Place::kAppend) {
    base::MutexLock lock(mutex_);
    if (stuck) {
      stuck_.insert(place);
    } else {
      stuck_.erase(place);
    }
    unstuck_.NotifyAll();
  }
  void AwaitStuck(Place place) {
    base::MutexLock lock(mutex_);
    while (waiting_.count(place) == 0) unstuck_.Wait(mutex_);
  }
  void AwaitStuckAppend() { AwaitStuck(Place::kAppend); }
  // AttachStream() that was overtaken by a failover succeeds nevertheless: its check had come first.
  void AllowLateAttach() {
    base::MutexLock lock(mutex_);
    refuse_late_attach_ = false;
  }
  // The next marker is taken and its checkpoint stays uncommitted until CommitHeld() or DropHeld().
  void HoldNextMarker() {
    base::MutexLock lock(mutex_);
    hold_marker_ = true;
  }
  void AwaitHeldMarker() {
    base::MutexLock lock(mutex_);
    while (!held_) unstuck_.Wait(mutex_);
  }
  void CommitHeld() { Commit(TakeHeld(), state().received_sequence); }
  void DropHeld() { (void)TakeHeld(); }
  void Report(const storage::BackgroundError& error) {
    base::MutexLock lock(listener_mutex_);
    if (listener_ != nullptr) listener_->OnBackgroundError(error);
  }
  std::string disk(size_t volume) const {
    base::MutexLock lock(mutex_);
    return disks_[volume];
  }
  std::string hidden(size_t volume) const {
    base::MutexLock lock(mutex_);
    return hidden_[volume];
  }
  // What was received is damaged there.
  void SetUnreadable(ByteRange range) {
    base::MutexLock lock(mutex_);
    unreadable_ = range;
  }
  // As the primary's write would.
  void SetReceived(size_t volume, uint64_t offset, const std::string& data) {
    base::MutexLock lock(mutex_);
    hidden_[volume].replace(offset, data.size(), data);
  }
  std::vector<ByteRange> received_reads() const {
    base::MutexLock lock(mutex_);
    return received_reads_;
  }
  int appends() const {
    base::MutexLock lock(mutex_);
    return appends_;
  }
  bool may_checkpoint() const {
    base::MutexLock lock(mutex_);
    return may_checkpoint_;
  }
  int durable_points() const {
    base::MutexLock lock(mutex_);
    return durable_points_;
  }

 private:
  void Set(absl::Status& to, absl::Status status) {
    base::MutexLock lock(mutex_);
    to = std::move(status);
  }
  void Changed() {
    base::MutexLock lock(listener_mutex_);
    if (listener_ != nullptr) listener_->OnChange();
  }
  void TellStage() {
    const storage::ReplicaState told = state();
    base::MutexLock lock(listener_mutex_);
    if (listener_ != nullptr) listener_->OnStage(told.stage, told.term);
  }
  void TellCommitted(const storage::CheckpointResult& result) {
    base::MutexLock lock(listener_mutex_);
    if (listener_ != nullptr) listener_->OnCommitted(result);
  }
  static absl::Status NotRunning() {
    return WithReason(absl::FailedPreconditionError("Block replication is not running"),
                      kReasonNotRunning);
  }
  void WaitWhileStuck(Place place) {
    base::MutexLock lock(mutex_);
    waiting_.insert(place);
    unstuck_.NotifyAll();
    while (stuck_.count(place) > 0) unstuck_.Wait(mutex_);
    waiting_.erase(place);
  }
  bool HoldCheckpoint(storage::CheckpointCallback& done) {
    base::MutexLock lock(mutex_);
    if (!std::exchange(hold_marker_, false)) return false;
    held_ = std::move(done);
    unstuck_.NotifyAll();
    return true;
  }
  storage::CheckpointCallback TakeHeld() {
    base::MutexLock lock(mutex_);
    return std::exchange(held_, nullptr);
  }
  absl::Status CheckLocked(const storage::IncomingFrame& frame)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (state_.stage != Stage::kRunning || frame.term != state_.term ||
        frame.incarnation != state_.incarnation || frame.stream_id != state_.stream_id) {
      return WithReason(absl::FailedPreconditionError("fenced"), kReasonFenced);
    }
    if (state_.handing_over) {
      return WithReason(absl::FailedPreconditionError("handed over"), kReasonHandedOver);
    }
    if (frame.first_sequence > state_.received_sequence + 1) {
      return absl::OutOfRangeError(absl::StrCat("sequence gap before ", frame.first_sequence));
    }
    for (const Operation& operation : frame.operations) {
      if (!operation.has_range()) continue;
      if (operation.volume >= volumes_.size()) return absl::InvalidArgumentError("unknown volume");
      if (operation.offset + operation.length > volumes_[operation.volume].size_bytes) {
        return absl::OutOfRangeError("past the end");
      }
    }
    return absl::OkStatus();
  }
  // True when a new CHECKPOINT ends the frame.
  bool TakeLocked(const storage::IncomingFrame& frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::string payload;
    for (const auto piece : frame.payload) payload.append(piece.data(), piece.size());
    uint64_t sequence = frame.first_sequence, position = 0;
    bool checkpoint = false;
    for (const Operation& operation : frame.operations) {
      const uint64_t from = position;
      position += operation.payload_bytes();
      if (sequence++ <= state_.received_sequence) continue;
      state_.received_sequence = sequence - 1;
      if (operation.kind == OperationKind::kData) {
        hidden_[operation.volume].replace(operation.offset, operation.length,
                                          payload.substr(from, operation.length));
      }
      if (operation.kind == OperationKind::kIncomplete) state_.incomplete = true;
      if (operation.kind == OperationKind::kComplete) state_.incomplete = false;
      if (operation.kind == OperationKind::kHandover) state_.handing_over = !state_.incomplete;
      checkpoint = operation.kind == OperationKind::kCheckpoint ||
                   operation.kind == OperationKind::kHandover;
    }
    return checkpoint;
  }
  void CommitLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    disks_ = hidden_;
    kept_[state_.epoch] = disks_;
    state_.committed_epoch = state_.epoch;
    state_.epoch = state_.epoch.Next();
    state_.handed_over = state_.handing_over;
    state_.checkpoint_bytes = 4096;
  }
  absl::Status GoBackLocked(const storage::FailoverOptions& options)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto kept = kept_.find(*options.epoch);
    if (kept == kept_.end()) return absl::NotFoundError("not kept");
    if (*options.epoch == state_.committed_epoch) return absl::OkStatus();
    if (options.in_use) return WithReason(absl::FailedPreconditionError("in use"), kReasonInUse);
    disks_ = kept->second;
    state_.committed_epoch = *options.epoch;
    return absl::OkStatus();
  }
  void Commit(storage::CheckpointCallback done, uint64_t sequence) {
    absl::StatusOr<storage::CheckpointResult> result;
    {
      base::MutexLock lock(mutex_);
      if (state_.stage != Stage::kRunning) {
        result = absl::FailedPreconditionError("Block replication is not running");
      } else if (state_.incomplete) {
        result = WithReason(absl::AbortedError("operations are missing"), kReasonIncomplete);
      } else {
        CommitLocked();
        state_.committed_sequence = sequence;
        result = storage::CheckpointResult{.epoch = state_.committed_epoch,
                                           .sequence = sequence,
                                           .bytes = 4096,
                                           .duration = absl::Milliseconds(2)};
      }
    }
    if (result.ok()) TellCommitted(*result);
    done(std::move(result));
  }

  const std::string name_;
  std::vector<storage::VolumeInfo> volumes_;
  base::Mutex listener_mutex_;
  storage::ReplicaListener* listener_ ABSL_GUARDED_BY(listener_mutex_) = nullptr;
  mutable base::Mutex mutex_;
  base::CondVar unstuck_;
  storage::ReplicaState state_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> disks_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> hidden_ ABSL_GUARDED_BY(mutex_);
  std::map<Epoch, std::vector<std::string>> kept_ ABSL_GUARDED_BY(mutex_);  // disks of checkpoints
  std::map<std::string, std::shared_ptr<FakeClone>> clones_ ABSL_GUARDED_BY(mutex_);
  bool may_checkpoint_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status start_error_ ABSL_GUARDED_BY(mutex_);
  absl::Status append_error_ ABSL_GUARDED_BY(mutex_);
  absl::Status io_error_ ABSL_GUARDED_BY(mutex_);
  std::set<Place> stuck_ ABSL_GUARDED_BY(mutex_);
  std::set<Place> waiting_ ABSL_GUARDED_BY(mutex_);
  bool refuse_late_attach_ ABSL_GUARDED_BY(mutex_) = true;
  bool hold_marker_ ABSL_GUARDED_BY(mutex_) = false;
  storage::CheckpointCallback held_ ABSL_GUARDED_BY(mutex_);
  ByteRange unreadable_ ABSL_GUARDED_BY(mutex_);
  std::vector<ByteRange> received_reads_ ABSL_GUARDED_BY(mutex_);
  int appends_ ABSL_GUARDED_BY(mutex_) = 0;
  int durable_points_ ABSL_GUARDED_BY(mutex_) = 0;
};

class FakeStore : public storage::Store {
 public:
  absl::StatusOr<std::shared_ptr<storage::Replica>> Open(
      const storage::GroupSpec& spec, absl::FunctionRef<absl::Status()> last_check) override {
    RETURN_IF_ERROR(open_error);
    RETURN_IF_ERROR(last_check());
    if (on_open) on_open(spec);
    auto& replica = replicas[spec.name];
    if (replica == nullptr) {
      replica = std::make_shared<FakeReplica>(spec);
      replica->FailStart(start_error);
    }
    return std::shared_ptr<storage::Replica>(replica);
  }
  absl::StatusOr<std::shared_ptr<storage::Replica>> Find(const std::string& group) const override {
    const auto found = replicas.find(group);
    if (found == replicas.end()) return absl::NotFoundError(group);
    return std::shared_ptr<storage::Replica>(found->second);
  }
  std::vector<std::shared_ptr<storage::Replica>> List() const override {
    std::vector<std::shared_ptr<storage::Replica>> list;
    for (const auto& [name, replica] : replicas) list.push_back(replica);
    return list;
  }
  absl::Status Remove(const std::string& group, std::optional<uint64_t> failback_mark) override {
    if (failback_mark.has_value() && *failback_mark != replicas.at(group)->failback.mark) {
      return absl::AbortedError("written since");
    }
    replicas.erase(group);
    return absl::OkStatus();
  }
  absl::StatusOr<storage::StoreSpace> Space() const override {
    return storage::StoreSpace{.capacity_bytes = 1000,
                               .free_bytes = 400,
                               .extent_memory_bytes = 30,
                               .extent_memory_limit_bytes = 50,
                               .extent_cold_reads = 6};
  }

  absl::Status CheckRoom() const override { return room; }

  std::map<std::string, std::shared_ptr<FakeReplica>> replicas;
  absl::Status room;
  absl::Status open_error;   // of the next Open()
  absl::Status start_error;  // of groups opened from now on
  std::function<void(const storage::GroupSpec&)> on_open;
};

// A group of one volume "disk0" of `size_bytes`, top-id "GROUP/disk0".
inline storage::GroupSpec OneVolume(const std::string& group, uint64_t size_bytes = 1 << 20) {
  return {.name = group,
          .volumes = {{.name = "disk0",
                       .top_id = group + "/disk0",
                       .disk_path = "/disks/" + group,
                       .size_bytes = size_bytes}}};
}

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_SERVER_FAKE_REPLICA_H_
