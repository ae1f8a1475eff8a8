// Random operations under the default settings, interrupted at a random I/O, on a disk that takes its time. A thread per scenario:
// they wait for their disks most of the time, and take the processor from each other at any place.
// UNDERSTUDY_SEED repeats the choice of the operations; UNDERSTUDY_CRASH_SECONDS goes on for so long (tests/crash/soak.sh).
#include <chrono>
#include <cstdlib>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/crash/report.h"
#include "tests/crash/scenario.h"
#include "tests/crash/sweep.h"
#include "tests/testing/seed.h"

namespace understudy::crash::random_test {
namespace {

using testing::SimFault;

constexpr uint64_t kRuns = kSanitized ? 40 : 300;  // of each scenario
constexpr uint64_t kIoMax = 160;                   // some runs are over before

void InterruptAnywhere(const Scenario& scenario, uint64_t seed) {
  constexpr SimFault kFaults[] = {SimFault::kPowerCut, SimFault::kPowerCut, SimFault::kKill,
                                  SimFault::kIoError, SimFault::kNoSpace};
  testing::Random random(seed);
  Sweep sweep(scenario);
  const char* const seconds = std::getenv("UNDERSTUDY_CRASH_SECONDS");
  const auto end = std::chrono::steady_clock::now() +
                   std::chrono::seconds(seconds != nullptr ? std::atoll(seconds) : 0);
  for (uint64_t i = 0; seconds != nullptr ? std::chrono::steady_clock::now() < end : i < kRuns;
       ++i) {
    const CrashRun run = {.scenario = scenario.name,
                          .fault = kFaults[random() % std::size(kFaults)],
                          .io = 1 + random() % kIoMax,
                          .seed = random()};
    const Outcome outcome = sweep.RunOne(run);
    CountRun();
    if (!outcome.verdict.ok()) FAIL() << Describe(run, outcome.verdict);
  }
}

TEST(RandomCrashTest, AnyInterruptionLeavesWhatWasPromised) {
  SilenceLog();
  const uint64_t seed = testing::TestSeed();
  std::vector<std::thread> threads;
  for (const Scenario& scenario : RandomScenarios()) {
    threads.emplace_back(InterruptAnywhere, std::cref(scenario), seed + threads.size());
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace understudy::crash::random_test
