// The markers of the group's disks: what tells a data directory that has missed a part of their life.
#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {

// So that an older copy of the data directory is known for what it is. A marker that is behind the index says nothing wrong.
// Not under commit_turn_: a failover waits for no disk.
void ReplicaImpl::MarkDisks() {
  base::Turn::Hold marker_turn(marker_turn_);
  const GroupRecord record = this->record();
  if (record.stage == Stage::kNone || record.stage == Stage::kDone) return;
  const std::shared_ptr<const Chain> chain = this->chain();  // a checkpoint may publish another
  for (const auto& disk : chain->disks) {
    if (disk == nullptr) continue;
    const absl::Status marked =
        disk->WriteMarker(name_, context_.options.data_dir, record.term, /*first=*/false);
    if (marked.ok()) continue;
    base::LogWarning("disk_not_marked").With("group", name_).With("status", marked);
  }
}

// Of all disks or of none.
absl::Status ReplicaImpl::MarkDisksFirst(const Chain& chain, Term term) {
  const std::string& data_dir = context_.options.data_dir;
  for (size_t i = 0; i < chain.disks.size(); ++i) {
    const absl::Status marked = chain.disks[i]->WriteMarker(name_, data_dir, term, /*first=*/true);
    if (marked.ok()) continue;
    while (i-- > 0) chain.disks[i]->RemoveMarker(data_dir).IgnoreError();
    return marked;
  }
  return absl::OkStatus();
}

// The life of the group has ended all the same: what stays is told, and keeps the next one from
// starting until somebody has removed it.
void ReplicaImpl::UnmarkDisks(const Chain& chain) {
  base::Turn::Hold marker_turn(marker_turn_);
  for (const VolumeInfo& volume : volumes_) {
    const auto& disk = chain.disks[volume.id.value()];
    if (disk == nullptr) continue;
    const absl::Status removed = disk->RemoveMarker(context_.options.data_dir);
    if (removed.ok()) continue;
    Report({.operation = "marker",
            .volume = volume.id,
            .status = Annotate(
                removed, absl::StrCat("volume ", name_, "/", volume.name,
                                      ": the marker of its disk stays, though the group's life has "
                                      "ended: remove it, as root if need be"))});
  }
}

// That no disk has seen a later life of the group: an agent or a view of before must not come back with an older copy of the data
// directory.
absl::Status ReplicaImpl::CheckMarkers() const {
  const GroupRecord record = this->record();
  if (record.stage == Stage::kNone || record.stage == Stage::kDone) return absl::OkStatus();
  for (const VolumeRecord& volume : record.volumes) {
    RETURN_IF_ERROR(SecondaryDisk::CheckMarker(context_.file_system, volume, name_,
                                               context_.options.data_dir, record.term));
  }
  return absl::OkStatus();
}

}  // namespace understudy::storage
