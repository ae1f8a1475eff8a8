// The main() of every test program. --source=x_test.cc runs the tests of that source file only: a
// program holds the tests of a folder, and ctest shows each file as a test of its own.
#include <iostream>
#include <malloc.h>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace understudy::testing {
namespace {

// The filter that lets the tests of `source` through; empty: there are none.
std::string FilterFor(absl::string_view source) {
  std::string filter;
  const ::testing::UnitTest& all = *::testing::UnitTest::GetInstance();
  for (int i = 0; i < all.total_test_suite_count(); ++i) {
    const ::testing::TestSuite& suite = *all.GetTestSuite(i);
    for (int j = 0; j < suite.total_test_count(); ++j) {
      const ::testing::TestInfo& test = *suite.GetTestInfo(j);
      if (!absl::EndsWith(test.file(), absl::StrCat("/", source))) continue;
      absl::StrAppend(&filter, filter.empty() ? "" : ":", suite.name(), ".", test.name());
    }
  }
  return filter;
}

// Tests make and compare whole images of disks, again and again. By itself malloc() maps each of
// them and unmaps it when it is freed, and the kernel clears its pages anew: a third of the time of
// some. (A sanitizer has a malloc() of its own.)
void KeepFreedMemory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
}

int Main(int argc, char** argv) {
  KeepFreedMemory();
  ::testing::InitGoogleMock(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    absl::string_view source = argv[i];
    if (!absl::ConsumePrefix(&source, "--source=")) {
      std::cerr << argv[0] << ": unknown argument " << argv[i] << std::endl;
      return 2;
    }
    const std::string filter = FilterFor(source);
    if (filter.empty()) {
      std::cerr << argv[0] << ": no tests in " << source << std::endl;
      return 2;
    }
    GTEST_FLAG_SET(filter, filter);
  }
  return RUN_ALL_TESTS();
}

}  // namespace
}  // namespace understudy::testing

#if defined(__SANITIZE_THREAD__)
// When several threads write to RocksDB at once, one of them writes the batches of all. TSan does
// not see how RocksDB, which is not instrumented, hands them over. It does see the bytes: RocksDB
// calls our program's instrumented copy of std::string.
extern "C" const char* __tsan_default_suppressions() {
  return "race:rocksdb::WriteBatchInternal::Append\n"
         "race:rocksdb::WriteBatch::Clear\n";
}
#endif

int main(int argc, char** argv) { return understudy::testing::Main(argc, argv); }
