#include "tests/crash/rig.h"

#include <atomic>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/clock.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "tests/testing/sim_rocksdb_env.h"

namespace understudy::crash {
namespace {

constexpr char kGroup[] = "vm1";
constexpr auto kAnswerDeadline = std::chrono::seconds(60);

// Moves on by itself, the same way in every run.
class CountingClock : public base::Clock {
 public:
  absl::Time Now() const override { return absl::UnixEpoch() + Monotonic(); }
  absl::Duration Monotonic() const override { return absl::Microseconds(++ticks_); }

 private:
  mutable std::atomic<int64_t> ticks_ = 1'700'000'000'000'000;
};

const base::Clock& TestClock() {
  static const CountingClock* const clock = new CountingClock;
  return *clock;
}

Images InitialImages(testing::Random& random) {
  Images images;
  for (size_t v = 0; v < kVolumes; ++v) images.push_back(random.Bytes(kVolumeBytes));
  return images;
}

std::string DiskPath(size_t volume) { return absl::StrCat("/host/disks/v", volume, ".img"); }

}  // namespace

Rig::Rig(const Options& options, uint64_t seed)
    : options_(options),
      disk_(seed),
      env_(testing::NewSimRocksdbEnv(disk_)),
      random_(seed),
      model_(InitialImages(random_)) {
  UNDERSTUDY_CHECK(disk_.CreateDirectory("/host/disks").ok());
  UNDERSTUDY_CHECK(disk_.SyncDirectory("/").ok());
  UNDERSTUDY_CHECK(disk_.SyncDirectory("/host").ok());
  if (options.reflinks) disk_.UseReflinks();
  if (!options.repeatable) disk_.TakeTime();
  disk_.OrderDirectories(absl::StrCat(kRigDirectory, "/index"));
  spec_.name = kGroup;
  for (size_t v = 0; v < kVolumes; ++v) {
    UNDERSTUDY_CHECK(disk_.WriteFileAtomically(DiskPath(v), (*model_.checkpoint(0).view)[v]).ok());
    spec_.volumes.push_back({.name = absl::StrCat("v", v),
                             .top_id = absl::StrCat("vm1/v", v),
                             .disk_path = DiskPath(v),
                             .size_bytes = kVolumeBytes});
  }
}

Rig::~Rig() {
  disk_.SetHook(nullptr);
  ForgetReplica();
}

Rig::Saved Rig::Save() const {
  UNDERSTUDY_CHECK(store_ == nullptr);
  return {disk_.Save(), model_, random_, next_stream_};
}

void Rig::Load(const Saved& saved) {
  UNDERSTUDY_CHECK(store_ == nullptr);
  disk_.Load(saved.disk);
  model_ = saved.model;
  random_ = saved.random;
  next_stream_ = saved.next_stream;
  cloned_ = false;
  clone_verdict_ = absl::OkStatus();
  clone_random_.seed(0);
}

// ---- the process ----------------------------------------------------------------------------------------------------------------

absl::Status Rig::OpenStore() {
  UNDERSTUDY_CHECK(store_ == nullptr);
  workers_ = std::make_shared<base::WorkerPool>("background", options_.repeatable ? 1 : 4);
  storage::StoreOptions options;
  options.data_dir = kRigDirectory;
  options.disk_dirs = {"/host/disks"};
  options.segment_bytes = 4 << 20;
  options.checkpoint_durable = options_.checkpoint_durable;
  options.history_epochs = options_.history_epochs;
  options.index_env = env_.get();
  options.index_background_io = !options_.repeatable;
  options.worker_pool = workers_;
  options.index_batch_delay = options_.repeatable ? absl::Hours(1) : absl::Milliseconds(2);
  options.log_idle_delay = options.index_batch_delay;
  testing::Random random(random_());
  ASSIGN_OR_RETURN(store_, storage::Store::Open(options, disk_, TestClock(), random));
  const auto found = store_->Find(kGroup);
  if (found.ok()) replica_ = *found;
  return absl::OkStatus();
}

void Rig::ForgetReplica() {
  Release();
  clone_.reset();
  replica_ = nullptr;
  store_ = nullptr;
  workers_ = nullptr;
}

void Rig::End(Ending ending) {
  Release();
  if (ending == Ending::kPowerCut) disk_.CutPower();
  if (ending == Ending::kKill) disk_.Kill();
  ForgetReplica();
  disk_.SetHook(nullptr);
  disk_.Restart();
}

// ---- asking ------------------------------------------------------------------------------------------------------------------------

absl::Status Rig::OpenGroup() {
  model_.open_asked = true;
  auto opened = store_->Open(spec_);
  RETURN_IF_ERROR(opened.status());
  replica_ = *std::move(opened);
  model_.open_answered = true;
  model_.remove_asked = false;
  return absl::OkStatus();
}

absl::Status Rig::Start() {
  model_.stages.insert(Stage::kRunning);
  model_.term_max = replica_->state().term.Next();
  RETURN_IF_ERROR(replica_->Start());
  model_.stages = {Stage::kRunning};
  model_.term_min = model_.term_max;
  return absl::OkStatus();
}

absl::Status Rig::BindAgent(const std::string& agent, bool takeover) {
  model_.agents.insert(agent);
  if (takeover) model_.term_max = replica_->state().term.Next();
  RETURN_IF_ERROR(replica_->BindAgent(agent, takeover));
  model_.agents = {agent};
  model_.term_min = model_.term_max;
  return absl::OkStatus();
}

absl::Status Rig::AttachStream() {
  const uint64_t stream = next_stream_++;
  // The new stream goes on behind what was received; what was sent and not received will never come.
  model_.sent.resize(model_.ReceivedIn(replica_->state()));
  model_.bases[stream] = model_.sent.size();
  model_.streams.insert(stream);
  RETURN_IF_ERROR(replica_->AttachStream(stream, /*may_checkpoint=*/false));
  model_.streams = {stream};
  return absl::OkStatus();
}

ByteRange Rig::LargeRange() {
  if (!options_.reflinks || random_() % 2 == 0) return {};
  constexpr uint64_t kBlocks = kVolumeBytes / testing::kSimPageBytes;
  const uint64_t blocks = kBlocks / 4 * 3 + random_() % (kBlocks / 4);
  return ByteRange::OfLength(random_() % (kBlocks - blocks) * testing::kSimPageBytes,
                             blocks * testing::kSimPageBytes);
}

void Rig::AddOperation() {
  const uint64_t sectors = random_() % 3 == 0 ? 8 * (1 + random_() % 4) : 1 + random_() % 12;
  const uint64_t unit = random_() % 2 == 0 ? 1 : 8;
  const uint64_t offset = random_() % (kVolumeBytes / kSectorBytes - 32) / unit * unit;
  PrimaryOperation one;
  one.operation = {.volume = static_cast<uint32_t>(random_() % kVolumes),
                   .kind = OperationKind::kData,
                   .offset = offset * kSectorBytes,
                   .length = sectors * kSectorBytes};
  const ByteRange large = LargeRange();
  if (!large.empty()) {
    one.operation.offset = large.start;
    one.operation.length = large.size();
  }
  if (random_() % 5 == 0) {
    one.operation.kind = random_() % 2 == 0 ? OperationKind::kZero : OperationKind::kDiscard;
  } else {
    one.data = Share(random_.Bytes(one.operation.length));
  }
  model_.sent.push_back(std::move(one));
}

absl::Status Rig::Frame(size_t operations) {
  for (size_t i = 0; i < operations; ++i) AddOperation();
  return Send();
}

absl::Status Rig::BigFrame(uint64_t offset) {
  const uint64_t length = kVolumeBytes - offset;
  for (uint32_t i = 0; i < 7 * kVolumeBytes / length; ++i) {
    model_.sent.push_back({.operation = {.volume = i % uint32_t{kVolumes},
                                         .kind = OperationKind::kData,
                                         .offset = offset,
                                         .length = length},
                           .data = Share(std::string(length, static_cast<char>(random_())))});
  }
  return Send();
}

absl::Status Rig::Complete() {
  model_.sent.push_back({.operation = {.kind = OperationKind::kComplete}, .data = nullptr});
  return Send();
}

absl::Status Rig::Send() {
  while (true) {
    const uint64_t first = model_.ReceivedIn(replica_->state());
    if (first >= model_.sent.size()) return absl::OkStatus();
    uint64_t count = 0;
    while (count < 7 && first + count < model_.sent.size()) {
      if (IsMarker(model_.sent[first + count++].operation.kind)) break;
    }
    RETURN_IF_ERROR(SendFrame(first, count));
  }
}

absl::Status Rig::SendFrame(uint64_t first, uint64_t count) {
  const storage::ReplicaState state = replica_->state();
  std::vector<Operation> operations;
  std::vector<std::span<const char>> payload;
  for (uint64_t i = first; i < first + count; ++i) {
    operations.push_back(model_.sent[i].operation);
    if (model_.sent[i].data != nullptr) payload.emplace_back(*model_.sent[i].data);
  }
  const storage::IncomingFrame frame = {.incarnation = state.incarnation,
                                        .term = state.term,
                                        .stream_id = state.stream_id,
                                        .first_sequence = state.received_sequence + 1,
                                        .operations = operations,
                                        .payload = payload};
  const auto append = [&](storage::CheckpointCallback done) -> absl::Status {
    RETURN_IF_ERROR(replica_->Append(frame, std::move(done)));
    model_.received = std::max(model_.received, first + count);
    return absl::OkStatus();
  };
  if (!IsMarker(operations.back().kind)) return append(nullptr);
  if (operations.back().kind == OperationKind::kPrepare) {
    return AwaitPrepare(state.epoch, first + count, append);
  }
  const size_t index = model_.BeginCheckpoint(state.epoch, first + count);
  if (operations.back().kind == OperationKind::kHandover) {
    return AwaitHandover(index, first + count, append);
  }
  return AwaitCheckpoint(index, options_.checkpoint_durable, append);
}

absl::StatusOr<storage::CheckpointResult> Rig::Await(const AskCheckpoint& ask) {
  using Result = absl::StatusOr<storage::CheckpointResult>;
  auto promise = std::make_shared<std::promise<Result>>();
  auto answer = promise->get_future();
  RETURN_IF_ERROR(ask([promise](Result result) { promise->set_value(std::move(result)); }));
  UNDERSTUDY_CHECK(answer.wait_for(kAnswerDeadline) == std::future_status::ready,
                   "a marker was never answered");
  return answer.get();
}

absl::Status Rig::AwaitCheckpoint(size_t index, bool durable, const AskCheckpoint& ask) {
  const auto result = Await(ask);
  RETURN_IF_ERROR(result.status());
  if (result->epoch != model_.checkpoint(index).epoch) {
    return Wrong(absl::StrCat("the answer says epoch ", result->epoch.value()));
  }
  model_.AnswerCheckpoint(index, durable);
  if (durable) {
    model_.durable = std::max(model_.durable, model_.checkpoint(index).sent);
  }
  return absl::OkStatus();
}

absl::Status Rig::MarkedCheckpoint() {
  model_.sent.push_back({.operation = {.kind = OperationKind::kCheckpoint}, .data = nullptr});
  RETURN_IF_ERROR(Send());
  return SettleIfRepeatable();
}

absl::Status Rig::Checkpoint() {
  const storage::ReplicaState state = replica_->state();
  RETURN_IF_ERROR(AwaitCheckpoint(model_.BeginCheckpoint(state.epoch, model_.ReceivedIn(state)),
                                  options_.checkpoint_durable,
                                  [this](storage::CheckpointCallback done) {
                                    replica_->RequestCheckpoint(std::move(done));
                                    return absl::OkStatus();
                                  }));
  return SettleIfRepeatable();
}

absl::Status Rig::DurablePoint() {
  replica_->RequestDurablePoint();
  RETURN_IF_ERROR(Settle());
  const storage::ReplicaState state = replica_->state();
  const auto base = model_.bases.find(state.stream_id);
  if (base == model_.bases.end()) return absl::OkStatus();
  model_.durable = std::max(model_.durable, base->second + state.durable_sequence);
  return absl::OkStatus();
}

absl::Status Rig::Stop() {
  model_.stages.insert(Stage::kDone);
  const storage::ReplicaState state = replica_->state();
  const size_t index = model_.BeginCheckpoint(state.epoch, model_.ReceivedIn(state));
  model_.GiveUpHistory();
  RETURN_IF_ERROR(replica_->Stop());
  model_.AnswerCheckpoint(index, /*is_durable=*/true);
  model_.stages = {Stage::kDone};
  return Settle();
}

absl::Status Rig::Failover(bool received, bool after_handover) {
  model_.stages.insert(Stage::kFailover);
  model_.stages.insert(Stage::kFailoverFailed);
  model_.stages.insert(Stage::kDone);
  const storage::ReplicaState state = replica_->state();
  if (state.stage == Stage::kRunning)
    model_.term_max = state.term.Next();  // else it is tried again
  const size_t index = received ? model_.BeginCheckpoint(state.epoch, model_.ReceivedIn(state))
                                : model_.Shown(state);
  RETURN_IF_ERROR(replica_->Failover({.received = received, .after_handover = after_handover}));
  if (received) model_.AnswerCheckpoint(index, /*is_durable=*/true);
  // With --durability=none a failed sync may have lost what was shown.
  const Epoch target = replica_->state().committed_epoch;
  if (target < state.committed_epoch && model_.HasEpoch(target)) {
    model_.AnswerCheckpoint(model_.BeginGoingBack(target), /*is_durable=*/true);
  }
  model_.stages.erase(Stage::kRunning);
  model_.term_min = model_.term_max;
  return absl::OkStatus();
}

absl::Status Rig::Remove() {
  model_.remove_asked = true;
  RETURN_IF_ERROR(store_->Remove(kGroup));
  model_.open_asked = model_.open_answered = false;
  replica_ = nullptr;
  return absl::OkStatus();
}

absl::Status Rig::VmWrite() {
  const storage::ReplicaState state = replica_->state();
  const size_t shown = model_.Shown(state);
  const uint64_t sectors = 1 + random_() % 20;
  crash::VmWrite write = {
      .volume = static_cast<uint32_t>(random_() % kVolumes),
      .offset = random_() % (kVolumeBytes / kSectorBytes - sectors) * kSectorBytes};
  const ByteRange large = LargeRange();
  if (!large.empty()) write.offset = large.start;
  const uint64_t length = large.empty() ? sectors * kSectorBytes : large.size();
  const bool zero = random_() % 5 == 0;
  write.data = Share(zero ? std::string(length, '\0') : random_.Bytes(length));
  const size_t index = model_.BeginWrite(shown, write);
  const VolumeId volume(write.volume);
  const ZeroedSpace space =
      write.offset % (2 * kSectorBytes) == 0 ? ZeroedSpace::kKept : ZeroedSpace::kGivenBack;
  RETURN_IF_ERROR(zero ? replica_->WriteZeroes(volume, ByteRange::OfLength(write.offset, length),
                                               space, /*fua=*/false)
                       : replica_->Write(volume, write.offset, *write.data, /*fua=*/false));
  model_.AnswerWrite(shown, index);
  return absl::OkStatus();
}

absl::Status Rig::VmFlush(uint32_t volume) {
  const size_t shown = model_.Shown(replica_->state());
  RETURN_IF_ERROR(replica_->Flush(VolumeId(volume)));
  model_.AnswerFlush(shown, volume);
  return absl::OkStatus();
}

// ---- the background -----------------------------------------------------------------------------------------------------------

absl::Status Rig::Settle() {
  const auto barrier = [this] {
    std::promise<void> reached;
    workers_->Submit([&] { reached.set_value(); });
    reached.get_future().wait();
  };
  barrier();
  const absl::Status jobs = replica_->WaitForJobs(base::Deadline::Never());
  barrier();
  if (jobs.ok() && replica_->state().stage == Stage::kDone) model_.stages = {Stage::kDone};
  return jobs;
}

// Else the job goes on beside what comes next.
absl::Status Rig::SettleIfRepeatable() {
  return options_.repeatable && !release_ ? Settle() : absl::OkStatus();
}

void Rig::Hold() {
  auto gate = std::make_shared<std::promise<void>>();
  workers_->Submit([opened = gate->get_future().share()] { opened.wait(); });
  release_ = [gate] { gate->set_value(); };
}

void Rig::Release() {
  if (release_) release_();
  release_ = nullptr;
}

}  // namespace understudy::crash
