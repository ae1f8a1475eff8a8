// storage/clone.h
//
// Clone is a writable, throw-away view of one checkpoint of a group:
//     the clone's own writes -> committed overlays up to its epoch, newest first -> secondary disk
//
// It holds the overlays it needs, so they may be applied and dropped behind its back; what must wait for its end is the
// apply of newer epochs, which would change the secondary disk below it (ReplicaImpl::UpdateBacklog()).
//
// Threads  any.
// Durability  none: a clone does not outlive the process, Flush() promises nothing.
// Errors   kFailedPrecondition once it has ended, with why; kResourceExhausted at its byte limit.
#ifndef UNDERSTUDY_STORAGE_CLONE_H_
#define UNDERSTUDY_STORAGE_CLONE_H_

#include <memory>
#include <string>
#include <vector>

#include "storage/base/mutex.h"
#include "storage/base/turn.h"
#include "storage/chain.h"
#include "storage/replica.h"

namespace understudy::storage {

class SegmentLog;

class Clone : public BlockView {
 public:
  // What it lives on; goes with the last request that uses it.
  struct State {
    Chain chain;
    std::unique_ptr<SegmentLog> log;
  };
  // `base` is what the VM would see after a failover to spec.epoch: its active overlay is the clone's own, empty one.
  Clone(const CloneSpec& spec, std::string group, const std::vector<VolumeInfo>& volumes,
        std::unique_ptr<SegmentLog> log, Chain base, absl::Time expires);

  CloneInfo info() const;
  // Every request fails from now on with kFailedPrecondition and `why`. What was shared is let go of when the requests under way
  // have ended; it is given back to be destroyed where that may take its time.
  std::shared_ptr<State> End(absl::string_view why);

  absl::Status Read(VolumeId volume, uint64_t offset, std::span<char> out) override;
  absl::Status Write(VolumeId volume, uint64_t offset, std::span<const char> data,
                     bool fua) override;
  void WriteAll(VolumeId volume, std::span<const BlockWrite> writes,
                std::span<absl::Status> results) override;
  absl::Status WriteZeroes(VolumeId volume, ByteRange range, ZeroedSpace space, bool fua) override;
  absl::Status Flush(VolumeId volume) override;
  absl::StatusOr<std::vector<BlockRun>> Map(VolumeId volume, ByteRange range,
                                            size_t runs_max) override;

 private:
  absl::Status Check(VolumeId volume, ByteRange range) const;
  absl::StatusOr<std::shared_ptr<State>> state() const;  // kFailedPrecondition once it has ended
  absl::Status Modify(VolumeId volume, OperationKind kind, ByteRange range,
                      std::span<const char> data);

  const CloneSpec spec_;
  const std::string name_;  // GROUP@NAME
  const std::vector<VolumeInfo>& volumes_;
  const absl::Time expires_;
  base::Turn write_turn_;  // the log, and the order of what goes into the overlay
  mutable base::SharedMutex view_mutex_;
  std::shared_ptr<State> state_ ABSL_GUARDED_BY(view_mutex_);  // nullptr: ended
  std::string why_ ABSL_GUARDED_BY(view_mutex_);
  uint64_t written_bytes_ ABSL_GUARDED_BY(view_mutex_) = 0;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_CLONE_H_
