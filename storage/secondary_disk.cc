#include "storage/secondary_disk.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

#include "storage/base/crc32c.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::storage {
namespace {

constexpr absl::string_view kMarkerSuffix = ".understudy";
constexpr absl::string_view kFailbackSuffix = "-failback";
constexpr absl::string_view kMarkers = "/devices";  // in the data directory
constexpr size_t kMarkerNameMax = 100;

std::string Parent(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status InUse(const std::string& path) {
  return absl::FailedPreconditionError(
      absl::StrCat("Block device is in use by internal backup job: ", path,
                   " is locked by another volume or process"));
}

// What opening or making the disk gave.
absl::Status MayNot(const VolumeSpec& spec, const absl::Status& status) {
  return Annotate(status, absl::StrCat("volume ", spec.name,
                                       absl::IsPermissionDenied(status)
                                           ? " (remedy: let the user that understudyd runs as "
                                             "read and write the disk)"
                                           : ""));
}

absl::Status CheckSize(const VolumeSpec& spec, uint64_t disk_bytes) {
  const uint64_t size = spec.size_bytes != 0 ? spec.size_bytes : disk_bytes;
  if (size == 0 || size % kSectorBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("volume ", spec.name, ": size ", size, " is not a positive multiple of 512"));
  }
  if (size == disk_bytes) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "Active disk, hidden disk, secondary disk's length are not the same: volume ", spec.name,
      " is declared with ", size, " bytes, ", spec.disk_path, " has ", disk_bytes));
}

// What it has beyond its declared length nobody has written to here.
absl::Status Grown(const VolumeRecord& record, uint64_t disk_bytes) {
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "volume ", record.name, ": ", record.disk_path, " has ", disk_bytes,
          " bytes and was declared with ", record.size_bytes,
          ": give it its length back (a file: "
          "truncate -s ",
          record.size_bytes, "), and see docs/runbooks.md, \"Grow a disk, add a disk\"")),
      kReasonWrongDisk);
}

// A file that tells something of a disk. It lies beside the disk; in the data directory for a device, beside which there is nothing that
// lasts, and for a file in whose directory nothing can be made.
class Note {
 public:
  Note(base::FileSystem& file_system, const std::string& disk_path,
       const base::FileIdentity& identity, const std::string& data_dir,
       absl::string_view suffix = "")
      : file_system_(file_system), data_dir_(data_dir) {
    // By what names a device, so that it is found by whatever path the device is named.
    if (!identity.device()) paths_.push_back(absl::StrCat(disk_path, kMarkerSuffix, suffix));
    const std::string id = identity.device()
                               ? absl::StrCat(identity.file_system, " ", identity.inode)
                               : absl::StrCat("file ", disk_path);
    paths_.push_back(absl::StrCat(data_dir, kMarkers, "/", NameOf(id), kMarkerSuffix, suffix));
  }

  // Where it lies if it can.
  const std::string& path() const { return paths_.front(); }
  // Where it lies; both, when it could not be replaced in the first any more. One that was emptied
  // is none, one that cannot be read is there.
  std::vector<std::string> Found() const {
    std::vector<std::string> found;
    for (const std::string& path : paths_) {
      if (!file_system_.Exists(path)) continue;
      const auto text = file_system_.ReadWholeFile(path);
      if (!text.ok() || !text->empty()) found.push_back(path);
    }
    return found;
  }
  // One text for each of Found(); empty: it cannot be read.
  std::vector<std::string> Texts() const {
    std::vector<std::string> texts;
    for (const std::string& path : Found()) {
      texts.push_back(file_system_.ReadWholeFile(path).value_or(""));
    }
    return texts;
  }
  // `first`: of a life of the group. What an earlier one has left beside the disk must go then;
  // else it may stay, and of the two the one in the data directory is newer.
  absl::Status Write(absl::string_view text, bool first) const {
    if (path() != inside()) {
      const absl::Status beside = file_system_.WriteFileAtomically(path(), text);
      if (beside.ok()) return Erase(inside());
      if (!absl::IsPermissionDenied(beside)) return beside;
      if (first) RETURN_IF_ERROR(EraseEarlier());
    }
    return WriteInside(text);
  }
  absl::Status WriteInside(absl::string_view text) const {
    RETURN_IF_ERROR(file_system_.CreateDirectory(absl::StrCat(data_dir_, kMarkers)));
    RETURN_IF_ERROR(file_system_.SyncDirectory(data_dir_));
    return file_system_.WriteFileAtomically(inside(), text);
  }
  // All of Found(), durably; the first error.
  absl::Status Remove() const {
    absl::Status removed;
    for (const std::string& path : paths_) removed.Update(Erase(path));
    return removed;
  }

