#include "storage/segment_pool.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace understudy::storage {
namespace {
constexpr absl::string_view kSuffix = ".seg";
// Kept free for the index: a RocksDB whose own log met a full disk cannot go on, and a failover needs it. Less on a small file system.
constexpr uint64_t kIndexReserveBytes = 256 << 20;
constexpr uint64_t kIndexReserveShare = 8;  // at most this part of the capacity

// Fills `header` in when the content is kLog. A header is 40 bytes of one sector: no crash leaves half of it.
SegmentFile::Content ReadSegmentHeader(const base::File& file, SegmentHeader* header) {
  SegmentHeader found;
  const auto bytes = std::span(reinterpret_cast<char*>(&found), sizeof(found));
  const absl::Status read = file.Read(0, bytes);
  if (read.code() == absl::StatusCode::kOutOfRange) return SegmentFile::Content::kBlank;
  if (!read.ok()) return SegmentFile::Content::kDamaged;
  if (SegmentHeaderValid(found)) {
    *header = found;
    return SegmentFile::Content::kLog;
  }
  const bool blank = std::all_of(bytes.begin(), bytes.end(), [](char byte) { return byte == 0; });
  return blank ? SegmentFile::Content::kBlank : SegmentFile::Content::kDamaged;
}

}  // namespace

absl::StatusOr<std::vector<SegmentFile>> ListSegmentFiles(base::FileSystem& file_system,
                                                          const std::string& directory) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, file_system.List(directory));
  std::vector<SegmentFile> files;
  for (const std::string& name : names) {
    SegmentFile found{.path = absl::StrCat(directory, "/", name)};
    if (!absl::EndsWith(name, kSuffix) ||
        !absl::SimpleHexAtoi(name.substr(0, name.size() - kSuffix.size()), &found.number)) {
      continue;
    }
    ASSIGN_OR_RETURN(const auto file, file_system.Open(found.path, {.read_only = true}));
    found.allocated_bytes = file->AllocatedBytes().value_or(0);
    found.content = ReadSegmentHeader(*file, &found.header);
    if (found.header.version > kSegmentVersion) {
      return absl::FailedPreconditionError(absl::StrCat(
          found.path, " has format version ", found.header.version, ", this program knows up to ",
          kSegmentVersion, ": use the newer release that wrote it; nothing was touched"));
    }
    files.push_back(std::move(found));
  }
  return files;
}

Segment::Segment(SegmentPool& pool, uint64_t number, std::unique_ptr<base::File> file,
                 const SegmentHeader& header, uint64_t written_bytes)
    : pool_(pool),
      number_(number),
      file_(std::move(file)),
      header_(header),
      group_usage_(pool.GroupUsage(header.group)) {
  AddWritten(written_bytes);
}

Segment::~Segment() {
  group_usage_->fetch_sub(written_bytes());
  pool_.usage_.fetch_sub(written_bytes());
  pool_.Recycle(number_, std::move(file_));
}

void Segment::AddWritten(uint64_t bytes) {
  written_bytes_.fetch_add(bytes);
  group_usage_->fetch_add(bytes);
  pool_.usage_.fetch_add(bytes);
}

absl::Status Segment::ReadChecksums(uint64_t position, std::span<uint32_t> out) const {
  RETURN_IF_ERROR(
      file_->Read(position, std::span(reinterpret_cast<char*>(out.data()), out.size_bytes())));
  for (uint32_t& checksum : out) checksum ^= header_.checksum_mask();
  return absl::OkStatus();
}

std::string Segment::ToString() const {
  return absl::StrFormat("segment %d (file %016x%s)", header_.ordinal, number_, kSuffix);
}

SegmentPool::SegmentPool(base::FileSystem& file_system, std::string directory,
                         uint64_t segment_bytes, uint64_t free_bytes_max, uint64_t seed)
    : file_system_(file_system),
      directory_(std::move(directory)),
      segment_bytes_(segment_bytes),
      free_bytes_max_(free_bytes_max),
      random_(std::mt19937_64(seed)) {}

std::string SegmentPool::Path(uint64_t number) const {
  return absl::StrFormat("%s/%016x%s", directory_, number, kSuffix);
}

absl::StatusOr<std::vector<SegmentFile>> SegmentPool::Scan() {
  ASSIGN_OR_RETURN(const std::vector<SegmentFile> files,
                   ListSegmentFiles(file_system_, directory_));
  std::vector<SegmentFile> sound;
  for (const SegmentFile& file : files) {
    {
      base::MutexLock lock(mutex_);
      next_number_ = std::max(next_number_, file.number + 1);
    }
    if (file.content != SegmentFile::Content::kDamaged) {
      sound.push_back(file);
      continue;
    }
    base::LogError("segment_damaged")
        .With("file", file.path)
        .With("consequence",
              "left alone; a group that misses it says so: remove the file when none does");
  }
  return sound;
}

