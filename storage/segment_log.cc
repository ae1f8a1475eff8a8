#include "storage/segment_log.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/crc32c.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace understudy::storage {
namespace {

constexpr uint32_t kFirstFrame = kBlockBytes;  // behind the segment header
const char kPadding[kBlockBytes] = {};

// Runs over the payload's slices as if they were one piece.
class PayloadCursor {
 public:
  explicit PayloadCursor(std::span<const std::span<const char>> slices) : slices_(slices) {}

  // CRC32C of the next `bytes`.
  uint32_t Checksum(uint64_t bytes) {
    uint32_t crc = 0;
    while (bytes > 0) {
      UNDERSTUDY_CHECK(slice_ < slices_.size(), "payload shorter than its operations");
      const std::span<const char> rest = slices_[slice_].subspan(offset_);
      const uint64_t part = std::min<uint64_t>(bytes, rest.size());
      crc = base::ExtendCrc32c(crc, rest.data(), part);
      bytes -= part;
      offset_ += part;
      if (offset_ == slices_[slice_].size()) {
        ++slice_;
        offset_ = 0;
      }
    }
    return crc;
  }

 private:
  std::span<const std::span<const char>> slices_;
  size_t slice_ = 0;
  size_t offset_ = 0;
};

template <typename Function>
void ForEachBlock(const ByteRange& range, Function function) {
  for (uint64_t at = range.start; at < range.end;) {
    const uint64_t end = std::min(range.end, RoundDown(at, kBlockBytes) + kBlockBytes);
    function(end - at);
    at = end;
  }
}

void Add(std::vector<iovec>& pieces, const void* data, size_t bytes) {
  if (bytes > 0) pieces.push_back({.iov_base = const_cast<void*>(data), .iov_len = bytes});
}

// Visits the frame headers until one is none, or `visit` returns false; returns where that was. Nothing else is checked.
template <typename Visit>
uint64_t WalkHeaders(const Segment& segment, Visit visit) {
  FrameHeader header;
  const auto bytes = std::span(reinterpret_cast<char*>(&header), sizeof(header));
  uint64_t at = kFirstFrame;
  while (segment.file().Read(at, bytes).ok() && header.magic == kFrameMagic &&
         header.segment_incarnation == segment.header().incarnation &&
         header.payload_bytes <= kFramePayloadBytesMax && visit(header)) {
    at += FrameBytes(header);
  }
  return at;
}

}  // namespace

absl::string_view CutReasonName(CutReason reason) {
  switch (reason) {
    case CutReason::kMissing:
      return "missing";
    case CutReason::kForeign:
      return "foreign";
    case CutReason::kDamaged:
      return "damaged";
  }
  return "unknown";
}

bool HasFrameOf(const Segment& segment, OverlayId overlay) {
  bool found = false;
  WalkHeaders(segment, [&](const FrameHeader& header) {
    found = header.overlay == overlay.value();
    return !found;
  });
  return found;
}

uint64_t WrittenBytes(const Segment& segment) {
  return WalkHeaders(segment, [](const FrameHeader&) { return true; });
}

void AppendChecksums(const ByteRange& range, absl::string_view data, std::vector<uint32_t>* out) {
  ForEachBlock(range, [&](uint64_t bytes) {
    out->push_back(base::Crc32c(data.data(), bytes));
    data.remove_prefix(bytes);
  });
}

Extent OperationPlacement::Next(const Operation& operation, uint32_t segment_ordinal) {
  Extent extent{.start = operation.offset};
  if (operation.kind != OperationKind::kData) return extent;
  extent.origin_start = operation.offset;
  extent.origin_bytes = static_cast<uint32_t>(operation.length);
  extent.segment = segment_ordinal;
  extent.position = payload;
  extent.checksums = checksums;
  payload += static_cast<uint32_t>(operation.length);
  checksums += static_cast<uint32_t>(ChecksumCount(operation.range()) * sizeof(uint32_t));
  return extent;
}