 private:
  const std::string& inside() const { return paths_.back(); }

  absl::Status EraseEarlier() const {
    const absl::Status erased = Erase(path());
    if (erased.ok()) return erased;
    return absl::FailedPreconditionError(absl::StrCat(
        path(), " is of an earlier life of the disk and can be neither replaced nor removed (",
        erased.message(), "): make sure that no other data directory needs the disk, and remove ",
        "the file, as root if need be"));
  }
  // Empties it where it cannot be removed: a file may be writable though its directory is not.
  absl::Status Erase(const std::string& path) const {
    if (!file_system_.Exists(path)) return absl::OkStatus();
    const auto file = file_system_.Open(path, {});
    const bool is_link = file_system_.Resolve(path).value_or("") != path;
    absl::Status erased = file_system_.Remove(path);
    if (erased.ok()) erased = file_system_.SyncDirectory(Parent(path));
    if (erased.ok() || !file.ok() || is_link) return erased;
    absl::Status emptied = (*file)->Truncate(0);
    if (emptied.ok()) emptied = (*file)->Sync();
    return emptied.ok() ? emptied : erased;
  }

  // For people to recognise, and a CRC for what that leaves out.
  static std::string NameOf(const std::string& id) {
    std::string name = id.substr(0, kMarkerNameMax);
    for (char& c : name) {
      if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '.') c = '-';
    }
    return absl::StrCat(name, "-", absl::Hex(base::Crc32c(id.data(), id.size())));
  }

  base::FileSystem& file_system_;
  const std::string data_dir_;
  std::vector<std::string> paths_;
};

// For people.
std::string MarkerText(const std::string& group, const std::string& data_dir) {
  return absl::StrCat(
      "This disk is the standby of group ", group,
      ". Until that group is DONE, it is whole only together with the data directory\n", data_dir,
      "\nDo not use or copy it alone.\n");
}

constexpr absl::string_view kTermWord = "term ";
constexpr absl::string_view kVolumeWord = "volume ";

// The check tells a damaged line, which says nothing, from another one.
std::string CheckedLine(const std::string& text) {
  return absl::StrCat(text, " check ", absl::Hex(base::Crc32c(text.data(), text.size())), "\n");
}

// The words of the last line that begins with `word`; empty: there is none, or it is damaged.
std::vector<std::string> WordsOfLine(const std::string& marker, absl::string_view word) {
  const size_t start = marker.rfind(absl::StrCat("\n", word));
  if (start == std::string::npos) return {};
  const std::string line = marker.substr(start + 1, marker.find('\n', start + 1) - start);
  if (line != CheckedLine(line.substr(0, line.rfind(" check ")))) return {};
  return absl::StrSplit(line, ' ');
}

// For CheckMarker().
std::string TermLine(const std::string& group, Term term) {
  return CheckedLine(absl::StrCat(kTermWord, term.value(), " of ", group));
}

std::optional<Term> TermIn(const std::string& marker, const std::string& group) {
  const std::vector<std::string> words = WordsOfLine(marker, kTermWord);
  uint64_t term = 0;
  if (words.size() != 6 || !absl::SimpleAtoi(words[1], &term) || words[3] != group) {
    return std::nullopt;
  }
  return Term(term);
}

