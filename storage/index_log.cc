#include "storage/index_log.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include <rocksdb/env.h>

#include "storage/base/crc32c.h"
#include "storage/base/status_macros.h"

namespace understudy::storage {
namespace {

constexpr absl::string_view kMarkMagic = "understudy.synced";
constexpr size_t kMarkBytes = kMarkMagic.size() + sizeof(uint64_t) + sizeof(uint32_t);

// RocksDB's log format, without recycled files.
constexpr size_t kLogBlockBytes = 32 << 10;
constexpr size_t kRecordHeaderBytes = 7;  // checksum (4), length (2), type (1)
constexpr uint32_t kChecksumMask = 0xa282ead8;

template <typename Integer>
Integer ReadInteger(const char* from) {
  Integer value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

uint32_t RecordChecksum(absl::string_view type_and_data) {
  const uint32_t crc = base::Crc32c(type_and_data.data(), type_and_data.size());
  return ((crc >> 15) | (crc << 17)) + kChecksumMask;
}

// Where the first record that is not whole begins; the block's size: nowhere.
size_t FindDamage(absl::string_view block) {
  size_t at = 0;
  while (block.size() - at >= kRecordHeaderBytes) {
    const char* const header = block.data() + at;
    const size_t bytes = kRecordHeaderBytes + ReadInteger<uint16_t>(header + 4);
    if (bytes > block.size() - at ||
        ReadInteger<uint32_t>(header) != RecordChecksum(block.substr(at + 6, bytes - 6))) {
      return at;
    }
    at += bytes;
  }
  // The rest of a block that holds no header is zeroes; at the end of a file it is a torn header.
  return at == block.size() || block.size() == kLogBlockBytes ? block.size() : at;
}

uint64_t NewestMark(absl::string_view block) {
  uint64_t newest = 0;
  for (size_t at = block.find(kMarkMagic); at != absl::string_view::npos;
       at = block.find(kMarkMagic, at + 1)) {
    newest = std::max(newest, DecodeSyncedMark(block.substr(at, kMarkBytes)));
  }
  return newest;
}

absl::Status FromRocks(const std::string& path, const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(path, ": ", status.ToString()));
}

// As much as the file has, up to a block.
absl::StatusOr<std::string> ReadBlock(rocksdb::SequentialFile& file, const std::string& path) {
  std::string block(kLogBlockBytes, '\0');
  size_t filled = 0;
  while (filled < block.size()) {
    rocksdb::Slice read;
    RETURN_IF_ERROR(
        FromRocks(path, file.Read(block.size() - filled, &read, block.data() + filled)));
    if (read.empty()) break;
    std::memmove(block.data() + filled, read.data(), read.size());
    filled += read.size();
  }
  block.resize(filled);
  return block;
}

absl::Status ReadFile(rocksdb::Env& env, const std::string& directory, const std::string& name,
                      IndexLogReport* report) {
  const std::string path = absl::StrCat(directory, "/", name);
  std::unique_ptr<rocksdb::SequentialFile> file;
  RETURN_IF_ERROR(FromRocks(path, env.NewSequentialFile(path, &file, rocksdb::EnvOptions())));
  for (uint64_t offset = 0;; offset += kLogBlockBytes) {
    ASSIGN_OR_RETURN(const std::string block, ReadBlock(*file, path));
    report->synced_through = std::max(report->synced_through, NewestMark(block));
    const size_t damage = FindDamage(block);
    if (damage < block.size() && report->damaged.empty()) {
      report->damaged = absl::StrCat(name, " at ", offset + damage);
    }
    if (block.size() < kLogBlockBytes) return absl::OkStatus();
  }
}

}  // namespace

std::string EncodeSyncedMark(uint64_t sequence) {
  std::string mark(kMarkMagic);
  mark.append(reinterpret_cast<const char*>(&sequence), sizeof(sequence));
  const uint32_t crc = base::Crc32c(mark.data(), mark.size());
  return mark.append(reinterpret_cast<const char*>(&crc), sizeof(crc));
}

uint64_t DecodeSyncedMark(absl::string_view mark) {
  if (mark.size() != kMarkBytes || !absl::StartsWith(mark, kMarkMagic)) return 0;
  const char* const crc = mark.data() + kMarkBytes - sizeof(uint32_t);
  if (ReadInteger<uint32_t>(crc) != base::Crc32c(mark.data(), kMarkBytes - sizeof(uint32_t))) {
    return 0;
  }
  return ReadInteger<uint64_t>(crc - sizeof(uint64_t));
}

absl::StatusOr<IndexLogReport> ReadIndexLog(rocksdb::Env& env, const std::string& directory) {
  IndexLogReport report;
  std::vector<std::string> names;
  const rocksdb::Status listed = env.GetChildren(directory, &names);
  if (listed.IsNotFound() || listed.IsPathNotFound()) return report;  // a new one
  RETURN_IF_ERROR(FromRocks(directory, listed));
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    if (!absl::EndsWith(name, ".log")) continue;
    report.found = true;
    RETURN_IF_ERROR(ReadFile(env, directory, name, &report));
  }
  return report;
}

}  // namespace understudy::storage
