#include "storage/inspect/inspector.h"

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/status_macros.h"
#include "storage/overlay.h"
#include "storage/segment_pool.h"
#include "storage/synced_file.h"
#include "storage/verifier.h"

namespace understudy::storage {
namespace {

std::vector<VolumeInfo> VolumesOf(const GroupRecord& record) {
  std::vector<VolumeInfo> volumes;
  for (const VolumeRecord& volume : record.volumes) {
    volumes.push_back({.id = VolumeId(static_cast<uint32_t>(volumes.size())),
                       .name = volume.name,
                       .size_bytes = volume.size_bytes});
  }
  return volumes;
}

class Inspector {
 public:
  Inspector(const InspectOptions& options, base::FileSystem& file_system)
      : options_(options),
        file_system_(file_system),
        pool_(file_system, absl::StrCat(options.data_dir, "/segments"), 0, 0, 0) {
    pool_.StopRecycling();  // nothing is written
  }

  absl::StatusOr<InspectReport> Run() {
    ASSIGN_OR_RETURN(report_.version, ReadDataVersion(file_system_, options_.data_dir));
    RETURN_IF_ERROR(Annotate(report_.version.CheckReadable(),
                             absl::StrCat("data directory ", options_.data_dir)));
    RETURN_IF_ERROR(TakeLock());
    const SyncedFile synced(file_system_, absl::StrCat(options_.data_dir, "/SYNCED"));
    ASSIGN_OR_RETURN(index_, Index::OpenReadOnly(absl::StrCat(options_.data_dir, "/index"),
                                                 /*env=*/nullptr, synced.Read()));
    ASSIGN_OR_RETURN(const std::vector<FoundGroup> groups, index_->Groups());
    ASSIGN_OR_RETURN(overlays_, index_->Overlays());
    RETURN_IF_ERROR(OpenSegments(groups));
    bool found = options_.group.empty();
    for (const FoundGroup& group : groups) {
      if (!options_.group.empty() && group.name != options_.group) continue;
      found = true;
      RETURN_IF_ERROR(AddGroup(group));
    }
    if (!found) {
      return absl::NotFoundError(
          absl::StrCat("group ", options_.group, " is not in ", options_.data_dir));
    }
    for (const FoundOverlay& overlay : overlays_) {
      if (overlay.record.ok()) continue;
      AddDamage({.message = absl::StrCat("overlay ", overlay.id.value(), ": ",
                                         overlay.record.status().message())});
    }
    return std::move(report_);
  }

 private:
  using Log = std::map<uint32_t, std::shared_ptr<Segment>>;  // by ordinal

  void AddDamage(DamageReport damage) { report_.damages.push_back(std::move(damage)); }

  absl::Status TakeLock() {
    const std::string path = absl::StrCat(options_.data_dir, "/LOCK");
    if (!file_system_.Exists(path)) return absl::OkStatus();
    auto lock = file_system_.Open(path, {.lock = true});
    if (base::ErrnoOf(lock.status()) == EROFS) return absl::OkStatus();  // nobody can be writing
    if (lock.status().code() == absl::StatusCode::kFailedPrecondition) {
      return absl::FailedPreconditionError(
          absl::StrCat("data directory ", options_.data_dir,
                       " is in use by understudyd: stop it, or look at a copy or a snapshot"));
    }
    RETURN_IF_ERROR(lock.status());
    lock_ = *std::move(lock);
    return absl::OkStatus();
  }

  absl::Status OpenSegments(const std::vector<FoundGroup>& groups) {
    std::set<uint64_t> numbers;
    bool groups_known = true;
    for (const FoundGroup& group : groups) {
      groups_known = groups_known && group.record.ok();
      if (group.record.ok()) numbers.insert(group.record->number);
    }
    ASSIGN_OR_RETURN(const std::vector<SegmentFile> files,
                     ListSegmentFiles(file_system_, absl::StrCat(options_.data_dir, "/segments")));
    for (const SegmentFile& file : files) {
      if (file.content == SegmentFile::Content::kDamaged) {
        AddDamage({.message = absl::StrCat(file.path, ": damaged segment header")});
        continue;
      }
      if (file.content == SegmentFile::Content::kBlank || !numbers.contains(file.header.group)) {
        if (file.content == SegmentFile::Content::kLog && !groups_known) continue;
        ++report_.free_segments;
        report_.free_segment_bytes += file.allocated_bytes;
        continue;
      }
      ASSIGN_OR_RETURN(auto opened, file_system_.Open(file.path, {.read_only = true}));
      segments_[{file.header.group, file.header.role}][file.header.ordinal] =
          std::make_shared<Segment>(pool_, file.number, std::move(opened), file.header, 0);
    }
    return absl::OkStatus();
  }

  absl::Status AddGroup(const FoundGroup& found) {
    GroupReport group{.name = found.name};
    if (!found.record.ok()) {
      AddDamage({.group = found.name, .message = std::string(found.record.status().message())});
      group.damaged = true;
      report_.groups.push_back(std::move(group));
      return absl::OkStatus();
    }
    group.record = *found.record;
    live_.clear();
    for (const FoundOverlay& overlay : overlays_) {
      if (overlay.record.ok() && overlay.record->group == group.record.number) {
        AddOverlay(overlay.id, *overlay.record, &group);
      }
    }
    std::sort(group.overlays.begin(), group.overlays.end(), [](const auto& a, const auto& b) {
      return std::pair(a.record.epoch, a.record.role) < std::pair(b.record.epoch, b.record.role);
    });
    CheckOverlays(group);
    for (const LogRole role : {LogRole::kHidden, LogRole::kActive}) {
      RETURN_IF_ERROR(AddLog(role, &group));
      for (const auto& [ordinal, segment] : LogOf(group, role)) AddSegment(*segment, &group);
    }
    report_.groups.push_back(std::move(group));
    return absl::OkStatus();
  }

