// tests/crash/sweep.h
//
// Sweep runs a scenario again and again from the same state: the fault comes at the first I/O of its operation, then at the
// second, until the operation is over before the fault comes. Each run is named by scenario, fault, I/O and seed, and can be
// repeated alone.
#ifndef UNDERSTUDY_TESTS_CRASH_SWEEP_H_
#define UNDERSTUDY_TESTS_CRASH_SWEEP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "tests/crash/scenario.h"

namespace understudy::crash {

struct CrashRun {
  std::string scenario;
  testing::SimFault fault = testing::SimFault::kPowerCut;
  uint64_t io = 1;               // of the operation, at which the fault comes
  uint64_t seed = 1;             // of what the disk keeps, and of how it goes on
  std::string ToString() const;  // "checkpoint power-cut 12 3"
  static std::optional<CrashRun> Parse(const std::string& text);
};

struct Outcome {
  bool reached = false;  // the fault came
  uint64_t ios = 0;      // of the operation, as far as it came
  absl::Status verdict;
};

class Sweep {
 public:
  // Which I/Os of the operation the disk pretends to do. A new one is made for every run: it may remember what it has seen.
  using Lie = std::function<bool(const testing::SimIo&)>;
  explicit Sweep(const Scenario& scenario, std::function<Lie()> make_lie = nullptr);

  Outcome RunOne(const CrashRun& run);
  // The I/Os of the undisturbed operation, one per line, for a person to read.
  std::string Trace();

 private:
  using AtomicKind = std::atomic<std::optional<testing::SimIoKind>>;
  absl::Status Verify(const CrashRun& run, const AtomicKind& failed);

  const Scenario& scenario_;
  const std::function<Lie()> make_lie_;
  Rig rig_;
  std::optional<Rig::Saved> prepared_;
};

}  // namespace understudy::crash

#endif  // UNDERSTUDY_TESTS_CRASH_SWEEP_H_
