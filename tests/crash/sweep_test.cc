// Every operation, interrupted at every I/O. UNDERSTUDY_CRASH_THOROUGH=1 tries each I/O with
// several seeds (tests/crash/soak.sh), UNDERSTUDY_CRASH_RUN="SCENARIO FAULT IO SEED" repeats one
// run alone, UNDERSTUDY_CRASH_TRACE=SCENARIO prints the I/Os of one.
#include "tests/crash/sweep.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "storage/base/log.h"
#include "tests/crash/report.h"

namespace understudy::crash::sweep_test {
namespace {

using testing::SimFault;

constexpr int kFailuresShown = 5;
// Not a multiple of 3: with one seed each, the endings that Sweep draws from it are to differ from
// I/O to I/O.
constexpr uint64_t kIoStep = kSanitized ? 5 : 1;
// Of all scenarios together; each is tried with four faults. Fewer: the sweep has lost some. More:
// it takes CI longer than docs/testing.md says.
constexpr uint64_t kIosMin = 2100;
constexpr uint64_t kIosMax = 2900;

// A power cut draws from the seed what survives it, the others only how the run goes on.
uint64_t SeedsFor(SimFault fault) {
  if (std::getenv("UNDERSTUDY_CRASH_THOROUGH") == nullptr) return 1;
  return fault == SimFault::kPowerCut ? 7 : 2;
}

class SweepTest : public ::testing::TestWithParam<std::pair<SimFault, std::string>> {};

TEST_P(SweepTest, EveryInterruptionLeavesTheOldStateOrTheNew) {
  SilenceLog();
  const auto& [fault, name] = GetParam();
  const Scenario& scenario = *FindScenario(name);
  Sweep sweep(scenario);
  const uint64_t seeds = SeedsFor(fault);
  int failures = 0;
  bool reached = true;
  for (uint64_t io = 1; reached && failures < kFailuresShown; io += kIoStep) {
    reached = false;
    for (uint64_t seed = 1; seed <= seeds && failures < kFailuresShown; ++seed) {
      const CrashRun run = {.scenario = name, .fault = fault, .io = io, .seed = seed + 31 * io};
      const Outcome outcome = sweep.RunOne(run);
      CountRun();
      reached = reached || outcome.reached;
      if (outcome.verdict.ok()) continue;
      ++failures;
      ADD_FAILURE() << Describe(run, outcome.verdict);
    }
  }
}

std::vector<std::pair<SimFault, std::string>> Everything() {
  std::vector<std::pair<SimFault, std::string>> all;
  for (const SimFault fault :
       {SimFault::kPowerCut, SimFault::kKill, SimFault::kIoError, SimFault::kNoSpace}) {
    for (const Scenario& scenario : Scenarios()) all.emplace_back(fault, scenario.name);
  }
  return all;
}

// "checkpoint_power_cut"
std::string NameOf(const ::testing::TestParamInfo<std::pair<SimFault, std::string>>& info) {
  std::string name = CrashRun{.scenario = info.param.second, .fault = info.param.first}.ToString();
  name.resize(name.find(' ', name.find(' ') + 1));
  for (char& c : name) {
    if (c == ' ' || c == '-') c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(Each, SweepTest, ::testing::ValuesIn(Everything()), NameOf);

TEST(SizeTest, TheSweepIsAsLargeAsItShouldBe) {
  SilenceLog();
  uint64_t ios = 0;
  for (const Scenario& scenario : Scenarios()) {
    Sweep sweep(scenario);
    const Outcome undisturbed = sweep.RunOne({.scenario = scenario.name, .io = UINT64_MAX});
    CountRun();
    EXPECT_EQ(undisturbed.verdict, absl::OkStatus()) << scenario.name;
    EXPECT_GT(undisturbed.ios, 0) << scenario.name;
    ios += undisturbed.ios;
  }
  std::printf("I/Os: %llu of %zu scenarios\n", static_cast<unsigned long long>(ios),
              Scenarios().size());
  EXPECT_GE(ios, kIosMin);
  EXPECT_LE(ios, kIosMax);
}

// What the group takes after a clone is what it takes without one; also that the scenario's clones are made at all.
TEST(CloneTest, ARemovedCloneLeavesNoTrace) {
  SilenceLog();
  const Scenario* const scenario = FindScenario("clones");
  std::vector<uint64_t> segment_bytes;
  for (const bool clones : {true, false}) {
    Rig::Options options = scenario->options;
    options.clones = clones;
    Rig rig(options, 1);
    ASSERT_TRUE(rig.OpenStore().ok());
    for (const auto& step : {scenario->prepare, scenario->before, scenario->operation}) step(rig);
    ASSERT_TRUE(rig.Settle().ok());
    EXPECT_TRUE(rig.clone_verdict().ok()) << rig.clone_verdict();
    EXPECT_EQ(rig.clone_reads(), clones ? 6 : 0);
    segment_bytes.push_back(rig.SegmentBytes());
  }
  EXPECT_EQ(segment_bytes[0], segment_bytes[1]);
}

// No such test unless somebody asks for it.
std::vector<std::string> AskedFor(const char* variable) {
  const char* const value = std::getenv(variable);
  return value == nullptr ? std::vector<std::string>() : std::vector<std::string>{value};
}

class ReplayTest : public ::testing::TestWithParam<std::string> {};

TEST_P(ReplayTest, OneRun) {
  const std::string text = GetParam();
  const auto run = CrashRun::Parse(text);
  ASSERT_TRUE(run.has_value()) << text;
  const Scenario* const scenario = FindScenario(run->scenario);
  ASSERT_NE(scenario, nullptr) << text;
  SilenceLog();
  Sweep sweep(*scenario);
  std::printf("%s", sweep.Trace().c_str());
  base::SetLogSinkForTest(nullptr);
  EXPECT_EQ(sweep.RunOne(*run).verdict, absl::OkStatus());
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ReplayTest);
INSTANTIATE_TEST_SUITE_P(Replay, ReplayTest, ::testing::ValuesIn(AskedFor("UNDERSTUDY_CRASH_RUN")));

class TraceTest : public ::testing::TestWithParam<std::string> {};

TEST_P(TraceTest, OfOneScenario) {
  const Scenario* const scenario = FindScenario(GetParam());
  ASSERT_NE(scenario, nullptr) << GetParam();
  SilenceLog();
  std::printf("%s", Sweep(*scenario).Trace().c_str());
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TraceTest);
INSTANTIATE_TEST_SUITE_P(Replay, TraceTest,
                         ::testing::ValuesIn(AskedFor("UNDERSTUDY_CRASH_TRACE")));

}  // namespace
}  // namespace understudy::crash::sweep_test
