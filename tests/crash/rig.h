// tests/crash/rig.h
//
// Rig is a Store on a SimDisk with one group of three volumes, driven as the server drives it. What is asked of it and what it
// answers is told to the Model. Everything in the background runs on one thread, and the primary's and the VM's calls wait for
// it, so that the same calls make the same I/Os.
//
// Threads  one. Without Options::repeatable the background runs beside it.
#ifndef UNDERSTUDY_TESTS_CRASH_RIG_H_
#define UNDERSTUDY_TESTS_CRASH_RIG_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include <rocksdb/env.h>

#include "storage/base/worker_pool.h"
#include "storage/store.h"
#include "tests/crash/model.h"
#include "tests/testing/seed.h"
#include "tests/testing/sim_disk.h"

namespace understudy::crash {

inline constexpr char kRigDirectory[] = "/host/standby";
inline constexpr size_t kVolumes = 3;
inline constexpr uint64_t kVolumeBytes = 128 << 10;

class Rig {
 public:
  struct Options {
    bool checkpoint_durable = true;
    // The same calls make the same I/Os: RocksDB and the mirroring of the log do nothing unasked.
    bool repeatable = true;
    uint64_t history_epochs = 0;
    bool clones = true;  // else those are not made: what a group looks like without
    // Segments and disks share blocks. Half of the writes are large enough for that.
    bool reflinks = false;
  };
  // The disk, the oracle and what is to come, with no process running.
  struct Saved {
    std::shared_ptr<const testing::SimDisk::State> disk;
    Model model;
    testing::Random random;
    uint64_t next_stream = 0;
  };

  Rig(const Options& options, uint64_t seed);
  ~Rig();

  const Options& options() const { return options_; }
  testing::SimDisk& disk() { return disk_; }
  Model& model() { return model_; }
  testing::Random& random() { return random_; }
  bool running() const { return replica_ != nullptr; }

  Saved Save() const;
  void Load(const Saved& saved);

  // ---- the process -------------------------------------------------------------------------------------------------------------
  // The store, and the group when it has been opened.
  absl::Status OpenStore();
  // Ends it; kStillRunning is not an ending. What the disk kept is decided here.
  void End(Ending ending);

  // ---- what the server asks of a store -----------------------------------------------------------------------------------------
  absl::Status OpenGroup();
  absl::Status Start();
  absl::Status BindAgent(const std::string& agent, bool takeover);
  absl::Status AttachStream();  // a new one
  absl::Status Frame(size_t operations);
  // As large as they get: all of every volume from `offset` on, again and again.
  absl::Status BigFrame(uint64_t offset = 0);
  absl::Status Complete();
  absl::Status MarkedCheckpoint();
  // The three steps; nothing is done where nothing is prepared.
  absl::Status Prepare();
  absl::Status CommitPrepared();
  absl::Status AbandonPrepared();
  // The stream's last operation, and how it goes on nevertheless.
  absl::Status HandOver();
  absl::Status TakeBackHandover();
  absl::Status Checkpoint();
  absl::Status DurablePoint();
  absl::Status Stop();
  absl::Status Failover(bool received = false, bool after_handover = false);
  absl::Status FailoverTo(Epoch epoch);  // one of History()
  absl::Status Remove();

  // ---- the secondary VM -------------------------------------------------------------------------------------------------------
  absl::Status VmWrite();
  absl::Status VmFlush(uint32_t volume);

  // ---- the background ------------------------------------------------------------------------------------------------------------
  // Until nothing is left to do. The status is that of the last job.
  absl::Status Settle();
  // Work in the background waits from Hold() to Release().
  void Hold();
  void Release();

  // ---- history -----------------------------------------------------------------------------------------------------------------
  // The epochs that can be gone back to, newest first.
  std::vector<Epoch> History() const;
  // One at a time. What it shows is compared whenever something is done with it.
  absl::Status CreateClone(Epoch epoch);
  absl::Status CloneWrite();
  absl::Status CheckClone();
  absl::Status RemoveClone();
  // The first thing wrong with a clone so far.
  const absl::Status& clone_verdict() const { return clone_verdict_; }
  uint64_t clone_reads() const { return clone_reads_; }
  // Of segments in use.
  uint64_t SegmentBytes() const { return store_->Space()->segment_bytes; }

  // ---- verdicts --------------------------------------------------------------------------------------------------------------------
  // The running store against the oracle; what it shows is the truth from now on unless it still runs undisturbed.
  absl::Status Check(Ending ending, Ending promised);
  absl::Status Check(Ending ending) { return Check(ending, ending); }
  // Opens, checks, ends by `second`, opens again and finds the same; then goes on: the stream resumes, a checkpoint, every view
  // and the raw disks compared, and again after a failover.
  // `promised`: the ending whose promises hold; worse than `ending` after a failed sync.
  absl::Status Recover(Ending ending, Ending promised, Ending second);

 private:
  absl::Status CheckGone();
  absl::Status GoOn();
  absl::Status GoOnRunning();
  absl::Status LeaveRunning();
  absl::Status CompareDisks(const Images& expected);
  // DONE: wherever the disks differ from the primary's, the failback map says so, or the primary itself knows: it was never told that
  // what it wrote there is durable here.
  absl::Status CheckFailback();
  static absl::StatusOr<Images> ReadAll(storage::BlockView& view);
  // History() offers what it should, and a clone of each shows that checkpoint.
  absl::Status CheckHistory();
  absl::Status CheckEpoch(Epoch epoch);
  absl::Status CompareClone();
  // Opens the store, without the segments of clones, and goes back to where it was.
  absl::StatusOr<uint64_t> SegmentBytesWithoutClones();
  // No clone is left, and no segment of one in use.
  absl::Status CheckNoTrace(uint64_t segment_bytes_without);
  Images RawDisks();
  absl::Status Resume();
  // Sends what the group has not received, up to the end.
  absl::Status Send();
  absl::Status SendFrame(uint64_t first, uint64_t count);
  using AskCheckpoint = std::function<absl::Status(storage::CheckpointCallback)>;
  absl::StatusOr<storage::CheckpointResult> Await(const AskCheckpoint& ask);
  absl::Status AwaitCheckpoint(size_t index, bool durable, const AskCheckpoint& ask);
  absl::Status AwaitHandover(size_t index, uint64_t sent, const AskCheckpoint& ask);
  absl::Status AwaitPrepare(Epoch epoch, uint64_t sent, const AskCheckpoint& ask);
  absl::Status SettleIfRepeatable();
  void AddOperation();
  // Of a large write in whole blocks, by chance and with reflinks only; else empty.
  ByteRange LargeRange();
  void ForgetReplica();

  const Options options_;
  testing::SimDisk disk_;
  std::unique_ptr<rocksdb::Env> env_;
  testing::Random random_;
  storage::GroupSpec spec_;
  Model model_;
  uint64_t next_stream_ = 100;
  std::shared_ptr<base::WorkerPool> workers_;
  std::unique_ptr<storage::Store> store_;
  std::shared_ptr<storage::Replica> replica_;
  std::function<void()> release_;

  struct LiveClone {
    std::shared_ptr<storage::BlockView> view;
    Images expected;
  };
  std::optional<LiveClone> clone_;
  bool cloned_ = false;  // since Load()
  absl::Status clone_verdict_;
  uint64_t clone_reads_ = 0;
  testing::Random clone_random_;  // a group with a clone gets the same writes as one without
};

}  // namespace understudy::crash

#endif  // UNDERSTUDY_TESTS_CRASH_RIG_H_
