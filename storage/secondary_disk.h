// storage/secondary_disk.h
//
// SecondaryDisk is a volume's image on this host, a raw file or a block device, opened under its lock. While a group runs,
// only the apply and commit jobs write to it, and the VM where no overlay holds the range.
//
// Beside a regular file lies `DISK.understudy` while the file alone may be torn: it names the group and the data directory
// that belong to it. Start() writes it, DONE and Remove take it away.
//
// Threads  any.
#ifndef UNDERSTUDY_STORAGE_SECONDARY_DISK_H_
#define UNDERSTUDY_STORAGE_SECONDARY_DISK_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/file_system.h"
#include "storage/format.h"
#include "storage/replica.h"

namespace understudy::storage {

// Checks of a declaration, in the order of docs/semantics.md section 3; `data_dir` is for the default disk directory.
class DiskChecker {
 public:
  DiskChecker(base::FileSystem& file_system, std::vector<std::string> disk_dirs);

  // Fills in size and identity. Creates the file only when everything else is right. Leaves nothing behind on error.
  absl::StatusOr<VolumeRecord> Check(const VolumeSpec& spec);

 private:
  absl::StatusOr<std::string> ResolveInside(const VolumeSpec& spec);
  absl::Status Create(const std::string& path, uint64_t size_bytes);

  base::FileSystem& file_system_;
  const std::vector<std::string> disk_dirs_;
};

class SecondaryDisk {
 public:
  // Takes the lock and checks that it is the disk of `record`: kFailedPrecondition in use, or with reason WRONG_DISK.
  static absl::StatusOr<std::unique_ptr<SecondaryDisk>> Open(base::FileSystem& file_system,
                                                             const VolumeRecord& record);

  absl::Status Read(uint64_t offset, std::span<char> out) const { return file_->Read(offset, out); }
  absl::Status Write(uint64_t offset, std::span<const iovec> pieces) {
    return file_->Write(offset, pieces);
  }
  absl::Status PunchHole(ByteRange range) { return file_->PunchHole(range); }
  absl::Status Sync() { return file_->Sync(); }
  // Runs of data and holes that cover `range`.
  absl::StatusOr<std::vector<MapRun>> Map(ByteRange range) const;

  absl::Status WriteMarker(const std::string& group, const std::string& data_dir);
  absl::Status RemoveMarker();

 private:
  SecondaryDisk(base::FileSystem& file_system, std::string path, std::unique_ptr<base::File> file);

  base::FileSystem& file_system_;
  const std::string path_;
  std::unique_ptr<base::File> file_;
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_SECONDARY_DISK_H_