// For Open().
std::string VolumeLine(const std::string& volume, const base::FileIdentity& identity) {
  return CheckedLine(absl::StrCat(kVolumeWord, volume, " inode ", identity.inode, " generation ",
                                  identity.generation));
}

enum class Marked : uint8_t { kNotForGroup, kForGroup, kForThisFile, kForAnotherFile };

// What the marker says of the regular file `found`, the disk of `volume`. kForGroup: an earlier release
// wrote it, or it is damaged.
Marked MarkedAs(base::FileSystem& file_system, const GroupRecord& group, const VolumeRecord& volume,
                const base::FileIdentity& found, const std::string& data_dir) {
  const bool has_one = group.stage != Stage::kNone && group.stage != Stage::kDone;
  if (!has_one) return Marked::kNotForGroup;
  std::string marker;  // of two, the one in the data directory is newer
  for (const std::string& text : Note(file_system, volume.disk_path, found, data_dir).Texts()) {
    if (absl::StartsWith(text, MarkerText(group.name, data_dir))) marker = text;
  }
  if (marker.empty()) return Marked::kNotForGroup;
  const std::vector<std::string> words = WordsOfLine(marker, kVolumeWord);
  uint32_t generation = 0;
  if (words.size() != 8 || !absl::SimpleAtoi(words[5], &generation)) return Marked::kForGroup;
  const bool same_generation =
      generation == 0 || found.generation == 0 || generation == found.generation;
  const bool same =
      words[1] == volume.name && words[3] == absl::StrCat(found.inode) && same_generation;
  return same ? Marked::kForThisFile : Marked::kForAnotherFile;
}

// Of two disks of a group that change places inode and length may be equal: the first files of two
// file systems are so.
bool OnlyOneLikeIt(const GroupRecord& group, const VolumeRecord& volume) {
  return std::count_if(group.volumes.begin(), group.volumes.end(), [&](const VolumeRecord& other) {
           return other.identity.inode == volume.identity.inode &&
                  other.size_bytes == volume.size_bytes;
         }) == 1;
}

bool IsDiskOf(const GroupRecord& group, const VolumeRecord& volume, const base::FileIdentity& found,
              Marked marked) {
  const base::FileIdentity& known = volume.identity;
  if (known.device() || found.device()) return known == found;
  if (known.inode != found.inode) return false;
  const bool named_so =
      known.file_system == found.file_system || known.file_system == found.former_file_system;
  switch (marked) {
    case Marked::kForThisFile:
      return true;
    case Marked::kForAnotherFile:
      return false;
    case Marked::kForGroup:
      // An earlier release knew the file system by a number that has become another one.
      return named_so ||
             (found.file_system != found.former_file_system && OnlyOneLikeIt(group, volume));
    case Marked::kNotForGroup:
      return named_so;
  }
  return false;
}

}  // namespace

DiskChecker::DiskChecker(base::FileSystem& file_system, std::vector<std::string> disk_dirs)
    : file_system_(file_system), disk_dirs_(std::move(disk_dirs)) {}

absl::StatusOr<std::string> DiskChecker::ResolveInside(const VolumeSpec& spec) {
  if (spec.disk_path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("volume ", spec.name, ": missing the secondary disk: give disk=PATH"));
  }
  std::string resolved;
  if (const auto whole = file_system_.Resolve(spec.disk_path); whole.ok()) {
    resolved = *whole;
  } else {  // the file itself may be missing: then its directory counts
    const auto parent = file_system_.Resolve(Parent(spec.disk_path));
    const std::string directory = parent.ok() ? *parent : Parent(spec.disk_path);
    const size_t slash = spec.disk_path.rfind('/');
    resolved = absl::StrCat(
        directory, "/",
        slash == std::string::npos ? spec.disk_path : spec.disk_path.substr(slash + 1));
  }
  for (const std::string& allowed : disk_dirs_) {
    const auto directory = file_system_.Resolve(allowed);
    if (directory.ok() &&
        absl::StartsWith(resolved, *directory == "/" ? "/" : absl::StrCat(*directory, "/"))) {
      return resolved;
    }
  }
  return absl::PermissionDeniedError(absl::StrCat(
      "volume ", spec.name, ": ", spec.disk_path, " is outside every --disk-dir (",
      absl::StrJoin(disk_dirs_, ", "), "): move the disk or start understudyd with --disk-dir"));
}

