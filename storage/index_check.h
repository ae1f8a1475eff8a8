// storage/index_check.h
//
// Whether an index is all there, found out without touching it. RocksDB, opened for writing, makes what it has read of its
// write-ahead log the truth, and leaves files behind even where it refuses the database; opened for reading it does neither.
//
// Checked  that the files which the MANIFEST names are there and can be opened; that the
//          write-ahead log begins where the tables end, and reaches, without a gap, as far as its
//          own synced marks (index_log.h) and the data directory's (synced_file.h) say. RocksDB
//          7.8.3 would read past a gap between two files.
#ifndef UNDERSTUDY_STORAGE_INDEX_CHECK_H_
#define UNDERSTUDY_STORAGE_INDEX_CHECK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
struct Options;
class Status;
class WalFilter;
}  // namespace rocksdb

namespace understudy::storage {

inline constexpr char kExtentsFamily[] = "extents";  // beside RocksDB's default one

absl::Status FromRocks(const rocksdb::Status& status);

// Opens the database for reading, up to the first number that is missing. Returns the last number
// before that. kDataLoss, naming what is wrong and the remedy, when it is not all there.
absl::StatusOr<uint64_t> OpenChecked(rocksdb::Options options, const std::string& directory,
                                     uint64_t synced_through,
                                     std::vector<rocksdb::ColumnFamilyHandle*>* families,
                                     std::unique_ptr<rocksdb::DB>* db);

// For the opening for writing: it reads of the log no more than the check has.
std::unique_ptr<rocksdb::WalFilter> ReadThrough(uint64_t sequence);

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_INDEX_CHECK_H_
