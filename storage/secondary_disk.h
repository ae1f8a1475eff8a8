// storage/secondary_disk.h
//
// SecondaryDisk is a volume's image on this host, a raw file or a block device, opened under its lock. While a group runs,
// only the apply and commit jobs write to it, and the VM where no overlay holds the range.
//
// Beside a regular file lies `DISK.understudy` while the file alone may be torn: it names group,
// data directory and volume that belong to it, and says which file it is. Start() writes it, DONE
// and Remove take it away. That of a device lies in the data directory, below devices/: beside the
// device there is nothing that lasts. So does that of a file in whose directory the service may
// make nothing.
//
// Threads  any.
#ifndef UNDERSTUDY_STORAGE_SECONDARY_DISK_H_
#define UNDERSTUDY_STORAGE_SECONDARY_DISK_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/block_runs.h"
#include "storage/base/file_system.h"
#include "storage/base/mutex.h"
#include "storage/base/turn.h"
#include "storage/format.h"
#include "storage/replica.h"

namespace understudy::storage {

// Checks of a declaration, in the order of docs/semantics.md section 3; `data_dir` is for the default disk directory.
class DiskChecker {
 public:
  DiskChecker(base::FileSystem& file_system, std::vector<std::string> disk_dirs);

  // Fills in size and identity. `unused` says whether another volume has the disk: it is asked once path and identity are
  // known and the lock was free. Creates the file only when everything else is right. Leaves nothing behind on error.
  absl::StatusOr<VolumeRecord> Check(const VolumeSpec& spec,
                                     absl::FunctionRef<absl::Status(const VolumeRecord&)> unused);

 private:
  absl::StatusOr<std::string> ResolveInside(const VolumeSpec& spec);
  absl::Status Create(const std::string& path, uint64_t size_bytes);

  base::FileSystem& file_system_;
  const std::vector<std::string> disk_dirs_;
};

class SecondaryDisk {
 public:
  // Takes the lock and checks that it is the disk of `volume`, which is one of `group`:
  // kFailedPrecondition in use, or with reason WRONG_DISK. A regular file whose file system has
  // another name than it had is the disk if its marker agrees; identity() is not the record's then.
  static absl::StatusOr<std::unique_ptr<SecondaryDisk>> Open(base::FileSystem& file_system,
                                                             const GroupRecord& group,
                                                             const VolumeRecord& volume,
                                                             const std::string& data_dir);
  const base::FileIdentity& identity() const { return identity_; }

  absl::Status Read(uint64_t offset, std::span<char> out) const { return file_->Read(offset, out); }
  absl::Status Write(uint64_t offset, std::span<const iovec> pieces) {
    return file_->Write(offset, pieces);
  }
  absl::Status PunchHole(ByteRange range) { return file_->PunchHole(range); }
  absl::Status ZeroRange(ByteRange range) { return file_->ZeroRange(range); }
  // Shares `range` with `source`: see File::CloneFrom. False, with nothing changed, when it cannot; then it is not tried again.
  absl::StatusOr<bool> Clone(const base::File& source, uint64_t source_offset, ByteRange range);
  bool can_clone() const { return can_clone_.load(std::memory_order_relaxed); }
  absl::StatusOr<bool> IsHole(ByteRange range) const;
  // Where the first data of `range` lies; its end when there is none.
  absl::StatusOr<uint64_t> HoleEnd(ByteRange range) const;
  absl::Status WriteBack(ByteRange range, bool wait);
  // What the kernel loses it tells once, whoever asks first; it holds it for written from then on. So a failed sync fails both:
  //   Sync()   for a job, the next one: the job copies again what it has written since the last one
  //   Flush()  for the VM, all of them until the disk is opened again, if a write of the VM was not flushed
  absl::Status Sync();
  absl::Status Flush();
  // What Flush() answers for ever now; OK: nothing of the VM was lost.
  absl::Status lost_vm_writes() const;
  // Before and after each write of the VM.
  void NoteVmWrite() { vm_unsynced_.store(true); }
  // What the file may still grow by, if it is one on the file system of `beside`. One system call:
  // every new segment of any group asks every disk.
  uint64_t HoleBytes(const base::FileIdentity& beside) const;
  // What of `range` is data and what holes; false: `runs` has enough.
  absl::StatusOr<bool> AddRuns(ByteRange range, BlockRuns& runs) const;

  // Whether the marker of `disk` is one that WriteMarker() writes for this group.
  static bool MarkedFor(base::FileSystem& file_system, const VolumeRecord& disk,
                        const std::string& group, const std::string& data_dir);
  // Durable. `first`: of a life of the group, at Start. kFailedPrecondition then, with nothing
  // changed, where one of an earlier life stays beside the disk: it can be neither replaced,
  // removed nor emptied. It would be read beside this one, and may say more.
  absl::Status WriteMarker(const std::string& group, const std::string& data_dir, Term term,
                           bool first);
  // A file beside the marker, of one incarnation of the group: as long as it is there, and no other
  // says otherwise, the index has the failback map whole. A map that loses a mark loses the file,
  // which takes no space: what filled the file system or broke the index does not keep it from
  // that. A file that can be neither removed nor emptied is contradicted by another in the data
  // directory.
  absl::Status TrustFailback(const std::string& data_dir, const Incarnation& incarnation);
  absl::Status DistrustFailback(const std::string& data_dir);
  static bool FailbackTrusted(base::FileSystem& file_system, const VolumeRecord& disk,
                              const std::string& data_dir, const Incarnation& incarnation);
  // kDataLoss when the disk has seen a later life of its group than `term`: a higher one, or its end. Then the data directory is an
  // older copy; of a device: its index is, since an older copy of all of it brings an older marker along. For a group that is
  // RUNNING or has failed over.
  static absl::Status CheckMarker(base::FileSystem& file_system, const VolumeRecord& disk,
                                  const std::string& group, const std::string& data_dir, Term term);
  // Durable. Empties it where it cannot be removed.
  absl::Status RemoveMarker(const std::string& data_dir);

 private:
  SecondaryDisk(base::FileSystem& file_system, const VolumeRecord& volume,
                base::FileIdentity identity, std::unique_ptr<base::File> file);
  absl::Status SyncFile();
  void LoseVmWrites(const absl::Status& status);

  base::FileSystem& file_system_;
  const std::string volume_;  // its name
  const std::string path_;
  const base::FileIdentity identity_;  // as it was found
  const uint64_t size_bytes_;
  std::unique_ptr<base::File> file_;
  std::atomic<bool> can_clone_ = true;  // as far as is known
  base::Turn sync_turn_;                // one at a time: the kernel would tell only one of them
  std::atomic<bool> vm_unsynced_ = false;
  mutable base::Mutex mutex_;
  absl::Status vm_writes_lost_ ABSL_GUARDED_BY(mutex_);
  absl::Status job_writes_lost_ ABSL_GUARDED_BY(mutex_);  // and no job has been told
};

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_SECONDARY_DISK_H_