absl::Status DiskChecker::Create(const std::string& path, uint64_t size_bytes) {
  absl::Status made;
  {
    ASSIGN_OR_RETURN(const auto file, file_system_.Open(path, {.create = true, .exclusive = true}));
    made = file->Truncate(size_bytes);
    if (made.ok()) made = file->Sync();
  }
  if (made.ok()) made = file_system_.SyncDirectory(Parent(path));
  if (!made.ok()) file_system_.Remove(path).IgnoreError();
  return made;
}

absl::StatusOr<VolumeRecord> DiskChecker::Check(
    const VolumeSpec& spec, absl::FunctionRef<absl::Status(const VolumeRecord&)> unused) {
  ASSIGN_OR_RETURN(const std::string path, ResolveInside(spec));
  VolumeRecord record{.name = spec.name,
                      .top_id = spec.top_id,
                      .disk_path = path,
                      .size_bytes = spec.size_bytes,
                      .initial = spec.create ? Initial::kSync : spec.initial};
  if (!file_system_.Exists(path)) {
    if (!spec.create) {
      return absl::NotFoundError(absl::StrCat("volume ", spec.name, ": secondary disk ", path,
                                              " does not exist: make it, or add 'create'"));
    }
    RETURN_IF_ERROR(CheckSize(spec, spec.size_bytes));
    RETURN_IF_ERROR(MayNot(spec, Create(path, spec.size_bytes)));
  }
  absl::StatusOr<std::unique_ptr<base::File>> file = file_system_.Open(path, {.lock = true});
  if (file.status().code() == absl::StatusCode::kFailedPrecondition) return InUse(path);
  RETURN_IF_ERROR(MayNot(spec, file.status()));
  ASSIGN_OR_RETURN(record.identity, (*file)->Identity());
  RETURN_IF_ERROR(unused(record));
  ASSIGN_OR_RETURN(const uint64_t disk_bytes, (*file)->Size());
  RETURN_IF_ERROR(CheckSize(spec, disk_bytes));
  record.size_bytes = disk_bytes;
  // A link of /dev/disk goes on leading to the same disk when the kernel numbers it anew.
  if (record.identity.device() && absl::StartsWith(spec.disk_path, "/")) {
    record.disk_path = spec.disk_path;
  }
  return record;
}

SecondaryDisk::SecondaryDisk(base::FileSystem& file_system, const VolumeRecord& volume,
                             base::FileIdentity identity, std::unique_ptr<base::File> file)
    : file_system_(file_system),
      volume_(volume.name),
      path_(volume.disk_path),
      identity_(std::move(identity)),
      size_bytes_(volume.size_bytes),
      file_(std::move(file)) {}

