#include "storage/format.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/crc32c.h"

namespace understudy::storage {
namespace {

constexpr uint8_t kRecordVersion = 1;  // first byte of each record

uint64_t BigEndian64(uint64_t value) { return __builtin_bswap64(value); }
uint32_t BigEndian32(uint32_t value) { return __builtin_bswap32(value); }

template <typename T>
void AppendRaw(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

class RecordWriter {
 public:
  RecordWriter() { AppendRaw(bytes_, kRecordVersion); }
  template <typename Number>
  RecordWriter& Add(Number value) {
    static_assert(std::is_integral_v<Number> || std::is_enum_v<Number>);
    AppendRaw(bytes_, value);
    return *this;
  }
  RecordWriter& Add(const std::string& text) {
    Add(static_cast<uint32_t>(text.size()));
    bytes_.append(text);
    return *this;
  }
  RecordWriter& Add(const LogPosition& position) {
    return Add(position.ordinal).Add(position.offset);
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Reads past the end give zeroes and make ok() false, so that callers check once.
class RecordReader {
 public:
  explicit RecordReader(absl::string_view bytes) : bytes_(bytes) {
    ok_ = Get<uint8_t>() == kRecordVersion;
  }
  template <typename Number>
  Number Get() {
    Number value{};
    if (bytes_.size() < sizeof(value)) {
      Fail();
      return value;
    }
    std::memcpy(&value, bytes_.data(), sizeof(value));
    bytes_.remove_prefix(sizeof(value));
    return value;
  }
  std::string GetString() {
    const auto length = Get<uint32_t>();
    if (bytes_.size() < length) {
      Fail();
      return "";
    }
    std::string text(bytes_.substr(0, length));
    bytes_.remove_prefix(length);
    return text;
  }
  bool GetBool() { return GetEnum(uint8_t{1}) != 0; }
  // At most `last`.
  template <typename Enum>
  Enum GetEnum(Enum last) {
    const auto value = Get<uint8_t>();
    if (value > static_cast<uint8_t>(last)) Fail();
    return ok_ ? static_cast<Enum>(value) : Enum{};
  }
  LogPosition GetPosition() {
    LogPosition position;
    position.ordinal = Get<uint32_t>();
    position.offset = Get<uint32_t>();
    return position;
  }
  bool AtEnd() const { return ok_ && bytes_.empty(); }
  bool ok() const { return ok_; }

 private:
  void Fail() {
    ok_ = false;
    bytes_ = {};
  }
  absl::string_view bytes_;
  bool ok_ = true;
};

absl::Status Damaged(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("index: damaged ", what, " record"));
}

}  // namespace

std::string LogPosition::ToString() const { return absl::StrCat(ordinal, ":", offset); }

void SealSegmentHeader(SegmentHeader& header) {
  header.crc32c = base::Crc32c(&header, offsetof(SegmentHeader, crc32c));
}

bool SegmentHeaderValid(const SegmentHeader& header) {
  return header.magic == kSegmentMagic &&
         header.crc32c == base::Crc32c(&header, offsetof(SegmentHeader, crc32c));
}

uint32_t FrameMetadataCrc(const FrameHeader& header, absl::string_view rest) {
  const uint32_t crc = base::Crc32c(&header, offsetof(FrameHeader, crc32c));
  return base::ExtendCrc32c(crc, rest.data(), rest.size());
}

std::string EncodeExtentPrefix(OverlayId overlay) {
  std::string key;
  AppendRaw(key, BigEndian64(overlay.value()));
  return key;
}

std::string EncodeExtentKey(OverlayId overlay, VolumeId volume, uint64_t end) {
  std::string key;
  key.reserve(20);
  AppendRaw(key, BigEndian64(overlay.value()));
  AppendRaw(key, BigEndian32(volume.value()));
  AppendRaw(key, BigEndian64(end));
  return key;
}

absl::StatusOr<ExtentKey> DecodeExtentKey(absl::string_view key) {
  if (key.size() != 20) return Damaged("extent key");
  uint64_t overlay, end;
  uint32_t volume;
  std::memcpy(&overlay, key.data(), 8);
  std::memcpy(&volume, key.data() + 8, 4);
  std::memcpy(&end, key.data() + 12, 8);
  return ExtentKey{.overlay = OverlayId(BigEndian64(overlay)),
                   .volume = VolumeId(BigEndian32(volume)),
                   .end = BigEndian64(end)};
}

absl::Status CheckExtent(uint64_t end, const Extent& extent, uint64_t volume_bytes) {
  const ByteRange range = {extent.start, end};
  const bool inside = range.start < range.end && range.end <= volume_bytes && range.SectorAligned();
  if (inside && (extent.zero() || extent.origin().Contains(range))) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("index: extent record of ", range.start, " to ", end,
                                          " is damaged: it cannot be one of a volume of ",
                                          volume_bytes, " bytes"));
}

std::string Encode(const Extent& extent) {
  return RecordWriter()
      .Add(extent.start)
      .Add(extent.origin_start)
      .Add(extent.origin_bytes)
      .Add(extent.segment)
      .Add(extent.position)
      .Add(extent.checksums)
      .Take();
}

absl::StatusOr<Extent> DecodeExtent(absl::string_view bytes) {
  RecordReader reader(bytes);
  Extent extent;
  extent.start = reader.Get<uint64_t>();
  extent.origin_start = reader.Get<uint64_t>();
  extent.origin_bytes = reader.Get<uint32_t>();
  extent.segment = reader.Get<uint32_t>();
  extent.position = reader.Get<uint32_t>();
  extent.checksums = reader.Get<uint32_t>();
  if (!reader.AtEnd()) return Damaged("extent");
  return extent;
}

std::string Encode(const GroupRecord& record) {
  RecordWriter writer;
  writer.Add(record.number).Add(record.name).Add(record.stage);
  writer.Add(record.incarnation.high).Add(record.incarnation.low).Add(record.term.value());
  writer.Add(record.agent_id).Add(record.epoch.value()).Add(record.committed_epoch.value());
  writer.Add(record.committed_sequence).Add(record.committed_stream).Add(record.committed_micros);
  writer.Add(record.committed_bytes).Add(record.committed_duration_micros);
  writer.Add(record.valid).Add(record.hidden.value()).Add(record.active.value());
  writer.Add(record.roll_forward_through.value());
  writer.Add(record.applied_epoch.value()).Add(record.applied_micros);
  writer.Add(record.applying_through.value());
  writer.Add(record.prepared_epoch.value())
      .Add(record.prepared_sequence)
      .Add(record.prepared_stream);
  writer.Add(record.handed_over).Add(record.failback_known);
  writer.Add(static_cast<uint32_t>(record.volumes.size()));
  for (const VolumeRecord& volume : record.volumes) {
    writer.Add(volume.name).Add(volume.top_id).Add(volume.disk_path).Add(volume.size_bytes);
    writer.Add(volume.initial).Add(volume.identity.file_system).Add(volume.identity.inode);
    writer.Add(volume.merged_through);
  }
  return writer.Take();
}

absl::StatusOr<GroupRecord> DecodeGroupRecord(absl::string_view bytes) {
  RecordReader reader(bytes);
  GroupRecord record;
  record.number = reader.Get<uint64_t>();
  record.name = reader.GetString();
  record.stage = reader.GetEnum(Stage::kDone);
  record.incarnation.high = reader.Get<uint64_t>();
  record.incarnation.low = reader.Get<uint64_t>();
  record.term = Term(reader.Get<uint64_t>());
  record.agent_id = reader.GetString();
  record.epoch = Epoch(reader.Get<uint64_t>());
  record.committed_epoch = Epoch(reader.Get<uint64_t>());
  record.committed_sequence = reader.Get<uint64_t>();
  record.committed_stream = reader.Get<uint64_t>();
  record.committed_micros = reader.Get<int64_t>();
  record.committed_bytes = reader.Get<uint64_t>();
  record.committed_duration_micros = reader.Get<uint64_t>();
  record.valid = reader.GetBool();
  record.hidden = OverlayId(reader.Get<uint64_t>());
  record.active = OverlayId(reader.Get<uint64_t>());
  record.roll_forward_through = Epoch(reader.Get<uint64_t>());
  record.applied_epoch = Epoch(reader.Get<uint64_t>());
  record.applied_micros = reader.Get<int64_t>();
  record.applying_through = Epoch(reader.Get<uint64_t>());
  record.prepared_epoch = Epoch(reader.Get<uint64_t>());
  record.prepared_sequence = reader.Get<uint64_t>();
  record.prepared_stream = reader.Get<uint64_t>();
  record.handed_over = reader.GetBool();
  record.failback_known = reader.GetBool();
  const auto volume_count = reader.Get<uint32_t>();
  for (uint32_t i = 0; i < volume_count && reader.ok(); ++i) {
    VolumeRecord volume;
    volume.name = reader.GetString();
    volume.top_id = reader.GetString();
    volume.disk_path = reader.GetString();
    volume.size_bytes = reader.Get<uint64_t>();
    volume.initial = reader.GetEnum(Initial::kSync);
    volume.identity.file_system = reader.GetString();
    volume.identity.inode = reader.Get<uint64_t>();
    volume.merged_through = reader.Get<uint64_t>();
    record.volumes.push_back(std::move(volume));
  }
  if (!reader.AtEnd() || record.volumes.empty()) return Damaged("group");
  return record;
}

std::string Encode(const OverlayRecord& record) {
  RecordWriter writer;
  writer.Add(record.group).Add(record.role).Add(record.epoch.value()).Add(record.state);
  writer.Add(record.start).Add(record.end).Add(record.unix_micros);
  writer.Add(static_cast<uint32_t>(record.covered.size()));
  for (const CoveredBytes& covered : record.covered) writer.Add(covered.all).Add(covered.data);
  writer.Add(static_cast<uint32_t>(record.segments.size()));
  for (const SegmentRange& range : record.segments) writer.Add(range.first).Add(range.last);
  return writer.Add(record.segment_incarnations).Take();
}

absl::StatusOr<OverlayRecord> DecodeOverlayRecord(absl::string_view bytes) {
  RecordReader reader(bytes);
  OverlayRecord record;
  record.group = reader.Get<uint64_t>();
  record.role = reader.GetEnum(LogRole::kActive);
  record.epoch = Epoch(reader.Get<uint64_t>());
  record.state = reader.GetEnum(OverlayState::kPrepared);
  record.start = reader.GetPosition();
  record.end = reader.GetPosition();
  record.unix_micros = reader.Get<int64_t>();
  const auto volume_count = reader.Get<uint32_t>();
  for (uint32_t i = 0; i < volume_count && reader.ok(); ++i) {
    CoveredBytes covered;
    covered.all = reader.Get<uint64_t>();
    covered.data = reader.Get<uint64_t>();
    record.covered.push_back(covered);
  }
  const auto range_count = reader.Get<uint32_t>();
  for (uint32_t i = 0; i < range_count && reader.ok(); ++i) {
    SegmentRange range;
    range.first = reader.Get<uint32_t>();
    range.last = reader.Get<uint32_t>();
    record.segments.push_back(range);
  }
  if (!reader.AtEnd()) record.segment_incarnations = reader.Get<uint64_t>();
  if (!reader.AtEnd()) return Damaged("overlay");
  return record;
}

std::string Encode(const IndexedPosition& position) {
  return RecordWriter()
      .Add(position.position)
      .Add(position.stream_id)
      .Add(position.sequence)
      .Add(position.incomplete)
      .Take();
}

std::string EncodeFailbackBits(uint64_t bits) { return RecordWriter().Add(bits).Take(); }

absl::StatusOr<uint64_t> DecodeFailbackBits(absl::string_view bytes) {
  RecordReader reader(bytes);
  const auto bits = reader.Get<uint64_t>();
  if (!reader.AtEnd()) return Damaged("failback");
  return bits;
}

absl::StatusOr<IndexedPosition> DecodeIndexedPosition(absl::string_view bytes) {
  RecordReader reader(bytes);
  IndexedPosition position;
  position.position = reader.GetPosition();
  position.stream_id = reader.Get<uint64_t>();
  position.sequence = reader.Get<uint64_t>();
  position.incomplete = reader.GetBool();
  if (!reader.AtEnd()) return Damaged("position");
  return position;
}

}  // namespace understudy::storage
