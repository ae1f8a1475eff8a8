// The seeds of each fuzz target without a fuzzer: whole, cut off, and with a few bytes changed.
#include <gtest/gtest.h>

#include "tests/fuzz/target.h"
#include "tests/testing/seed.h"

namespace understudy::fuzz::replay_test {
namespace {

constexpr int kCutsOfSeed = 8;
constexpr int kChangesOfSeed = 8;

class ReplayTest : public ::testing::TestWithParam<const Target*> {};

TEST_P(ReplayTest, SeedsCutOffAndChanged) {
  const Target& target = *GetParam();
  testing::Random random(testing::TestSeed());
  for (const std::string& seed : target.seeds()) {
    target.run(seed);
    for (int i = 0; i < kCutsOfSeed; ++i) target.run(seed.substr(0, random() % seed.size()));
    for (int i = 0; i < kChangesOfSeed; ++i) {
      std::string changed = seed;
      for (int left = 3; left > 0; --left) {
        changed[random() % changed.size()] = static_cast<char>(random());
      }
      target.run(changed);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, ReplayTest, ::testing::Values(&kNbdHandshake, &kNbdTransmission),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace understudy::fuzz::replay_test