SegmentLog::SegmentLog(SegmentPool& pool, uint64_t group, LogRole role)
    : pool_(pool), group_(group), role_(role) {}

uint64_t SegmentLog::open_segments() const {
  base::MutexLock lock(mutex_);
  return (current_ != nullptr ? 1 : 0) + (next_ != nullptr ? 1 : 0);
}

LogPosition SegmentLog::end() const {
  base::MutexLock lock(mutex_);
  return end_;
}

std::shared_ptr<Segment> SegmentLog::Adopted(uint32_t ordinal) const {
  const auto it = adopted_.find(ordinal);
  return it == adopted_.end() ? nullptr : it->second;
}

std::shared_ptr<Segment> SegmentLog::Find(uint32_t ordinal) const {
  base::MutexLock lock(mutex_);
  const auto it = known_.find(ordinal);
  return it == known_.end() ? nullptr : it->second.lock();
}

void SegmentLog::Register(const std::shared_ptr<Segment>& segment) {
  std::erase_if(known_, [](const auto& known) { return known.second.expired(); });
  known_[segment->ordinal()] = segment;
}

// ---- append ------------------------------------------------------------------------------------------------------------

absl::StatusOr<std::shared_ptr<Segment>> SegmentLog::SegmentFor(uint64_t frame_bytes) {
  uint32_t ordinal = 0;
  {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(broken_);
    if (current_ != nullptr && offset_ + frame_bytes <= pool_.segment_bytes()) return current_;
    while (preparing_) prepared_.Wait(mutex_);
    RETURN_IF_ERROR(broken_);
    if (next_ != nullptr) {
      current_ = std::exchange(next_, nullptr);
      offset_ = kFirstFrame;
      return current_;
    }
    preparing_ = true;
    ordinal = next_ordinal_++;
  }
  absl::StatusOr<std::shared_ptr<Segment>> fresh = pool_.Take(group_, role_, ordinal);
  base::MutexLock lock(mutex_);
  preparing_ = false;
  RETURN_IF_ERROR(fresh.status());
  Register(*fresh);
  current_ = *std::move(fresh);
  offset_ = kFirstFrame;
  return current_;
}

void SegmentLog::PrepareNext() {
  uint32_t ordinal = 0;
  {
    base::MutexLock lock(mutex_);
    const bool nearly_full = current_ != nullptr && offset_ > pool_.segment_bytes() / 4 * 3;
    if (!nearly_full || next_ != nullptr || preparing_ || !broken_.ok()) return;
    preparing_ = true;
    ordinal = next_ordinal_++;
  }
  absl::StatusOr<std::shared_ptr<Segment>> prepared = pool_.Take(group_, role_, ordinal);
  base::MutexLock lock(mutex_);
  preparing_ = false;
  prepared_.NotifyAll();
  if (!prepared.ok()) return;  // Append() will meet the same error and report it
  Register(*prepared);
  next_ = *std::move(prepared);
}

void SegmentLog::LetGo(LogPosition through) {
  std::shared_ptr<Segment> current;  // both end outside the lock
  std::shared_ptr<Segment> next;
  base::MutexLock lock(mutex_);
  // Others get hold of it under this lock only: an append at work, or an overlay that needs what is in it.
  if (!broken_.ok() || preparing_ || end_ != through || current_.use_count() != 1) return;
  current.swap(current_);
  next.swap(next_);
}

