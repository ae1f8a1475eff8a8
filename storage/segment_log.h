// storage/segment_log.h
//
// SegmentLog is the append-only log of one group and role: a chain of segments that frames are appended to. Each frame is one
// vectored write, begins and ends on 4 KiB, and names the position it follows, so that a log which moved on to another
// segment (full, poisoned, let go, or after a recovery) is read back in exactly one way.
//
// Errors   A failed write poisons its segment: the log goes on in a fresh one, and the frame did not happen. A failed sync
//          poisons the log: data that was taken may be gone, every later Append() and Sync() fails with the first error.
// Threads  Append() by one thread at a time; Sync(), PrepareNext(), LetGo() and the getters by any.
// Durability  a frame is durable once a Sync() that began after its Append() returned OK.
#ifndef UNDERSTUDY_STORAGE_SEGMENT_LOG_H_
#define UNDERSTUDY_STORAGE_SEGMENT_LOG_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/mutex.h"
#include "storage/base/operation.h"
#include "storage/base/turn.h"
#include "storage/format.h"
#include "storage/segment_pool.h"

namespace understudy::storage {

// What a frame says; the log fills in the rest of FrameHeader.
struct FrameContent {
  OverlayId overlay;
  uint64_t stream_id = 0;
  Term term;
  uint64_t first_sequence = 0;
  std::span<const Operation> operations;  // DATA at most kFramePayloadBytesMax together
  std::span<const std::span<const char>>
      payload;  // back to back, as long as the DATA operations say
  // Checkpoint record; epoch 0: none.
  Epoch epoch;
  OverlayId next_hidden;
  OverlayId next_active;
  int64_t unix_micros = 0;
  bool compaction = false;  // moves bytes that are in the log already
};

struct AppendedFrame {
  std::shared_ptr<Segment> segment;
  uint32_t payload = 0;    // position of the payload in the segment file
  uint32_t checksums = 0;  // position of the first checksum
  LogPosition end;
};

// A frame read back. `extents` are those of its operations that have a range, in order.
struct ReplayedFrame {
  FrameHeader header;
  std::vector<Operation> operations;
  std::shared_ptr<Segment> segment;
  uint32_t payload = 0;
  uint32_t checksums = 0;
  LogPosition end;
};

// Where a log was cut, and why there: nothing follows; what lies there belongs to an earlier use or another place of the log;
// a frame of this place is there, but a checksum of it is wrong (half written by a crash, or damaged later).
enum class CutReason { kMissing, kForeign, kDamaged };
absl::string_view CutReasonName(CutReason reason);  // "missing"

struct RolledForward {
  uint64_t frames = 0;
  uint64_t bytes = 0;  // of the log
  LogPosition cut;
  CutReason reason = CutReason::kMissing;
};

class SegmentLog {
 public:
  SegmentLog(SegmentPool& pool, uint64_t group, LogRole role);

  // Recovery, before anything else: the segments found for this log; `start` is where reading begins.
  void Adopt(std::vector<std::shared_ptr<Segment>> segments);
  // Calls `visit` for each valid frame from `start` on, until the first that is missing, foreign or damaged. The log goes on
  // after the last one, in a fresh segment. An error of `visit`, or of the file system, ends it.
  absl::Status RollForward(LogPosition start,
                           const std::function<absl::Status(const ReplayedFrame&)>& visit);
  // Writes a frame that was read back over itself. A sync may have failed before the process ended: the kernel then shows the
  // bytes as clean, a sync would do nothing, and they would be gone with the power.
  static absl::Status WriteAgain(const ReplayedFrame& frame);
  // What the last RollForward() did.
  const RolledForward& rolled_forward() const { return rolled_forward_; }

  absl::StatusOr<AppendedFrame> Append(const FrameContent& content);
  absl::Status Sync();
  // A Sync() has failed: so does each one after it.
  bool broken() const;
  // Makes the next segment ready when the current one is nearly full, so that Append() need not wait for its sync. An Append() that
  // comes too early waits for this one instead of taking another.
  void PrepareNext();

  // Gives back the segments that the log would go on in, when nothing else holds them and it ends at `through`; the next Append() takes
  // a fresh one. REQUIRES: a recovery would begin at `through`, or not need this log.
  void LetGo(LogPosition through);

  LogPosition end() const;
  // That the log goes on in, and has ready: two at most. Overlays may hold others.
  uint64_t open_segments() const;
  // Adopted segments by ordinal, for overlays that are loaded from the index. nullptr: not there.
  std::shared_ptr<Segment> Adopted(uint32_t ordinal) const;
  void ForgetAdopted() { adopted_.clear(); }
  // Any segment of this log that something holds. nullptr: not there. Any thread.
  std::shared_ptr<Segment> Find(uint32_t ordinal) const;

 private:
  absl::StatusOr<std::shared_ptr<Segment>> SegmentFor(uint64_t frame_bytes);
  // Lays the frame's metadata out in metadata_; returns the header.
  FrameHeader BuildMetadata(const FrameContent& content, const Segment& segment);
  absl::Status WriteFrame(const FrameHeader& header, const FrameContent& content, Segment& segment);
  // Adopted segments by the position their first frame follows.
  std::map<LogPosition, std::shared_ptr<Segment>> Followers() const;
  // Nothing: rolled_forward_.reason says why.
  absl::StatusOr<std::optional<ReplayedFrame>> ReadFrame(const std::shared_ptr<Segment>& segment,
                                                         uint32_t offset, LogPosition previous);
  void Register(const std::shared_ptr<Segment>& segment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  SegmentPool& pool_;
  const uint64_t group_;
  const LogRole role_;
  std::map<uint32_t, std::shared_ptr<Segment>> adopted_;
  RolledForward rolled_forward_;
  // The appender's own.
  std::vector<char> metadata_;
  std::vector<uint32_t> checksums_;
  std::vector<iovec> pieces_;

  void MarkDirty(const std::shared_ptr<Segment>& segment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  base::Turn sync_turn_;
  mutable base::Mutex mutex_;
  std::shared_ptr<Segment> current_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Segment> next_ ABSL_GUARDED_BY(mutex_);
  bool preparing_ ABSL_GUARDED_BY(mutex_) = false;  // a segment; who needs it waits
  base::CondVar prepared_;
  uint32_t next_ordinal_ ABSL_GUARDED_BY(mutex_) = 1;
  uint32_t offset_ ABSL_GUARDED_BY(mutex_) = 0;  // where the next frame goes in current_
  LogPosition end_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Segment>> dirty_ ABSL_GUARDED_BY(mutex_);
  std::map<uint32_t, std::weak_ptr<Segment>> known_ ABSL_GUARDED_BY(mutex_);  // by ordinal
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);
};

// The extent of operation `index` of a frame laid out at `payload` and `checksums`; advances both past it. Call for every
// operation of the frame, in order.
struct OperationPlacement {
  uint32_t payload = 0;
  uint32_t checksums = 0;
  Extent Next(const Operation& operation, uint32_t segment_ordinal);
};

// Whether a frame of `segment` belongs to `overlay`. Reads its frame headers, up to the first that is not a frame.
bool HasFrameOf(const Segment& segment, OverlayId overlay);

// Up to the end of the last frame of this use of the file, as the headers say.
uint64_t WrittenBytes(const Segment& segment);

// The checksums of a DATA operation: one per 4 KiB block of the volume.
void AppendChecksums(const ByteRange& range, absl::string_view data, std::vector<uint32_t>* out);

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_SEGMENT_LOG_H_
