// storage/data_directory.h
//
// What must be in a data directory before a store may open it, and how a new one is made. Whatever is missing of one that was
// made before is lost, not new: it is told, at every start, and nothing is touched.
//
// New      a directory with nothing of Understudy's in it. Its first start writes a VERSION that calls it *unfinished*, makes the
//          index and segments/, syncs all of that, and then writes the VERSION that stays. One that is found unfinished has promised
//          nothing to anybody: its first start was interrupted, and begins anew.
#ifndef UNDERSTUDY_STORAGE_DATA_DIRECTORY_H_
#define UNDERSTUDY_STORAGE_DATA_DIRECTORY_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "storage/base/file_system.h"

namespace rocksdb {
class Env;
}  // namespace rocksdb

namespace understudy::storage {

// Returns the lock of the directory, which is made if it is new. kFailedPrecondition when another service has it or a newer
// release wrote it; kDataLoss, naming what is missing and the remedy.
absl::StatusOr<std::unique_ptr<base::File>> OpenDataDirectory(base::FileSystem& file_system,
                                                              const std::string& path,
                                                              rocksdb::Env* index_env);

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_DATA_DIRECTORY_H_
