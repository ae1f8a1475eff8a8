// storage/data_version.h
//
// DataVersion is the file VERSION of a data directory: a format version, and the names of the features that its writer used.
// It is read before anything else of the directory is looked at.
//
//   understudy 1
//   incompatible: NAME NAME ...   a reader that does not know one of them would misread the data: refused
//   read-only: NAME ...           readable without knowing them, but a writer would break them: refused by the service,
//                                 understudy-inspect reads
//   compatible: NAME ...          may be ignored
//
// Lines of a class without names are left out. The only name so far is `unfinished`, incompatible: the first start of the directory
// has not ended, see data_directory.h. Afterwards it says just "understudy 1".
#ifndef UNDERSTUDY_STORAGE_DATA_VERSION_H_
#define UNDERSTUDY_STORAGE_DATA_VERSION_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "storage/base/file_system.h"
#include "storage/format.h"

namespace understudy::storage {

struct DataVersion {
  int version = kFormatVersion;
  std::vector<std::string> incompatible;
  std::vector<std::string> read_only;
  std::vector<std::string> compatible;

  // kDataLoss, without the file's name, when `text` is not such a file.
  static absl::StatusOr<DataVersion> Parse(absl::string_view text);
  static DataVersion Unfinished();
  std::string ToString() const;  // the file
  bool unfinished() const;

  // kFailedPrecondition, naming what is too new and the remedy.
  absl::Status CheckReadable() const;
  absl::Status CheckWritable() const;
};

// Reads DATA-DIR/VERSION, naming the file in every error. kNotFound when it is missing.
absl::StatusOr<DataVersion> ReadDataVersion(base::FileSystem& file_system,
                                            const std::string& data_dir);

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_DATA_VERSION_H_