absl::StatusOr<std::unique_ptr<SecondaryDisk>> SecondaryDisk::Open(base::FileSystem& file_system,
                                                                   const GroupRecord& group,
                                                                   const VolumeRecord& volume,
                                                                   const std::string& data_dir) {
  absl::StatusOr<std::unique_ptr<base::File>> opened =
      file_system.Open(volume.disk_path, {.lock = true});
  if (opened.status().code() == absl::StatusCode::kFailedPrecondition)
    return InUse(volume.disk_path);
  RETURN_IF_ERROR(Annotate(opened.status(), absl::StrCat("volume ", volume.name)));
  ASSIGN_OR_RETURN(base::FileIdentity found, (*opened)->Identity());
  ASSIGN_OR_RETURN(const uint64_t size_bytes, (*opened)->Size());
  const Marked marked = MarkedAs(file_system, group, volume, found, data_dir);
  const bool known = IsDiskOf(group, volume, found, marked);
  if (known && size_bytes > volume.size_bytes) return Grown(volume, size_bytes);
  if (!known || size_bytes != volume.size_bytes) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat("volume ", volume.name, ": ", volume.disk_path,
                                       " is not the disk that was declared (file system, inode or "
                                       "length differ, or the marker "
                                       "beside it names another file): put the old one back")),
                      kReasonWrongDisk);
  }
  return std::unique_ptr<SecondaryDisk>(
      new SecondaryDisk(file_system, volume, std::move(found), *std::move(opened)));
}

absl::Status SecondaryDisk::SyncFile() {
  base::Turn::Hold sync_turn(sync_turn_);
  const bool of_the_vm = vm_unsynced_.exchange(false);
  const absl::Status synced = file_->Sync();
  if (synced.ok()) return synced;
  if (of_the_vm || vm_unsynced_.load()) LoseVmWrites(synced);
  base::MutexLock lock(mutex_);
  job_writes_lost_ = synced;
  return synced;
}

void SecondaryDisk::LoseVmWrites(const absl::Status& status) {
  base::LogError("vm_writes_lost").With("disk", path_).With("status", status);
  base::MutexLock lock(mutex_);
  vm_writes_lost_ = Annotate(
      status,
      absl::StrCat("writes of the VM to ", path_,
                   " were lost in a sync; check its file systems, then restart the service"));
}

// To wait asks the kernel for errors as a sync does.
absl::Status SecondaryDisk::WriteBack(ByteRange range, bool wait) {
  if (!wait) return file_->WriteBack(range, wait);
  base::Turn::Hold sync_turn(sync_turn_);
  const absl::Status written = file_->WriteBack(range, wait);
  if (!written.ok() && vm_unsynced_.load()) LoseVmWrites(written);
  return written;
}

absl::Status SecondaryDisk::Sync() {
  SyncFile().IgnoreError();  // is in job_writes_lost_
  base::MutexLock lock(mutex_);
  return std::exchange(job_writes_lost_, absl::OkStatus());
}

absl::Status SecondaryDisk::Flush() {
  const absl::Status synced = SyncFile();
  base::MutexLock lock(mutex_);
  return vm_writes_lost_.ok() ? synced : vm_writes_lost_;
}

absl::Status SecondaryDisk::lost_vm_writes() const {
  base::MutexLock lock(mutex_);
  return vm_writes_lost_;
}

uint64_t SecondaryDisk::HoleBytes(const base::FileIdentity& beside) const {
  // Of a mount in two places the former name is one. It is good until a reboot.
  const bool same = identity_.file_system == beside.file_system ||
                    identity_.former_file_system == beside.former_file_system;
  if (identity_.device() || !same) return 0;
  const auto allocated = file_->AllocatedBytes();
  if (!allocated.ok()) return 0;
  return size_bytes_ - std::min(size_bytes_, *allocated);
}

absl::StatusOr<bool> SecondaryDisk::Clone(const base::File& source, uint64_t source_offset,
                                          ByteRange range) {
  const absl::Status cloned = file_->CloneFrom(source, source_offset, range.start, range.size());
  if (cloned.ok()) return true;
  if (cloned.code() != absl::StatusCode::kUnimplemented) return cloned;
  can_clone_.store(false, std::memory_order_relaxed);
  return false;
}

absl::StatusOr<bool> SecondaryDisk::IsHole(ByteRange range) const {
  ASSIGN_OR_RETURN(const uint64_t hole_end, HoleEnd(range));
  return hole_end == range.end;
}

