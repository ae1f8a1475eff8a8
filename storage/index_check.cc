#include "storage/index_check.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/wal_filter.h>
#include <rocksdb/write_batch.h>

#include "storage/base/status_macros.h"
#include "storage/index_log.h"

namespace understudy::storage {
namespace {

// Before anything is written. What RocksDB misses is as bad as what it finds damaged. Of a table it looks for LevelDB's name last,
// which would mislead whoever looks for it.
absl::Status Unusable(const std::string& directory, absl::string_view why) {
  return absl::DataLossError(absl::StrCat(
      directory, " is damaged: ", absl::StrReplaceAll(why, {{".ldb", ".sst"}}),
      ": going on would lose what was promised; nothing was touched. Put back what is missing, "
      "restore the data directory as a whole, or remove it and start the groups afresh: their "
      "secondary disks alone may be torn"));
}

uint64_t SequenceOf(const rocksdb::WriteBatch& batch) {  // a batch begins with it
  uint64_t sequence = 0;
  std::memcpy(&sequence, batch.Data().data(), sizeof(sequence));
  return sequence;
}

// Has RocksDB read its write-ahead log up to the first record that is missing.
class LogReader : public rocksdb::WalFilter {
 public:
  // The MANIFEST counts up to `manifest`, which the tables may not have reached.
  explicit LogReader(uint64_t manifest) : next_(manifest + 1) {}
  const char* Name() const override { return "understudy.log_reader"; }
  WalProcessingOption LogRecordFound(unsigned long long, const std::string& file,
                                     const rocksdb::WriteBatch& batch, rocksdb::WriteBatch*,
                                     bool*) override {
    const uint64_t sequence = SequenceOf(batch);
    if (!begun_) next_ = std::min(next_, sequence);
    begun_ = true;
    if (sequence > next_) {
      gap_ = absl::StrCat(file, " goes on at ", sequence, ", not at ", next_);
      return WalProcessingOption::kStopReplay;
    }
    next_ = std::max<uint64_t>(next_, sequence + batch.Count());
    return WalProcessingOption::kContinueProcessing;
  }
  // Everything up to it is there.
  uint64_t reached() const { return next_ - 1; }
  const std::string& gap() const { return gap_; }  // empty: there is none

 private:
  bool begun_ = false;
  uint64_t next_;
  std::string gap_;
};

class StopBehind : public rocksdb::WalFilter {
 public:
  explicit StopBehind(uint64_t sequence) : last_(sequence) {}
  const char* Name() const override { return "understudy.stop_behind"; }
  WalProcessingOption LogRecordFound(unsigned long long, const std::string&,
                                     const rocksdb::WriteBatch& batch, rocksdb::WriteBatch*,
                                     bool*) override {
    return SequenceOf(batch) > last_ ? WalProcessingOption::kStopReplay
                                     : WalProcessingOption::kContinueProcessing;
  }

 private:
  const uint64_t last_;
};

absl::Status OpenForReading(const rocksdb::Options& options, const std::string& directory,
                            std::vector<rocksdb::ColumnFamilyHandle*>* families,
                            std::unique_ptr<rocksdb::DB>* db) {
  const std::vector<rocksdb::ColumnFamilyDescriptor> descriptors = {
      {rocksdb::kDefaultColumnFamilyName, rocksdb::ColumnFamilyOptions()},
      {kExtentsFamily, rocksdb::ColumnFamilyOptions()}};
  rocksdb::DB* opened = nullptr;
  const rocksdb::Status status =
      rocksdb::DB::OpenForReadOnly(options, directory, descriptors, families, &opened);
  db->reset(opened);
  if (status.IsPathNotFound() || status.IsNotFound() || status.IsInvalidArgument()) {
    return Unusable(directory, status.ToString());
  }
  const absl::Status read = FromRocks(status);
  return absl::IsDataLoss(read) ? Unusable(directory, status.ToString()) : read;
}

struct Tables {
  uint64_t manifest = 0;  // the newest sequence number when the MANIFEST was written
  uint64_t held = 0;      // the newest one that a table holds
};

// Reads neither the tables nor the log.
absl::StatusOr<Tables> FindTables(rocksdb::Options options, const std::string& directory) {
  StopBehind no_log(0);
  options.wal_filter = &no_log;  // used by the opening only
  options.max_open_files = 0;    // as few as it can do with
  std::vector<rocksdb::ColumnFamilyHandle*> families;
  std::unique_ptr<rocksdb::DB> db;
  RETURN_IF_ERROR(OpenForReading(options, directory, &families, &db));
  for (rocksdb::ColumnFamilyHandle* family : families) db->DestroyColumnFamilyHandle(family);
  Tables tables{.manifest = db->GetLatestSequenceNumber()};
  std::vector<rocksdb::LiveFileMetaData> files;
  db->GetLiveFilesMetaData(&files);
  for (const auto& file : files) tables.held = std::max(tables.held, file.largest_seqno);
  return tables;
}

// That the log holds what was synced, and whatever the tables of one family hold and the other's
// may not. A power cut may leave a gap behind that: the kernel writes back in any order what was
// never synced.
absl::Status CheckLog(const std::string& directory, const IndexLogReport& log,
                      uint64_t synced_through, const Tables& tables, const LogReader& read) {
  if (!log.found && tables.manifest > 0) {
    return Unusable(directory, "its write-ahead log is missing");
  }
  const uint64_t promised = std::max({log.synced_through, synced_through, tables.held});
  if (read.reached() >= promised) return absl::OkStatus();
  if (!read.gap().empty()) {
    return Unusable(directory,
                    absl::StrCat("a part of its write-ahead log is missing: ", read.gap()));
  }
  return Unusable(
      directory,
      absl::StrCat(log.damaged.empty() ? "it is an older copy, or a part is missing or cut short:"
                                       : log.damaged,
                   " the write-ahead log can be read up to ", read.reached(),
                   ", and was synced up to ", promised));
}

}  // namespace

absl::Status FromRocks(const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat("index: ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsCorruption()) return absl::DataLossError(message);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  return absl::InternalError(message);
}

absl::StatusOr<uint64_t> OpenChecked(rocksdb::Options options, const std::string& directory,
                                     uint64_t synced_through,
                                     std::vector<rocksdb::ColumnFamilyHandle*>* families,
                                     std::unique_ptr<rocksdb::DB>* db) {
  ASSIGN_OR_RETURN(const IndexLogReport log, ReadIndexLog(*options.env, directory));
  ASSIGN_OR_RETURN(const Tables tables, FindTables(options, directory));
  LogReader read(tables.manifest);
  options.wal_filter = &read;  // used by the opening only
  RETURN_IF_ERROR(OpenForReading(options, directory, families, db));
  RETURN_IF_ERROR(CheckLog(directory, log, synced_through, tables, read));
  return read.reached();
}

std::unique_ptr<rocksdb::WalFilter> ReadThrough(uint64_t sequence) {
  return std::make_unique<StopBehind>(sequence);
}

}  // namespace understudy::storage