FrameHeader SegmentLog::BuildMetadata(const FrameContent& content, const Segment& segment) {
  FrameHeader header;
  checksums_.clear();
  PayloadCursor cursor(content.payload);
  const uint32_t mask = segment.header().checksum_mask();
  for (const Operation& operation : content.operations) {
    if (operation.kind != OperationKind::kData) continue;
    header.payload_bytes += operation.length;
    ForEachBlock(operation.range(),
                 [&](uint64_t bytes) { checksums_.push_back(cursor.Checksum(bytes) ^ mask); });
  }
  header.operation_count = static_cast<uint32_t>(content.operations.size());
  header.segment_incarnation = segment.header().incarnation;
  header.overlay = content.overlay.value();
  header.stream_id = content.stream_id;
  header.term = content.term.value();
  header.first_sequence = content.first_sequence;
  header.checksum_count = static_cast<uint32_t>(checksums_.size());
  {
    base::MutexLock lock(mutex_);
    header.previous_ordinal = end_.ordinal;
    header.previous_offset = end_.offset;
  }
  header.epoch = content.epoch.value();
  header.next_hidden = content.next_hidden.value();
  header.next_active = content.next_active.value();
  header.flags = content.compaction ? kFrameCompaction : 0;
  header.unix_micros = content.unix_micros;

  const uint64_t used = FrameMetadataBytes(header);
  metadata_.assign(RoundUp(used, kBlockBytes), '\0');
  char* const rest = metadata_.data() + sizeof(FrameHeader);
  const size_t operation_bytes = content.operations.size_bytes();
  if (operation_bytes > 0) std::memcpy(rest, content.operations.data(), operation_bytes);
  if (!checksums_.empty()) {
    std::memcpy(rest + operation_bytes, checksums_.data(), checksums_.size() * sizeof(uint32_t));
  }
  header.crc32c = FrameMetadataCrc(header, {rest, used - sizeof(FrameHeader)});
  std::memcpy(metadata_.data(), &header, sizeof(header));
  return header;
}

absl::Status SegmentLog::WriteFrame(const FrameHeader& header, const FrameContent& content,
                                    Segment& segment) {
  pieces_.clear();
  Add(pieces_, metadata_.data(), metadata_.size());
  for (const std::span<const char>& slice : content.payload)
    Add(pieces_, slice.data(), slice.size());
  Add(pieces_, kPadding, RoundUp(header.payload_bytes, kBlockBytes) - header.payload_bytes);
  uint32_t offset = 0;
  {
    base::MutexLock lock(mutex_);
    offset = offset_;
  }
  const absl::Status written = segment.file().Write(offset, pieces_);
  if (written.ok()) return written;
  base::MutexLock lock(mutex_);
  current_ = nullptr;  // poisoned; its good frames stay readable through the overlays
  return Annotate(written, segment.ToString());
}

absl::StatusOr<AppendedFrame> SegmentLog::Append(const FrameContent& content) {
  uint64_t checksum_count = 0;
  uint64_t payload_bytes = 0;
  for (const Operation& operation : content.operations) {
    if (operation.kind != OperationKind::kData) continue;
    checksum_count += ChecksumCount(operation.range());
    payload_bytes += operation.length;
  }
  FrameHeader size_only;
  size_only.operation_count = static_cast<uint32_t>(content.operations.size());
  size_only.checksum_count = static_cast<uint32_t>(checksum_count);
  size_only.payload_bytes = payload_bytes;
  ASSIGN_OR_RETURN(const std::shared_ptr<Segment> segment, SegmentFor(FrameBytes(size_only)));
  const FrameHeader header = BuildMetadata(content, *segment);
  RETURN_IF_ERROR(WriteFrame(header, content, *segment));

  base::MutexLock lock(mutex_);
  AppendedFrame frame;
  frame.segment = segment;
  frame.checksums =
      offset_ + static_cast<uint32_t>(sizeof(FrameHeader) + content.operations.size_bytes());
  frame.payload = offset_ + static_cast<uint32_t>(metadata_.size());
  // Only now: a Sync() that ran beside the write may have missed it.
  MarkDirty(segment);
  segment->AddWritten(FrameBytes(header));
  offset_ += static_cast<uint32_t>(FrameBytes(header));
  end_ = {.ordinal = segment->ordinal(), .offset = offset_};
  frame.end = end_;
  return frame;
}

