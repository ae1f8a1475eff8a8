#include "tests/crash/scenario.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "storage/base/log.h"

namespace understudy::crash {
namespace {

constexpr uint64_t kHistoryEpochs = 2;

void Must(const absl::Status& status) { UNDERSTUDY_CHECK(status.ok(), status.ToString()); }
// What a run may do after its fault; the rig has noted how it went.
void May(const absl::Status& status) { status.IgnoreError(); }

void Nothing(Rig&) {}

// A pair that has replicated for a while: two checkpoints, one of them applied in part of an earlier process.
void Running(Rig& rig) {
  Must(rig.OpenGroup());
  Must(rig.Start());
  Must(rig.BindAgent("agent", false));
  Must(rig.AttachStream());
  Must(rig.Frame(5));
  Must(rig.MarkedCheckpoint());
  Must(rig.VmWrite());
  Must(rig.Frame(4));
}

// Frames, some of them mirrored in the index, and writes of the VM, some of them flushed.
void Busy(Rig& rig) {
  Must(rig.Frame(3));
  Must(rig.VmWrite());
  Must(rig.DurablePoint());
  Must(rig.Frame(2));
  Must(rig.VmWrite());
  Must(rig.VmFlush(0));
  Must(rig.VmWrite());
}

void FailedOver(Rig& rig) {
  Running(rig);
  Busy(rig);
  Must(rig.Checkpoint());
  Busy(rig);
}

void Done(Rig& rig) {
  Running(rig);
  Must(rig.Failover());
  Must(rig.Settle());
}

// More than a segment of the hidden log, all of it applied: its file is used again soon.
void SegmentFilled(Rig& rig) {
  Running(rig);
  for (int i = 0; i < 5; ++i) Must(rig.BigFrame());
  Must(rig.MarkedCheckpoint());
}

void OneFrame(Rig& rig) { Must(rig.Frame(1)); }

void SegmentsAgain(Rig& rig) {
  for (int i = 0; i < 4; ++i) May(rig.BigFrame());
  May(rig.MarkedCheckpoint());
  for (int i = 0; i < 4; ++i) May(rig.BigFrame());
  May(rig.DurablePoint());
}

// The view is that of a checkpoint which is only in the hidden log yet.
void FailOverUnflushed(Rig& rig) {
  rig.Hold();
  May(rig.Checkpoint());
  May(rig.VmWrite());
  May(rig.VmFlush(0));
  May(rig.Checkpoint());
  May(rig.Failover());
  for (uint32_t volume = 0; volume < kVolumes; ++volume) {
    May(rig.VmWrite());
    May(rig.VmFlush(volume));
  }
  rig.Release();
  May(rig.Settle());
}

// Five more checkpoints, of which the oldest have been applied.
void WithHistory(Rig& rig) {
  Running(rig);
  for (int i = 0; i < 4; ++i) {
    Must(rig.MarkedCheckpoint());
    Must(rig.VmWrite());
    Must(rig.Frame(3));
  }
  Must(rig.MarkedCheckpoint());
}

// Each checkpoint pushes the oldest kept epoch into the apply job.
void PushOut(Rig& rig) {
  May(rig.MarkedCheckpoint());
  May(rig.Frame(2));
  May(rig.VmWrite());
  May(rig.Checkpoint());
}

// A clone of the newest checkpoint while those below it are applied; then one of what the disk holds, which keeps the job waiting.
void Clones(Rig& rig) {
  const auto use = [&](size_t newer) {
    const std::vector<Epoch> history = rig.History();
    if (newer >= history.size() || !rig.CreateClone(history[newer]).ok()) return;
    May(rig.CloneWrite());
    May(rig.VmWrite());
    May(rig.VmFlush(1));
    May(rig.MarkedCheckpoint());
    May(rig.CloneWrite());
    May(rig.RemoveClone());
    May(rig.Settle());
  };
  use(0);
  use(kHistoryEpochs);
}

// To the one with so many newer ones, under a VM that writes on.
void FailOverTo(Rig& rig, size_t newer) {
  rig.Hold();
  May(rig.FailoverTo(rig.History().at(newer)));
  May(rig.VmWrite());
  May(rig.VmFlush(0));
  May(rig.VmWrite());
  rig.Release();
  May(rig.Settle());
}

// An epoch that waits to be committed, the next one begun.
void Prepared(Rig& rig) {
  Busy(rig);
  Must(rig.Prepare());
  Busy(rig);
}

// One that was given up below it, and one that the log alone knows.
void PreparedTwice(Rig& rig) {
  Running(rig);
  Prepared(rig);
  Must(rig.AbandonPrepared());
  Prepared(rig);
}

// The same with --durability=none.
void AddBoth(std::vector<Scenario>* scenarios, const std::string& name,
             const std::function<void(Rig&)>& prepare, const std::function<void(Rig&)>& before,
             const std::function<void(Rig&)>& operation, Ending prepared_by = Ending::kClosed,
             uint64_t history_epochs = 0) {
  for (const bool durable : {true, false}) {
    scenarios->push_back(
        {.name = absl::StrCat(name, durable ? "" : "-none"),
         .options = {.checkpoint_durable = durable, .history_epochs = history_epochs},
         .prepare = prepare,
         .prepared_by = prepared_by,
         .before = before,
         .operation = operation});
  }
}

void AddLockstep(std::vector<Scenario>* scenarios) {
  AddBoth(scenarios, "prepare", Running, Busy, [](Rig& rig) {
    May(rig.Prepare());
    May(rig.Frame(2));
  });
  AddBoth(scenarios, "prepare-commit", Running, Prepared, [](Rig& rig) {
    May(rig.CommitPrepared());
    May(rig.VmWrite());
    May(rig.VmFlush(0));
    May(rig.MarkedCheckpoint());
  });
  AddBoth(scenarios, "prepare-abandon", Running, Prepared, [](Rig& rig) {
    May(rig.AbandonPrepared());
    May(rig.Frame(1));
    May(rig.Prepare());
    May(rig.CommitPrepared());
  });
  AddBoth(scenarios, "prepare-failover", Running, Prepared, [](Rig& rig) {
    rig.Hold();
    May(rig.Failover());
    May(rig.VmWrite());
    May(rig.VmFlush(0));
    rig.Release();
    May(rig.Settle());
  });
  AddBoth(scenarios, "recovery-prepared", PreparedTwice, nullptr, Nothing, Ending::kKill);
}

void HandedOver(Rig& rig) {
  Busy(rig);
  Must(rig.HandOver());
}

void RunningHandedOver(Rig& rig) {
  Running(rig);
  HandedOver(rig);
}

void AddHandover(std::vector<Scenario>* scenarios) {
  AddBoth(scenarios, "handover", Running, Busy, [](Rig& rig) {
    May(rig.HandOver());
    May(rig.VmWrite());
    May(rig.VmFlush(0));
  });
  AddBoth(scenarios, "handover-failover", Running, HandedOver, [](Rig& rig) {
    rig.Hold();
    May(rig.Failover(/*received=*/false, /*after_handover=*/true));
    May(rig.VmWrite());
    May(rig.VmFlush(0));
    rig.Release();
    May(rig.Settle());
  });
  AddBoth(scenarios, "handover-back", Running, HandedOver, [](Rig& rig) {
    May(rig.TakeBackHandover());
    May(rig.Frame(2));
    May(rig.MarkedCheckpoint());
  });
  AddBoth(scenarios, "recovery-handover", RunningHandedOver, nullptr, Nothing, Ending::kKill);
}

std::vector<Scenario> WithEveryDurability() {
  std::vector<Scenario> scenarios;
  const auto add = [&](const std::string& name, const std::function<void(Rig&)>& prepare,
                       const std::function<void(Rig&)>& before,
                       const std::function<void(Rig&)>& operation,
                       Ending prepared_by = Ending::kClosed, uint64_t history_epochs = 0) {
    AddBoth(&scenarios, name, prepare, before, operation, prepared_by, history_epochs);
  };
  add("frame", Running, Busy, [](Rig& rig) {
    May(rig.Frame(3));
    May(rig.Frame(1));
  });
  add("durable-point", Running, Busy, [](Rig& rig) {
    May(rig.Frame(2));
    May(rig.DurablePoint());
  });
  add("marked-checkpoint", Running, Busy, [](Rig& rig) { May(rig.MarkedCheckpoint()); });
  add("checkpoint", Running, Busy, [](Rig& rig) { May(rig.Checkpoint()); });
  add("checkpoints", Running, Busy, [](Rig& rig) {
    May(rig.Checkpoint());
    May(rig.Frame(2));
    May(rig.VmWrite());
    May(rig.VmFlush(1));
    May(rig.MarkedCheckpoint());
  });
  add("vm-write", Running, Busy, [](Rig& rig) {
    May(rig.VmWrite());
    May(rig.VmWrite());
    May(rig.VmFlush(0));
    May(rig.VmWrite());
    May(rig.VmFlush(2));
  });
  add("failover", FailedOver, Busy, [](Rig& rig) {
    rig.Hold();
    May(rig.Failover());
    May(rig.VmWrite());
    May(rig.VmFlush(0));
    May(rig.VmWrite());
    rig.Release();
    May(rig.Settle());
  });
  const auto received = [](Rig& rig) {
    Must(rig.Checkpoint());  // drops what the VM has written, which would be in the way
    Must(rig.Frame(3));
  };
  add("failover-received", Running, received, [](Rig& rig) {
    // Its answer waits for the background only if the checkpoint's does.
    if (!rig.options().checkpoint_durable) rig.Hold();
    May(rig.Failover(/*received=*/true));
    rig.Release();
    May(rig.Settle());
  });
  add("stop", Running, Busy, [](Rig& rig) { May(rig.Stop()); });
  add("recovery", FailedOver, nullptr, Nothing, Ending::kKill);
  add("history-apply", WithHistory, Busy, PushOut, Ending::kClosed, kHistoryEpochs);
  add(
      "failover-to-kept", WithHistory, Busy, [](Rig& rig) { FailOverTo(rig, 1); }, Ending::kClosed,
      kHistoryEpochs);
  add(
      "failover-to-applied", WithHistory, Busy, [](Rig& rig) { FailOverTo(rig, kHistoryEpochs); },
      Ending::kClosed, kHistoryEpochs);
  return scenarios;
}

// What the copy jobs do where segments and disks share blocks. The names are those of the same without.
std::vector<Scenario> WithReflinks() {
  std::vector<Scenario> scenarios;
  for (const Scenario& one : WithEveryDurability()) {
    if (!absl::StartsWith(one.name, "marked-checkpoint") && !absl::StartsWith(one.name, "stop") &&
        one.name != "failover" && one.name != "failover-none") {
      continue;
    }
    scenarios.push_back(one);
    scenarios.back().name += "-reflink";
    scenarios.back().options.reflinks = true;
  }
  return scenarios;
}

// Anything in any order, the background beside it; in the end perhaps a failover under a writing VM.
void AnyOperation(Rig& rig) {
  switch (rig.random()() % 16) {
    case 0:
    case 1:
      return May(rig.MarkedCheckpoint());
    case 2:
      return May(rig.Checkpoint());
    case 3:
      return May(rig.DurablePoint());
    case 4:
      return May(rig.VmFlush(static_cast<uint32_t>(rig.random()() % kVolumes)));
    case 5:
      return rig.random()() % 8 == 0 ? May(rig.BigFrame()) : May(rig.Settle());
    case 6:
    case 7:
    case 8:
    case 9:
      return May(rig.VmWrite());
    default:
      return May(rig.Frame(1 + rig.random()() % 4));
  }
}

void AnyOperations(Rig& rig) {
  for (uint64_t left = 5 + rig.random()() % 30; left > 0 && !rig.disk().dead(); --left) {
    AnyOperation(rig);
  }
  const uint64_t end = rig.random()() % 4;
  if (end == 0) May(rig.Stop());
  if (end != 1) return;
  const std::vector<Epoch> history = rig.History();
  May(history.empty() || rig.options().history_epochs == 0
          ? rig.Failover()
          : rig.FailoverTo(history[rig.random()() % history.size()]));
  for (int i = 0; i < 12 && !rig.disk().dead(); ++i) {
    May(rig.VmWrite());
    if (i % 4 == 3) May(rig.VmFlush(static_cast<uint32_t>(rig.random()() % kVolumes)));
  }
}

std::vector<Scenario> AllRandomScenarios() {
  std::vector<Scenario> all;
  const auto add = [&](const std::string& name, const Rig::Options& options) {
    all.push_back({.name = name,
                   .options = options,
                   .prepare = Running,
                   .before = Nothing,
                   .operation = AnyOperations});
  };
  add("random", {.repeatable = false});
  add("random-none", {.checkpoint_durable = false, .repeatable = false});
  add("random-reflink", {.repeatable = false, .reflinks = true});
  add("random-history", {.repeatable = false, .history_epochs = 3});
  return all;
}

std::vector<Scenario> AllScenarios() {
  std::vector<Scenario> all = WithEveryDurability();
  AddLockstep(&all);
  AddHandover(&all);
  for (Scenario& one : WithReflinks()) all.push_back(std::move(one));
  const auto add = [&](const std::string& name, std::function<void(Rig&)> prepare,
                       std::function<void(Rig&)> before, std::function<void(Rig&)> operation) {
    all.push_back({.name = name, .prepare = prepare, .before = before, .operation = operation});
  };
  add("first-open", nullptr, nullptr, [](Rig& rig) {
    if (rig.running()) return;
    May(rig.OpenGroup());
  });
  add("open", Nothing, Nothing, [](Rig& rig) { May(rig.OpenGroup()); });
  add(
      "start", [](Rig& rig) { Must(rig.OpenGroup()); }, Nothing,
      [](Rig& rig) {
        if (!rig.Start().ok()) return;
        May(rig.BindAgent("agent", false));
        if (!rig.AttachStream().ok()) return;
        May(rig.Frame(2));
      });
  add(
      "start-and-flush", [](Rig& rig) { Must(rig.OpenGroup()); }, Nothing,
      [](Rig& rig) {
        if (!rig.Start().ok()) return;
        May(rig.BindAgent("agent", false));
        if (!rig.AttachStream().ok()) return;
        May(rig.Frame(2));
        May(rig.VmWrite());
        May(rig.VmFlush(0));
        May(rig.VmFlush(1));
        May(rig.VmFlush(2));
        May(rig.DurablePoint());
      });
  add("takeover", Running, Busy, [](Rig& rig) {
    if (!rig.BindAgent("other", true).ok()) return;
    if (!rig.AttachStream().ok()) return;
    May(rig.Frame(2));
  });
  all.push_back({.name = "failover-unflushed-none",
                 .options = {.checkpoint_durable = false},
                 .prepare = Running,
                 .before = Busy,
                 .operation = FailOverUnflushed});
  // The group's logs are as young as the clone's: their segments have the same ordinals.
  add("clones", Nothing, WithHistory, Clones);
  all.back().options.history_epochs = kHistoryEpochs;
  add("remove", Done, Nothing, [](Rig& rig) { May(rig.Remove()); });
  add("segments", SegmentFilled, OneFrame, SegmentsAgain);
  add("segments-reflink", SegmentFilled, OneFrame, SegmentsAgain);
  all.back().options.reflinks = true;
  // Segments of the open epoch that hold little which is not written again: that is moved, and they are used again.
  add(
      "compaction", Running, [](Rig& rig) { Must(rig.Frame(4)); },
      [](Rig& rig) {
        for (int i = 0; i < 12; ++i) May(rig.BigFrame(kVolumeBytes / 2));
        May(rig.Frame(2));
        May(rig.MarkedCheckpoint());
      });
  add("close", Running, Busy, [](Rig& rig) { rig.End(Ending::kClosed); });
  return all;
}

}  // namespace

const std::vector<Scenario>& Scenarios() {
  static const auto* const scenarios = new std::vector<Scenario>(AllScenarios());
  return *scenarios;
}

const std::vector<Scenario>& RandomScenarios() {
  static const auto* const scenarios = new std::vector<Scenario>(AllRandomScenarios());
  return *scenarios;
}

const Scenario* FindScenario(const std::string& name) {
  for (const auto* all : {&Scenarios(), &RandomScenarios()}) {
    for (const Scenario& scenario : *all) {
      if (scenario.name == name) return &scenario;
    }
  }
  return nullptr;
}

}  // namespace understudy::crash