absl::StatusOr<uint64_t> SecondaryDisk::HoleEnd(ByteRange range) const {
  ASSIGN_OR_RETURN(const uint64_t data, file_->NextDataStart(range.start));
  return std::clamp(data, range.start, range.end);
}

absl::StatusOr<bool> SecondaryDisk::AddRuns(ByteRange range, BlockRuns& runs) const {
  return runs.AddFile(*file_, range);
}

absl::Status SecondaryDisk::WriteMarker(const std::string& group, const std::string& data_dir,
                                        Term term, bool first) {
  std::string text = MarkerText(group, data_dir);
  if (identity_.device()) {
    absl::StrAppend(&text, "It is ", path_, ", ", identity_.file_system, "\n");
  } else {
    absl::StrAppend(&text, VolumeLine(volume_, identity_));
  }
  return Annotate(Note(file_system_, path_, identity_, data_dir)
                      .Write(absl::StrCat(text, TermLine(group, term)), first),
                  absl::StrCat("volume ", group, "/", volume_));
}

absl::Status SecondaryDisk::TrustFailback(const std::string& data_dir,
                                          const Incarnation& incarnation) {
  return Note(file_system_, path_, identity_, data_dir, kFailbackSuffix)
      .Write(absl::StrCat(incarnation.ToHex(), "\n"), /*first=*/true);
}

absl::Status SecondaryDisk::DistrustFailback(const std::string& data_dir) {
  const Note note(file_system_, path_, identity_, data_dir, kFailbackSuffix);
  const absl::Status removed = note.Remove();
  // What can be neither removed nor emptied is contradicted.
  return (removed.ok() || note.WriteInside("lost\n").ok()) ? absl::OkStatus() : removed;
}

bool SecondaryDisk::FailbackTrusted(base::FileSystem& file_system, const VolumeRecord& disk,
                                    const std::string& data_dir, const Incarnation& incarnation) {
  const std::string trusted = absl::StrCat(incarnation.ToHex(), "\n");
  const std::vector<std::string> texts =
      Note(file_system, disk.disk_path, disk.identity, data_dir, kFailbackSuffix).Texts();
  return !texts.empty() &&
         std::all_of(texts.begin(), texts.end(), [&](const auto& text) { return text == trusted; });
}

absl::Status SecondaryDisk::CheckMarker(base::FileSystem& file_system, const VolumeRecord& disk,
                                        const std::string& group, const std::string& data_dir,
                                        Term term) {
  const Note marker(file_system, disk.disk_path, disk.identity, data_dir);
  const std::vector<std::string> found = marker.Found();
  if (found.empty()) {
    const auto file = file_system.Open(disk.disk_path, {.read_only = true});
    if (!file.ok() || (*file)->IsBlockDevice() != disk.identity.device()) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat(marker.path(), " is missing: replication to ", disk.disk_path,
                     " has ended since this data directory was written, which is an older copy"));
  }
  for (const std::string& path : found) {
    const auto text = file_system.ReadWholeFile(path);
    if (!text.ok()) continue;
    const std::optional<Term> seen = TermIn(*text, group);
    if (!seen.has_value() || *seen <= term) continue;
    return absl::DataLossError(absl::StrCat(path, " says term ", seen->value(),
                                            ", the data directory says ", term.value(),
                                            ": the data directory is an older copy"));
  }
  return absl::OkStatus();
}

bool SecondaryDisk::MarkedFor(base::FileSystem& file_system, const VolumeRecord& disk,
                              const std::string& group, const std::string& data_dir) {
  const std::string ours = MarkerText(group, data_dir);
  const std::vector<std::string> texts =
      Note(file_system, disk.disk_path, disk.identity, data_dir).Texts();
  return std::any_of(texts.begin(), texts.end(),
                     [&](const auto& text) { return absl::StartsWith(text, ours); });
}

absl::Status SecondaryDisk::RemoveMarker(const std::string& data_dir) {
  return Note(file_system_, path_, identity_, data_dir).Remove();
}

}  // namespace understudy::storage