void SegmentLog::MarkDirty(const std::shared_ptr<Segment>& segment) {
  if (dirty_.empty() || dirty_.back() != segment) dirty_.push_back(segment);
}

absl::Status SegmentLog::Sync() {
  // A second caller must not return before the data of the first one is down.
  base::Turn::Hold sync_turn(sync_turn_);
  std::vector<std::shared_ptr<Segment>> dirty;
  {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(broken_);
    dirty.swap(dirty_);
  }
  for (const std::shared_ptr<Segment>& segment : dirty) {
    const absl::Status synced = segment->file().Sync();
    if (synced.ok()) continue;
    base::MutexLock lock(mutex_);
    broken_ = Annotate(synced, segment->ToString());
    return broken_;
  }
  return absl::OkStatus();
}

bool SegmentLog::broken() const {
  base::MutexLock lock(mutex_);
  return !broken_.ok();
}

// ---- recovery ------------------------------------------------------------------------------------------------------------

void SegmentLog::Adopt(std::vector<std::shared_ptr<Segment>> segments) {
  base::MutexLock lock(mutex_);
  for (std::shared_ptr<Segment>& segment : segments) {
    next_ordinal_ = std::max(next_ordinal_, segment->ordinal() + 1);
    const uint32_t ordinal = segment->ordinal();
    Register(segment);
    adopted_[ordinal] = std::move(segment);
  }
}

absl::StatusOr<std::optional<ReplayedFrame>> SegmentLog::ReadFrame(
    const std::shared_ptr<Segment>& segment, uint32_t offset, LogPosition previous) {
  ReplayedFrame frame;
  FrameHeader& header = frame.header;
  const auto read = [&](uint64_t at, void* out, uint64_t bytes) -> absl::StatusOr<bool> {
    const absl::Status status = segment->file().Read(at, std::span(static_cast<char*>(out), bytes));
    if (status.code() == absl::StatusCode::kOutOfRange) return false;
    RETURN_IF_ERROR(status);
    return true;
  };
  ASSIGN_OR_RETURN(const bool header_there, read(offset, &header, sizeof(header)));
  if (!header_there || header.magic != kFrameMagic) return std::nullopt;
  CutReason& why = rolled_forward_.reason;
  why = std::max(why, CutReason::kForeign);
  if (header.segment_incarnation != segment->header().incarnation ||
      header.previous_ordinal != previous.ordinal || header.previous_offset != previous.offset) {
    return std::nullopt;
  }
  why = CutReason::kDamaged;
  if ((header.flags & ~kFrameCompaction) != 0 || header.operation_count > kFrameOperationsMax ||
      header.payload_bytes > kFramePayloadBytesMax ||
      header.checksum_count > kFrameOperationsMax + 2 * kFramePayloadBytesMax / kSectorBytes) {
    return std::nullopt;
  }
  const uint64_t metadata_bytes = FrameMetadataBytes(header);
  std::string rest(metadata_bytes - sizeof(header), '\0');
  ASSIGN_OR_RETURN(const bool rest_there, read(offset + sizeof(header), rest.data(), rest.size()));
  if (!rest_there || FrameMetadataCrc(header, rest) != header.crc32c) return std::nullopt;

  const uint64_t payload_at = offset + RoundUp(metadata_bytes, kBlockBytes);
  std::string payload(header.payload_bytes, '\0');
  ASSIGN_OR_RETURN(const bool payload_there, read(payload_at, payload.data(), payload.size()));
  if (!payload_there) return std::nullopt;
  frame.operations.resize(header.operation_count);
  const size_t operation_bytes = header.operation_count * kOperationBytes;
  if (operation_bytes > 0) std::memcpy(frame.operations.data(), rest.data(), operation_bytes);
  std::vector<uint32_t> computed;
  absl::string_view data = payload;
  for (const Operation& operation : frame.operations) {
    if (operation.kind != OperationKind::kData) continue;
    if (operation.length > data.size()) return std::nullopt;
    AppendChecksums(operation.range(), data.substr(0, operation.length), &computed);
    data.remove_prefix(operation.length);
  }
  for (uint32_t& checksum : computed) checksum ^= segment->header().checksum_mask();
  if (computed.size() != header.checksum_count ||
      (!computed.empty() && std::memcmp(computed.data(), rest.data() + operation_bytes,
                                        computed.size() * sizeof(uint32_t)) != 0)) {
    return std::nullopt;
  }
  frame.segment = segment;
  frame.checksums = offset + static_cast<uint32_t>(sizeof(header) + operation_bytes);
  frame.payload = static_cast<uint32_t>(payload_at);
  frame.end = {.ordinal = segment->ordinal(),
               .offset = offset + static_cast<uint32_t>(FrameBytes(header))};
  return frame;
}

