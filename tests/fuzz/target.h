// tests/fuzz/target.h
//
// What is fuzzed. A target takes any bytes, and ends the process when they break something; its
// seeds are where a fuzzer begins. libFuzzer runs them (main.cc), and replay_test.cc without it.
#ifndef UNDERSTUDY_TESTS_FUZZ_TARGET_H_
#define UNDERSTUDY_TESTS_FUZZ_TARGET_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace understudy::fuzz {

struct Target {
  const char* name;
  void (*run)(absl::string_view input);
  std::vector<std::string> (*seeds)();
};

// What an NBD client may send: from the connection on; and once it has an export, in the style of
// reply that the first byte says.
extern const Target kNbdHandshake;
extern const Target kNbdTransmission;

}  // namespace understudy::fuzz

#endif  // UNDERSTUDY_TESTS_FUZZ_TARGET_H_
