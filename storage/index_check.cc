#include "storage/index_check.h"

#include <algorithm>
#include <cstring>
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

// Of the write-ahead log's records, as RocksDB reads them.
class LogSequences : public rocksdb::WalFilter {
 public:
  explicit LogSequences(WalProcessingOption what) : what_(what) {}
  const char* Name() const override { return "understudy.log_sequences"; }
  WalProcessingOption LogRecordFound(unsigned long long, const std::string& file,
                                     const rocksdb::WriteBatch& batch, rocksdb::WriteBatch*,
                                     bool*) override {
    uint64_t sequence = 0;  // a batch begins with its own
    std::memcpy(&sequence, batch.Data().data(), sizeof(sequence));
    if (first_ == 0) {
      first_ = sequence;
      first_file_ = file;
    } else if (sequence > next_ && gap_.empty()) {
      gap_ = absl::StrCat(file, " goes on at ", sequence, ", not at ", next_);
      gap_start_ = next_;
    }
    next_ = std::max<uint64_t>(next_, sequence + batch.Count());
    return what_;
  }
  // What is missing of what was promised, between them, or before them when the tables hold
  // everything up to `flushed`; empty: nothing. A power cut may leave a gap behind that: the kernel
  // writes back in any order what was never synced.
  std::string Gap(uint64_t flushed, uint64_t promised) const {
    if (first_ > flushed + 1 && flushed < promised) {
      return absl::StrCat(first_file_, " begins at ", first_, ", the tables end at ", flushed);
    }
    return gap_start_ <= promised ? gap_ : "";
  }

 private:
  const WalProcessingOption what_;
  uint64_t first_ = 0;  // 0: there are none
  uint64_t next_ = 0;
  std::string first_file_;
  std::string gap_;
  uint64_t gap_start_ = 0;  // the first number that is missing
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

// The newest sequence number in the tables. Reads none of them.
absl::StatusOr<uint64_t> FlushedThrough(rocksdb::Options options, const std::string& directory) {
  LogSequences passed_over(rocksdb::WalFilter::WalProcessingOption::kIgnoreCurrentRecord);
  options.wal_filter = &passed_over;
  options.max_open_files = 0;  // as few as it can do with
  std::vector<rocksdb::ColumnFamilyHandle*> families;
  std::unique_ptr<rocksdb::DB> db;
  RETURN_IF_ERROR(OpenForReading(options, directory, &families, &db));
  for (rocksdb::ColumnFamilyHandle* family : families) db->DestroyColumnFamilyHandle(family);
  return db->GetLatestSequenceNumber();
}

// That the log holds what was synced. `read` is what RocksDB has read of it, up to `reached`.
absl::Status CheckLog(const std::string& directory, const IndexLogReport& log,
                      uint64_t synced_through, uint64_t flushed, const LogSequences& read,
                      uint64_t reached) {
  if (!log.found && flushed > 0) return Unusable(directory, "its write-ahead log is missing");
  const uint64_t promised = std::max(log.synced_through, synced_through);
  const std::string gap = read.Gap(flushed, promised);
  if (!gap.empty()) {
    return Unusable(directory, absl::StrCat("a part of its write-ahead log is missing: ", gap));
  }
  if (reached >= promised) return absl::OkStatus();
  return Unusable(
      directory,
      absl::StrCat(log.damaged.empty() ? "it is an older copy, or a part is missing or cut short:"
                                       : log.damaged,
                   " the write-ahead log can be read up to ", reached, ", and was synced up to ",
                   promised));
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

absl::Status OpenChecked(rocksdb::Options options, const std::string& directory,
                         uint64_t synced_through,
                         std::vector<rocksdb::ColumnFamilyHandle*>* families,
                         std::unique_ptr<rocksdb::DB>* db) {
  ASSIGN_OR_RETURN(const IndexLogReport log, ReadIndexLog(*options.env, directory));
  ASSIGN_OR_RETURN(const uint64_t flushed, FlushedThrough(options, directory));
  LogSequences read(rocksdb::WalFilter::WalProcessingOption::kContinueProcessing);
  options.wal_filter = &read;  // used by the opening only
  RETURN_IF_ERROR(OpenForReading(options, directory, families, db));
  return CheckLog(directory, log, synced_through, flushed, read, (*db)->GetLatestSequenceNumber());
}

}  // namespace understudy::storage