std::map<LogPosition, std::shared_ptr<Segment>> SegmentLog::Followers() const {
  std::map<LogPosition, std::shared_ptr<Segment>> followers;
  for (const auto& [ordinal, segment] : adopted_) {
    FrameHeader header;
    const auto bytes = std::span(reinterpret_cast<char*>(&header), sizeof(header));
    // A segment that was made ready and never used may still hold a first frame of its file's earlier use.
    if (!segment->file().Read(kFirstFrame, bytes).ok() || header.magic != kFrameMagic ||
        header.segment_incarnation != segment->header().incarnation) {
      continue;
    }
    followers[{header.previous_ordinal, header.previous_offset}] = segment;
  }
  return followers;
}

absl::Status SegmentLog::WriteAgain(const ReplayedFrame& frame) {
  base::File& file = frame.segment->file();
  const uint64_t offset = frame.end.offset - FrameBytes(frame.header);
  // Without the padding at the end, which may be missing.
  std::string bytes(frame.header.payload_bytes > 0
                        ? frame.payload + frame.header.payload_bytes - offset
                        : FrameMetadataBytes(frame.header),
                    '\0');
  absl::Status written = file.Read(offset, std::span(bytes));
  if (written.ok()) written = file.Write(offset, bytes);
  return Annotate(written, frame.segment->ToString());
}

absl::Status SegmentLog::RollForward(
    LogPosition start, const std::function<absl::Status(const ReplayedFrame&)>& visit) {
  const std::map<LogPosition, std::shared_ptr<Segment>> followers = Followers();
  LogPosition at = start;
  rolled_forward_ = {.cut = start};
  while (true) {
    rolled_forward_.reason = CutReason::kMissing;
    std::optional<ReplayedFrame> frame;
    // A later segment that follows this very position wins: the log left the current one here for a reason.
    const auto follower = followers.find(at);
    if (follower != followers.end() && follower->second->ordinal() > at.ordinal) {
      ASSIGN_OR_RETURN(frame, ReadFrame(follower->second, kFirstFrame, at));
    }
    const auto current = adopted_.find(at.ordinal);
    if (!frame && current != adopted_.end()) {
      ASSIGN_OR_RETURN(frame, ReadFrame(current->second, at.offset, at));
    }
    if (!frame) break;
    RETURN_IF_ERROR(visit(*frame));
    at = rolled_forward_.cut = frame->end;
    ++rolled_forward_.frames;
    rolled_forward_.bytes += FrameBytes(frame->header);
    base::MutexLock lock(mutex_);
    MarkDirty(frame->segment);
  }
  base::MutexLock lock(mutex_);
  end_ = at;
  current_ = nullptr;  // a stale frame may lie behind the cut: never append there
  // Ordinals go up for ever, also when every segment up to here has been recycled.
  next_ordinal_ = std::max(next_ordinal_, at.ordinal + 1);
  return absl::OkStatus();
}

}  // namespace understudy::storage
