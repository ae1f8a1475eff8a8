// tests/crash/scenario.h
//
// The operations that a crash sweep interrupts, each with what comes before it.
#ifndef UNDERSTUDY_TESTS_CRASH_SCENARIO_H_
#define UNDERSTUDY_TESTS_CRASH_SCENARIO_H_

#include <functional>
#include <string>
#include <vector>

#include "tests/crash/rig.h"

namespace understudy::crash {

struct Scenario {
  std::string name;
  Rig::Options options;
  // Once: what the disk holds before. The store is open when it begins; it ends as `prepared_by` says.
  std::function<void(Rig&)> prepare;
  Ending prepared_by = Ending::kClosed;
  // In every run, undisturbed, on the reopened store; nullptr: `operation` opens it.
  std::function<void(Rig&)> before;
  // The I/Os of this are counted. It may ignore errors: the rig knows what was answered.
  std::function<void(Rig&)> operation;
};

// Each does the same I/Os in every run.
const std::vector<Scenario>& Scenarios();
// These do not: RocksDB's and the store's default threads work beside the calls, which are random.
const std::vector<Scenario>& RandomScenarios();
const Scenario* FindScenario(const std::string& name);  // of either; nullptr: none

}  // namespace understudy::crash

#endif  // UNDERSTUDY_TESTS_CRASH_SCENARIO_H_
