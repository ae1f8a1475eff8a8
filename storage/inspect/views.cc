#include "storage/inspect/views.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

#include "storage/base/text.h"
#include "storage/inspect/inspector.h"

namespace understudy::storage {
namespace {

const char* RoleName(LogRole role) {
  switch (role) {
    case LogRole::kHidden:
      return "hidden";
    case LogRole::kActive:
      return "active";
    case LogRole::kClone:
      break;
  }
  return "clone";
}
const char* StateName(const OverlayReport& overlay) {
  if (overlay.open) return "open";
  switch (overlay.record.state) {
    case OverlayState::kCommitted:
      return "committed";
    case OverlayState::kPrepared:
      return "prepared";
    case OverlayState::kOpen:
      break;
  }
  return "dropped";
}
std::string VolumeName(const GroupReport& group, VolumeId volume) {
  if (volume.value() < group.record.volumes.size())
    return group.record.volumes[volume.value()].name;
  return absl::StrCat("#", volume.value());
}

// ---- text ---------------------------------------------------------------------------------------------------------------------

std::string ExtentText(const GroupReport& group, const FoundExtent& found) {
  const std::string volume = VolumeName(group, found.key.volume);
  if (!found.extent.ok()) {
    return absl::StrFormat("      %s ?-%d  does not decode\n", volume, found.key.end);
  }
  const Extent& extent = *found.extent;
  const std::string range =
      absl::StrFormat("      %s %d-%d  ", volume, extent.start, found.key.end);
  if (extent.zero()) return range + "zeroes\n";
  return absl::StrFormat("%ssegment %d at %d, checksums at %d, origin %d+%d\n", range,
                         extent.segment, extent.position + (extent.start - extent.origin_start),
                         extent.checksums, extent.origin_start, extent.origin_bytes);
}

std::string GroupText(const GroupReport& group) {
  if (group.damaged) return absl::StrCat("\ngroup ", group.name, ": its record is damaged\n");
  const GroupRecord& record = group.record;
  std::string text =
      absl::StrFormat("\ngroup %s (number %d): %s, term %d, epoch %d open, %d committed\n",
                      group.name, record.number, std::string(StageName(record.stage)),
                      record.term.value(), record.epoch.value(), record.committed_epoch.value());
  for (const VolumeRecord& volume : record.volumes) {
    absl::StrAppend(&text, "  volume ", volume.name, ": ", volume.size_bytes, " bytes, ",
                    volume.disk_path, "\n");
  }
  for (const OverlayReport& overlay : group.overlays) {
    absl::StrAppendFormat(
        &text, "  overlay %d: epoch %d, %s, %s, %d bytes in %d extents, log %s to %s\n",
        overlay.id.value(), overlay.record.epoch.value(), RoleName(overlay.record.role),
        StateName(overlay), overlay.bytes, overlay.extents, overlay.record.start.ToString(),
        overlay.open ? "its end" : overlay.record.end.ToString());
    for (const FoundExtent& extent : overlay.listed)
      absl::StrAppend(&text, ExtentText(group, extent));
  }
  for (const LogReport& log : group.logs) {
    absl::StrAppendFormat(&text,
                          "  %s log: indexed to %s (sequence %d%s); %d frames, %d bytes behind it; "
                          "ends at %s by %s\n",
                          RoleName(log.role), log.indexed.position.ToString(), log.indexed.sequence,
                          log.indexed.incomplete ? ", incomplete" : "", log.behind.frames,
                          log.behind.bytes, log.behind.cut.ToString(),
                          std::string(CutReasonName(log.behind.reason)));
  }
  for (const SegmentReport& segment : group.segments) {
    absl::StrAppendFormat(&text, "  %s %s: %d bytes written, %d live, %d garbage and metadata\n",
                          RoleName(segment.role), segment.file, segment.written_bytes,
                          segment.live_bytes, segment.written_bytes - segment.live_bytes);
  }
  return text;
}

std::string DamageText(const DamageReport& damage) {
  std::string where = damage.group.empty() ? "directory" : absl::StrCat("group ", damage.group);
  if (!damage.volume.empty()) {
    where = absl::StrCat("volume ", damage.group, "/", damage.volume);
  }
  if (damage.epoch != Epoch()) absl::StrAppend(&where, " epoch ", damage.epoch.value());
  if (!damage.range.empty()) absl::StrAppend(&where, " range ", damage.range.ToString());
  return absl::StrCat("damage: ", where, ": ", damage.message, "\n");
}

// ---- JSON ---------------------------------------------------------------------------------------------------------------------

std::string Quoted(absl::string_view text) {
  std::string quoted = "\"";
  for (const char c : base::ToUtf8(text)) {  // as JSON is
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(&quoted, "\\u%04x", c);
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

class Object {
 public:
  Object& Raw(absl::string_view key, const std::string& json) {
    fields_.push_back(absl::StrCat(Quoted(key), ": ", json));
    return *this;
  }
  Object& Add(absl::string_view key, absl::string_view text) { return Raw(key, Quoted(text)); }
  Object& Add(absl::string_view key, uint64_t number) { return Raw(key, absl::StrCat(number)); }
  template <typename Items, typename Function>
  Object& List(absl::string_view key, const Items& items, Function json_of) {
    std::vector<std::string> all;
    for (const auto& item : items) all.push_back(json_of(item));
    return Raw(key, absl::StrCat("[", absl::StrJoin(all, ", "), "]"));
  }
  std::string Take() const { return absl::StrCat("{", absl::StrJoin(fields_, ", "), "}"); }

 private:
  std::vector<std::string> fields_;
};

std::string ExtentJson(const GroupReport& group, const FoundExtent& found) {
  Object object;
  object.Add("volume", VolumeName(group, found.key.volume)).Add("end", found.key.end);
  if (!found.extent.ok()) return object.Raw("damaged", "true").Take();
  object.Add("start", found.extent->start).Add("segment", found.extent->segment);
  return object.Add("position", found.extent->position)
      .Add("checksums", found.extent->checksums)
      .Add("origin_start", found.extent->origin_start)
      .Add("origin_bytes", found.extent->origin_bytes)
      .Take();
}

std::string OverlayJson(const InspectOptions& options, const GroupReport& group,
                        const OverlayReport& overlay) {
  Object object;
  object.Add("overlay", overlay.id.value())
      .Add("epoch", overlay.record.epoch.value())
      .Add("role", RoleName(overlay.record.role))
      .Add("state", StateName(overlay))
      .Add("bytes", overlay.bytes)
      .Add("extent_count", overlay.extents)
      .Add("log_start", overlay.record.start.ToString())
      .Add("log_end", overlay.record.end.ToString());
  if (options.extents) {
    object.List("extents", overlay.listed,
                [&](const FoundExtent& extent) { return ExtentJson(group, extent); });
  }
  return object.Take();
}

std::string LogJson(const LogReport& log) {
  return Object()
      .Add("role", RoleName(log.role))
      .Add("indexed", log.indexed.position.ToString())
      .Add("sequence", log.indexed.sequence)
      .Raw("incomplete", log.indexed.incomplete ? "true" : "false")
      .Add("frames_behind", log.behind.frames)
      .Add("bytes_behind", log.behind.bytes)
      .Add("cut", log.behind.cut.ToString())
      .Add("cut_by", CutReasonName(log.behind.reason))
      .Take();
}

std::string SegmentJson(const SegmentReport& segment) {
  return Object()
      .Add("role", RoleName(segment.role))
      .Add("ordinal", segment.ordinal)
      .Add("file", segment.file)
      .Add("written_bytes", segment.written_bytes)
      .Add("live_bytes", segment.live_bytes)
      .Take();
}

std::string GroupJson(const InspectOptions& options, const GroupReport& group) {
  Object object;
  object.Add("group", group.name).Raw("damaged", group.damaged ? "true" : "false");
  if (group.damaged) return object.Take();
  const GroupRecord& record = group.record;
  object.Add("number", record.number)
      .Add("stage", StageName(record.stage))
      .Add("term", record.term.value())
      .Add("incarnation", record.incarnation.ToHex())
      .Add("epoch", record.epoch.value())
      .Add("committed_epoch", record.committed_epoch.value())
      .List("volumes", record.volumes, [](const VolumeRecord& volume) {
        return Object()
            .Add("name", volume.name)
            .Add("size_bytes", volume.size_bytes)
            .Add("disk_path", volume.disk_path)
            .Take();
      });
  object.List("overlays", group.overlays,
              [&](const OverlayReport& overlay) { return OverlayJson(options, group, overlay); });
  return object.List("logs", group.logs, LogJson)
      .List("segments", group.segments, SegmentJson)
      .Take();
}

std::string DamageJson(const DamageReport& damage) {
  return Object()
      .Add("group", damage.group)
      .Add("volume", damage.volume)
      .Add("epoch", damage.epoch.value())
      .Add("start", damage.range.start)
      .Add("end", damage.range.end)
      .Add("message", damage.message)
      .Take();
}

}  // namespace

std::string TextView(const InspectOptions& options, const InspectReport& report) {
  std::string text =
      absl::StrCat("data directory ", options.data_dir, ": format version ", report.version.version,
                   ", ", report.groups.size(), " groups, ", report.free_segments,
                   " free segments (", report.free_segment_bytes, " bytes)\n");
  for (const GroupReport& group : report.groups) absl::StrAppend(&text, GroupText(group));
  absl::StrAppend(&text, "\n");
  for (const DamageReport& damage : report.damages) absl::StrAppend(&text, DamageText(damage));
  absl::StrAppend(&text, report.damages.size(), " damages found",
                  options.verify ? "" : "; data was not read: --verify does", "\n");
  return text;
}

std::string JsonView(const InspectOptions& options, const InspectReport& report) {
  return Object()
             .Add("data_dir", options.data_dir)
             .Add("version", static_cast<uint64_t>(report.version.version))
             .Add("free_segments", report.free_segments)
             .Add("free_segment_bytes", report.free_segment_bytes)
             .List("groups", report.groups,
                   [&](const GroupReport& group) { return GroupJson(options, group); })
             .List("damages", report.damages, DamageJson)
             .Take() +
         "\n";
}

}  // namespace understudy::storage
