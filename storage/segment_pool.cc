#include "storage/segment_pool.h"

#include <algorithm>
#include <cstring>

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
}  // namespace

Segment::Segment(SegmentPool& pool, uint64_t number, std::unique_ptr<base::File> file,
                 const SegmentHeader& header)
    : pool_(pool), number_(number), file_(std::move(file)), header_(header) {}

Segment::~Segment() { pool_.Recycle(number_, std::move(file_)); }

std::string Segment::ToString() const {
  return absl::StrFormat("segment %d (file %016x%s)", header_.ordinal, number_, kSuffix);
}

SegmentPool::SegmentPool(base::FileSystem& file_system, std::string directory,
                         uint64_t segment_bytes, uint64_t free_bytes_max, uint64_t seed)
    : file_system_(file_system),
      directory_(std::move(directory)),
      segment_bytes_(segment_bytes),
      free_bytes_max_(free_bytes_max),
      random_(seed) {}

std::string SegmentPool::Path(uint64_t number) const {
  return absl::StrFormat("%s/%016x%s", directory_, number, kSuffix);
}

absl::StatusOr<std::vector<SegmentPool::Found>> SegmentPool::Scan() {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, file_system_.List(directory_));
  std::vector<Found> valid;
  for (const std::string& name : names) {
    Found found;
    if (!absl::EndsWith(name, kSuffix) ||
        !absl::SimpleHexAtoi(name.substr(0, name.size() - kSuffix.size()), &found.number)) {
      continue;
    }
    {
      base::MutexLock lock(mutex_);
      next_number_ = std::max(next_number_, found.number + 1);
    }
    ASSIGN_OR_RETURN(const auto file, file_system_.Open(Path(found.number), {.read_only = true}));
    const absl::Status read =
        file->Read(0, std::span(reinterpret_cast<char*>(&found.header), sizeof(found.header)));
    if (!read.ok() && read.code() != absl::StatusCode::kOutOfRange) return read;
    if (read.ok() && SegmentHeaderValid(found.header)) {
      valid.push_back(found);
    } else {
      Release(found);
    }
  }
  return valid;
}

absl::StatusOr<std::shared_ptr<Segment>> SegmentPool::Adopt(const Found& found) {
  ASSIGN_OR_RETURN(auto file, file_system_.Open(Path(found.number), {}));
  base::MutexLock lock(mutex_);
  ++in_use_;
  return std::make_shared<Segment>(*this, found.number, std::move(file), found.header);
}

void SegmentPool::Release(const Found& found) {
  const auto file = file_system_.Open(Path(found.number), {.read_only = true});
  AddFree(found.number, file.ok() ? (*file)->AllocatedBytes().value_or(0) : 0);
}

absl::Status SegmentPool::CheckRoom() const {
  uint64_t more_bytes = segment_bytes_;
  {
    base::MutexLock lock(mutex_);
    if (!free_.empty()) more_bytes -= std::min(more_bytes, free_.back().allocated_bytes);
  }
  ASSIGN_OR_RETURN(const base::FileSystemSpace space, file_system_.Space(directory_));
  const uint64_t reserve = std::min(kIndexReserveBytes, space.capacity_bytes / kIndexReserveShare);
  if (more_bytes == 0 || space.free_bytes >= more_bytes + reserve) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "%s: %d bytes are free, a segment needs %d and %d are kept for the index: make room, or move "
      "the data directory to a larger file system",
      directory_, space.free_bytes, more_bytes, reserve));
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
  base::MutexLock lock(mutex_);
  ++in_use_;
  return std::make_shared<Segment>(*this, number, std::move(file), header);
}

void SegmentPool::Recycle(uint64_t number, std::unique_ptr<base::File> file) {
  const uint64_t allocated_bytes = file->AllocatedBytes().value_or(0);
  file.reset();
  {
    base::MutexLock lock(mutex_);
    --in_use_;
  }
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

uint64_t SegmentPool::used_bytes() const {
  base::MutexLock lock(mutex_);
  return in_use_ * segment_bytes_;
}

}  // namespace understudy::storage
