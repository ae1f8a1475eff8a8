// tests/testing/temp_dir.h
//
// A directory of a test's own under $TMPDIR or `base`, short enough for socket paths, removed with
// all that is in it.
#ifndef UNDERSTUDY_TESTS_TESTING_TEMP_DIR_H_
#define UNDERSTUDY_TESTS_TESTING_TEMP_DIR_H_

#include <filesystem>
#include <stdlib.h>
#include <string>

#include "storage/base/log.h"

namespace understudy::testing {

class TempDir {
 public:
  TempDir() : TempDir(getenv("TMPDIR") != nullptr ? getenv("TMPDIR") : "/tmp") {}
  explicit TempDir(const std::string& base) : path_(base + "/understudy.XXXXXX") {
    UNDERSTUDY_CHECK(mkdtemp(path_.data()) != nullptr, path_);
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_TESTING_TEMP_DIR_H_