  const Log& LogOf(const GroupReport& group, LogRole role) {
    return segments_[{group.record.number, static_cast<uint8_t>(role)}];
  }

  void AddOverlay(OverlayId id, const OverlayRecord& record, GroupReport* group) {
    OverlayReport overlay{.id = id, .record = record};
    overlay.open = id == group->record.hidden || id == group->record.active;
    const std::vector<VolumeInfo> volumes = VolumesOf(group->record);
    const Log& log = LogOf(*group, record.role);
    const auto find = [&](uint32_t ordinal) {
      const auto segment = log.find(ordinal);
      return segment == log.end() ? nullptr : segment->second;
    };
    if (const absl::Status found = SegmentsOf(record, find).status(); !found.ok()) {
      AddDamage(
          {.group = group->name, .epoch = record.epoch, .message = std::string(found.message())});
    }
    Verifier verifier(*index_, volumes, id, find,
                      options_.verify ? Verifier::Depth::kData : Verifier::Depth::kRecords);
    verifier.SetVisitor([&](const FoundExtent& extent) {
      if (options_.extents) overlay.listed.push_back(extent);
      if (!extent.extent.ok() || extent.extent->start >= extent.key.end) return;
      overlay.bytes += extent.key.end - extent.extent->start;
      if (extent.extent->zero()) return;
      live_[{record.role, extent.extent->segment}] += extent.key.end - extent.extent->start;
    });
    while (true) {
      const Verifier::Step step = verifier.Next();
      overlay.extents += step.extents;
      for (const Damage& damage : step.damages) {
        AddDamage({.group = group->name,
                   .volume = damage.volume ? volumes[damage.volume->value()].name : "",
                   .epoch = record.epoch,
                   .range = damage.range,
                   .message = std::string(damage.status.message())});
      }
      if (step.done) break;
    }
    group->overlays.push_back(std::move(overlay));
  }

  // The overlays that the group's record names, and committed epochs without a gap.
  void CheckOverlays(const GroupReport& group) {
    std::set<OverlayId> ids;
    std::set<Epoch> committed;
    for (const OverlayReport& overlay : group.overlays) {
      ids.insert(overlay.id);
      if (overlay.record.state == OverlayState::kCommitted) committed.insert(overlay.record.epoch);
    }
    for (const OverlayId id : {group.record.hidden, group.record.active}) {
      if (id == OverlayId() || ids.contains(id)) continue;
      AddDamage({.group = group.name,
                 .epoch = group.record.epoch,
                 .message = absl::StrCat("open overlay ", id.value(), " is damaged or missing")});
    }
    if (group.record.active == OverlayId()) return;
    for (Epoch epoch = group.record.applied_epoch.Next(); epoch <= group.record.committed_epoch;
         epoch = epoch.Next()) {
      if (committed.contains(epoch)) continue;
      AddDamage({.group = group.name,
                 .epoch = epoch,
                 .message = "the overlay of this committed epoch is damaged or missing"});
    }
  }

  absl::Status AddLog(LogRole role, GroupReport* group) {
    const bool used = role == LogRole::kHidden ? group->record.hidden != OverlayId()
                                               : group->record.active != OverlayId();
    if (!used) return absl::OkStatus();
    LogReport report{.role = role};
    const auto indexed = index_->Position(group->record.number, role);
    if (!indexed.ok()) {
      AddDamage({.group = group->name,
                 .message = absl::StrCat("position of the ",
                                         role == LogRole::kHidden ? "hidden" : "active",
                                         " log: ", indexed.status().message())});
      return absl::OkStatus();
    }
    report.indexed = *indexed;
    SegmentLog log(pool_, group->record.number, role);
    std::vector<std::shared_ptr<Segment>> segments;
    for (const auto& [ordinal, segment] : LogOf(*group, role)) segments.push_back(segment);
    log.Adopt(std::move(segments));
    Term newest;
    RETURN_IF_ERROR(log.RollForward(indexed->position, [&](const ReplayedFrame& frame) {
      newest = std::max(newest, Term(frame.header.term));
      return absl::OkStatus();
    }));
    if (newest > group->record.term) {
      AddDamage({.group = group->name,
                 .message = absl::StrCat("the index says term ", group->record.term.value(),
                                         ", the log says ", newest.value())});
    }
    report.behind = log.rolled_forward();
    group->logs.push_back(report);
    return absl::OkStatus();
  }

  void AddSegment(const Segment& segment, GroupReport* group) {
    const auto role = static_cast<LogRole>(segment.header().role);
    group->segments.push_back({.file = absl::StrCat(segment.ToString()),
                               .role = role,
                               .ordinal = segment.ordinal(),
                               .written_bytes = WrittenBytes(segment),
                               .live_bytes = live_[{role, segment.ordinal()}]});
  }

  const InspectOptions& options_;
  base::FileSystem& file_system_;
  SegmentPool pool_;
  std::unique_ptr<base::File> lock_;
  std::unique_ptr<Index> index_;
  std::vector<FoundOverlay> overlays_;
  std::map<std::pair<uint64_t, uint8_t>, Log> segments_;   // by group number and role
  std::map<std::pair<LogRole, uint32_t>, uint64_t> live_;  // of the group at hand, by ordinal
  InspectReport report_;
};

}  // namespace

absl::StatusOr<InspectReport> Inspect(const InspectOptions& options,
                                      base::FileSystem& file_system) {
  return Inspector(options, file_system).Run();
}

}  // namespace understudy::storage
