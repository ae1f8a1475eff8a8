#include "tests/crash/sweep.h"

#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace understudy::crash {
namespace {

using testing::SimFault;
using testing::SimIo;

constexpr uint64_t kPrepareSeed = 6;

struct FaultName {
  SimFault fault;
  const char* name;
};
constexpr FaultName kFaultNames[] = {{SimFault::kPowerCut, "power-cut"},
                                     {SimFault::kKill, "kill"},
                                     {SimFault::kIoError, "io-error"},
                                     {SimFault::kNoSpace, "no-space"}};

bool EndsTheProcess(SimFault fault) {
  return fault == SimFault::kPowerCut || fault == SimFault::kKill;
}

}  // namespace

std::string CrashRun::ToString() const {
  const char* name = "?";
  for (const FaultName& one : kFaultNames) {
    if (one.fault == fault) name = one.name;
  }
  return absl::StrCat(scenario, " ", name, " ", io, " ", seed);
}

std::optional<CrashRun> CrashRun::Parse(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ' ', absl::SkipEmpty());
  CrashRun run;
  if (parts.size() != 4 || !absl::SimpleAtoi(parts[2], &run.io) ||
      !absl::SimpleAtoi(parts[3], &run.seed)) {
    return std::nullopt;
  }
  run.scenario = parts[0];
  for (const FaultName& one : kFaultNames) {
    if (parts[1] == one.name) {
      run.fault = one.fault;
      return run;
    }
  }
  return std::nullopt;
}

Sweep::Sweep(const Scenario& scenario, std::function<Lie()> make_lie)
    : scenario_(scenario), make_lie_(std::move(make_lie)), rig_(scenario.options, kPrepareSeed) {
  if (scenario.prepare != nullptr) {
    const absl::Status opened = rig_.OpenStore();
    UNDERSTUDY_CHECK(opened.ok(), opened.ToString());
    scenario.prepare(rig_);
    rig_.End(scenario.prepared_by);
  }
  prepared_ = rig_.Save();
}

Outcome Sweep::RunOne(const CrashRun& run) {
  rig_.Load(*prepared_);
  rig_.disk().Reseed(run.seed);
  if (!scenario_.options.repeatable) rig_.random().seed(run.seed);
  if (scenario_.before != nullptr) {
    const absl::Status opened = rig_.OpenStore();
    UNDERSTUDY_CHECK(opened.ok(), run.ToString(), ": ", opened.ToString());
    scenario_.before(rig_);
  }
  std::atomic<uint64_t> count = 0;  // what works in the background does I/O, too
  AtomicKind failed;                // set by whoever does that I/O
  const Lie lie = make_lie_ == nullptr ? nullptr : make_lie_();
  rig_.disk().SetHook([&](const SimIo& io) {
    if (++count == run.io) {
      failed.store(io.kind);
      return run.fault;
    }
    return lie != nullptr && lie(io) ? SimFault::kIgnore : SimFault::kNone;
  });
  absl::Status opened;
  if (scenario_.before == nullptr) opened = rig_.OpenStore();
  if (opened.ok()) scenario_.operation(rig_);
  if (rig_.running()) rig_.Settle().IgnoreError();
  const uint64_t ios = count;
  absl::Status verdict = Verify(run, failed);
  Outcome outcome{.reached = failed.load().has_value(), .ios = ios, .verdict = std::move(verdict)};
  rig_.End(Ending::kClosed);
  return outcome;
}

// `failed`: the kind of I/O that the fault came at, once it has come; an orderly end does I/O, too.
absl::Status Sweep::Verify(const CrashRun& run, const AtomicKind& failed) {
  RETURN_IF_ERROR(rig_.clone_verdict());
  rig_.random().seed(run.seed);
  Ending ending = run.fault == SimFault::kKill ? Ending::kKill : Ending::kPowerCut;
  const Ending endings[] = {Ending::kPowerCut, Ending::kKill, Ending::kClosed};
  const Ending second = endings[run.seed / 2 % 3];
  if (EndsTheProcess(run.fault)) {
    rig_.End(ending);
    return rig_.Recover(ending, ending, second);
  }
  // After a failed sync what was not durable may be gone at once: a read says so, or finds it.
  const auto sync_failed = [&] { return failed.load() == testing::SimIoKind::kSync; };
  // An error at a store's opening isolates the group; what counts is the next opening.
  if (rig_.running() && scenario_.before != nullptr) {
    const absl::Status live = rig_.Check(Ending::kStillRunning,
                                         sync_failed() ? Ending::kPowerCut : Ending::kStillRunning);
    const bool unreadable = live.code() != absl::StatusCode::kInternal;
    if (!live.ok() && !(sync_failed() && unreadable)) return Annotate(live, "after the error");
  }
  ending = endings[run.seed % 3];
  rig_.End(ending);
  return rig_.Recover(ending, sync_failed() ? Ending::kPowerCut : ending, second);
}

std::string Sweep::Trace() {
  std::string trace;
  rig_.Load(*prepared_);
  if (scenario_.before != nullptr) {
    UNDERSTUDY_CHECK(rig_.OpenStore().ok());
    scenario_.before(rig_);
  }
  uint64_t count = 0;
  rig_.disk().SetHook([&](const SimIo& io) {
    absl::StrAppend(&trace, ++count, " ", testing::SimIoName(io.kind), " ", io.path, "\n");
    return SimFault::kNone;
  });
  absl::Status opened;
  if (scenario_.before == nullptr) opened = rig_.OpenStore();
  if (opened.ok()) scenario_.operation(rig_);
  if (rig_.running()) rig_.Settle().IgnoreError();
  rig_.End(Ending::kClosed);
  return trace;
}

}  // namespace understudy::crash
