#include "proto/replication_codec.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

#include "storage/base/text.h"

namespace understudy::proto {
namespace {

// Of a map; gRPC's own limit of a message is 4 MiB.
constexpr size_t kMapBytesMax = 3 << 20;
constexpr uint64_t kGapMin = 64 << 10;

// Ranges that are not more than `gap` apart become one.
void PutRuns(const std::vector<ByteRange>& ranges, uint64_t gap, v1::FailbackVolume* volume) {
  volume->clear_runs();
  ByteRange run;  // in blocks; the end of the one before, while it is empty
  const auto flush = [&](uint64_t next) {
    if (!run.empty()) volume->add_runs(run.size());
    volume->add_runs(next - run.end);
  };
  for (const ByteRange& range : ranges) {
    const uint64_t start = range.start / kBlockBytes;
    const uint64_t end = RoundUp(range.end, kBlockBytes) / kBlockBytes;
    if (run.empty() || start > run.end + gap / kBlockBytes) {
      flush(start);
      run = {start, end};
    } else {
      run.end = std::max(run.end, end);
    }
  }
  if (!run.empty()) volume->add_runs(run.size());
}

v1::WatchKind ToProto(base::EventKind kind) {
  switch (kind) {
    case base::EventKind::kOpened:
      return v1::WATCH_KIND_OPENED;
    case base::EventKind::kRemoved:
      return v1::WATCH_KIND_REMOVED;
    case base::EventKind::kStage:
      return v1::WATCH_KIND_STAGE;
    case base::EventKind::kCheckpoint:
      return v1::WATCH_KIND_CHECKPOINT;
    case base::EventKind::kConnected:
      return v1::WATCH_KIND_CONNECTED;
    case base::EventKind::kDisconnected:
      return v1::WATCH_KIND_DISCONNECTED;
    case base::EventKind::kIncomplete:
      return v1::WATCH_KIND_INCOMPLETE;
    case base::EventKind::kComplete:
      return v1::WATCH_KIND_COMPLETE;
    case base::EventKind::kFenced:
      return v1::WATCH_KIND_FENCED;
    case base::EventKind::kError:
      return v1::WATCH_KIND_ERROR;
    case base::EventKind::kJobBegun:
      return v1::WATCH_KIND_JOB_BEGUN;
    case base::EventKind::kJobEnded:
      return v1::WATCH_KIND_JOB_ENDED;
    case base::EventKind::kHandedOver:
      return v1::WATCH_KIND_HANDED_OVER;
    case base::EventKind::kHandoverTakenBack:
      return v1::WATCH_KIND_HANDOVER_TAKEN_BACK;
  }
  return v1::WATCH_KIND_UNSPECIFIED;
}

}  // namespace

v1::Stage ToProto(Stage stage) {
  switch (stage) {
    case Stage::kNone:
      return v1::STAGE_NONE;
    case Stage::kRunning:
      return v1::STAGE_RUNNING;
    case Stage::kFailover:
      return v1::STAGE_FAILOVER;
    case Stage::kFailoverFailed:
      return v1::STAGE_FAILOVER_FAILED;
    case Stage::kDone:
      return v1::STAGE_DONE;
  }
  return v1::STAGE_UNSPECIFIED;
}

v1::ReplicationError ToProto(const base::LatchedError& error) {
  v1::ReplicationError to;
  to.set_volume(error.volume);
  to.set_operation(error.operation);
  to.set_code(absl::StatusCodeToString(error.code));
  to.set_message(base::ToUtf8(error.message));
  if (!error.range.empty()) {
    to.set_offset(error.range.start);
    to.set_length(error.range.size());
  }
  to.set_first_unix_micros(absl::ToUnixMicros(error.first));
  to.set_last_unix_micros(absl::ToUnixMicros(error.last));
  to.set_count(error.count);
  to.set_reason(error.reason);
  to.set_bytes(error.bytes);
  return to;
}

v1::WatchEvent ToProto(const base::Event& event) {
  v1::WatchEvent to;
  to.set_kind(ToProto(event.kind));
  to.set_number(event.number);
  to.set_unix_micros(absl::ToUnixMicros(event.time));
  to.set_group(event.group);
  if (event.kind == base::EventKind::kStage) to.set_stage(ToProto(event.stage));
  to.set_term(event.term.value());
  to.set_epoch(event.epoch.value());
  to.set_bytes(event.bytes);
  to.set_duration_micros(static_cast<uint64_t>(absl::ToInt64Microseconds(event.duration)));
  if (event.kind == base::EventKind::kError) *to.mutable_error() = ToProto(event.error);
  to.set_job(event.job);
  to.set_detail(base::ToUtf8(event.detail));
  return to;
}

void PutRuns(const std::vector<std::vector<ByteRange>>& ranges, v1::FailbackMap* map) {
  for (uint64_t gap = 0;; gap = std::max(2 * gap, kGapMin)) {
    for (int i = 0; i < map->volumes_size(); ++i) {
      PutRuns(ranges[static_cast<size_t>(i)], gap, map->mutable_volumes(i));
    }
    if (map->ByteSizeLong() <= kMapBytesMax) return;
  }
}

absl::StatusOr<std::vector<ByteRange>> RangesOf(const v1::FailbackVolume& volume) {
  const uint64_t blocks = RoundUp(volume.size_bytes(), kBlockBytes) / kBlockBytes;
  std::vector<ByteRange> ranges;
  uint64_t at = 0;
  for (int i = 0; i < volume.runs_size(); ++i) {
    if (volume.runs(i) > blocks - at) {
      return absl::DataLossError(
          absl::StrCat("volume ", volume.name(), ": it names more than the volume has"));
    }
    const uint64_t end = at + volume.runs(i);
    if (i % 2 == 1) {
      ranges.push_back({at * kBlockBytes, std::min(end * kBlockBytes, volume.size_bytes())});
    }
    at = end;
  }
  return ranges;
}

}  // namespace understudy::proto
