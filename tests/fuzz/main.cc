// fuzz_TARGET [libFuzzer's flags] [CORPUS]: the target under libFuzzer. Its seeds are put into the
// folder CORPUS first, which is made; a file instead is one input that is run.
#include <cstdint>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

#include "tests/fuzz/target.h"

namespace {
constexpr const understudy::fuzz::Target& kTarget = understudy::fuzz::UNDERSTUDY_FUZZ_TARGET;
}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  const std::filesystem::path corpus = *argc > 1 ? (*argv)[*argc - 1] : "-";
  if (corpus.native().front() == '-' || std::filesystem::is_regular_file(corpus)) return 0;
  std::filesystem::create_directories(corpus);
  int number = 0;
  for (const std::string& seed : kTarget.seeds()) {
    std::ofstream(corpus / absl::StrCat("seed-", ++number)) << seed;
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kTarget.run({reinterpret_cast<const char*>(data), size});
  return 0;
}
