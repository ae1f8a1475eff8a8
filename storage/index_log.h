// storage/index_log.h
//
// Whether the index's write-ahead log still holds what was promised. RocksDB reads its log up to the first record that is damaged: a
// power cut tears the end, and that end was promised to nobody. Damage in the middle looks the same to it, and what
// follows would be gone in silence, a term or a stage with it. So every synced batch is followed by a *synced mark*, which says up to
// which sequence number the log was synced, and is itself synced by nothing in particular: a log that has lost what one of its
// marks promises is damaged.
//
// Shape    a mark is a blob of a write batch (rocksdb::WriteBatch::PutLogData()), found by its magic wherever the bytes around
//          it are damaged; bytes: docs/on_disk_format.md#synced-marks. Records: RocksDB's log format, blocks of 32 KiB.
// Limits   damage of the newest synced batch alone, when its mark is lost, too, cannot be told from a torn end; a file that is
//          gone says nothing either. synced_file.h tells.
// Threads  any. Memory: a block.
#ifndef UNDERSTUDY_STORAGE_INDEX_LOG_H_
#define UNDERSTUDY_STORAGE_INDEX_LOG_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace rocksdb {
class Env;
}  // namespace rocksdb

namespace understudy::storage {

std::string EncodeSyncedMark(uint64_t sequence);
uint64_t DecodeSyncedMark(absl::string_view mark);  // its sequence number; 0: it is not one

struct IndexLogReport {
  bool found = false;           // there is a log file
  uint64_t synced_through = 0;  // the highest sequence number of a mark in any file; 0: none
  std::string damaged;  // "000012.log at 4711": the first record that is not whole; empty: none
};

// Of all log files in the index's directory, obsolete ones included. Reads only.
absl::StatusOr<IndexLogReport> ReadIndexLog(rocksdb::Env& env, const std::string& directory);

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_INDEX_LOG_H_
