// Random operations under the default settings, interrupted at a random I/O. UNDERSTUDY_SEED repeats the choice of them;
// UNDERSTUDY_CRASH_SECONDS goes on for so long (tests/crash/soak.sh).
#include <chrono>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tests/crash/report.h"
#include "tests/crash/scenario.h"
#include "tests/crash/sweep.h"
#include "tests/testing/seed.h"

namespace understudy::crash {
namespace {

using testing::SimFault;

constexpr uint64_t kRuns = 3200;
constexpr uint64_t kIoMax = 160;  // some runs are over before

TEST(RandomCrashTest, AnyInterruptionLeavesWhatWasPromised) {
  SilenceLog();
  std::mt19937_64 random(testing::TestSeed());
  std::vector<std::unique_ptr<Sweep>> sweeps;
  for (const Scenario& scenario : RandomScenarios()) {
    sweeps.push_back(std::make_unique<Sweep>(scenario));
  }
  constexpr SimFault kFaults[] = {SimFault::kPowerCut, SimFault::kPowerCut, SimFault::kKill};
  const char* const seconds = std::getenv("UNDERSTUDY_CRASH_SECONDS");
  const auto end = std::chrono::steady_clock::now() +
                   std::chrono::seconds(seconds != nullptr ? std::atoll(seconds) : 0);
  for (uint64_t i = 0;
       seconds != nullptr ? std::chrono::steady_clock::now() < end : i < kRuns / kThinning; ++i) {
    const size_t which = random() % sweeps.size();
    const CrashRun run = {.scenario = RandomScenarios()[which].name,
                          .fault = kFaults[random() % std::size(kFaults)],
                          .io = 1 + random() % kIoMax,
                          .seed = random()};
    const Outcome outcome = sweeps[which]->RunOne(run);
    CountRun();
    if (!outcome.verdict.ok()) FAIL() << Describe(run, outcome.verdict);
  }
}

}  // namespace
}  // namespace understudy::crash