absl::StatusOr<std::shared_ptr<Segment>> SegmentPool::Adopt(const SegmentFile& found) {
  ASSIGN_OR_RETURN(auto file, file_system_.Open(found.path, {}));
  return std::make_shared<Segment>(*this, found.number, std::move(file), found.header,
                                   found.allocated_bytes);
}

void SegmentPool::Release(const SegmentFile& found) {
  AddFree(found.number, found.allocated_bytes);
}

absl::Status SegmentPool::CheckRoom() const {
  uint64_t more_bytes = segment_bytes_;
  {
    base::MutexLock lock(mutex_);
    if (!free_.empty()) more_bytes -= std::min(more_bytes, free_.back().allocated_bytes);
  }
  ASSIGN_OR_RETURN(const base::FileSystemSpace space, file_system_.Space(directory_));
  const uint64_t index = std::min(kIndexReserveBytes, space.capacity_bytes / kIndexReserveShare);
  const uint64_t disks = reserve_ ? reserve_() : 0;
  if (more_bytes == 0 || space.free_bytes >= more_bytes + index + disks) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "%s: %d bytes are free; a segment needs %d, %d are kept for the index and %d for sparse "
      "secondary disks on the same file system: make room, move the data directory to a larger "
      "file system, or give up the last with --reserve-disk-space=false",
      directory_, space.free_bytes, more_bytes, index, disks));
}

absl::StatusOr<std::unique_ptr<base::File>> SegmentPool::OpenFreeOrNew(uint64_t* number) {
  RETURN_IF_ERROR(CheckRoom());
  {
    base::MutexLock lock(mutex_);
    if (!free_.empty()) {
      *number = free_.back().number;
      free_bytes_ -= free_.back().allocated_bytes;
      free_.pop_back();
    } else {
      *number = 0;
    }
  }
  if (*number != 0) return file_system_.Open(Path(*number), {});
  {
    base::MutexLock lock(mutex_);
    *number = next_number_++;
  }
  ASSIGN_OR_RETURN(auto file,
                   file_system_.Open(Path(*number), {.create = true, .exclusive = true}));
  RETURN_IF_ERROR(file_system_.SyncDirectory(directory_));
  return file;
}

absl::StatusOr<std::shared_ptr<Segment>> SegmentPool::Take(uint64_t group, LogRole role,
                                                           uint32_t ordinal) {
  uint64_t number = 0;
  ASSIGN_OR_RETURN(auto file, OpenFreeOrNew(&number));
  SegmentHeader header;
  header.ordinal = ordinal;
  header.group = group;
  header.role = static_cast<uint8_t>(role);
  {
    base::MutexLock lock(mutex_);
    header.incarnation = random_();
  }
  SealSegmentHeader(header);
  std::string block(kBlockBytes, '\0');
  std::memcpy(block.data(), &header, sizeof(header));
  absl::Status written = file->Write(0, block);
  if (written.ok()) written = file->Sync();
  if (!written.ok()) {
    AddFree(number, file->AllocatedBytes().value_or(0));
    return Annotate(written, "new segment");
  }
  return std::make_shared<Segment>(*this, number, std::move(file), header, kBlockBytes);
}

void SegmentPool::Recycle(uint64_t number, std::unique_ptr<base::File> file) {
  const uint64_t allocated_bytes = file->AllocatedBytes().value_or(0);
  file.reset();
  if (recycling_.load()) AddFree(number, allocated_bytes);
}

void SegmentPool::AddFree(uint64_t number, uint64_t allocated_bytes) {
  {
    base::MutexLock lock(mutex_);
    if (free_bytes_ + allocated_bytes <= free_bytes_max_) {
      free_.push_back({number, allocated_bytes});
      free_bytes_ += allocated_bytes;
      return;
    }
  }
  const absl::Status removed = file_system_.Remove(Path(number));
  if (!removed.ok()) base::LogWarning("segment_not_removed").With("status", removed);
}

uint64_t SegmentPool::free_bytes() const {
  base::MutexLock lock(mutex_);
  return free_bytes_;
}

std::shared_ptr<SegmentUsage> SegmentPool::GroupUsage(uint64_t group) {
  base::MutexLock lock(mutex_);
  std::shared_ptr<SegmentUsage>& usage = group_usage_[group];
  if (usage == nullptr) usage = std::make_shared<SegmentUsage>(0);
  return usage;
}

}  // namespace understudy::storage
