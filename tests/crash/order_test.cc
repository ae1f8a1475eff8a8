// The order rules of docs/architecture.md, each broken on purpose: the disk says that it has done a sync and has not. Then the sweep
// must find a violation; that it finds none otherwise is sweep_test's business.
#include <cstdio>
#include <functional>
#include <string>

#include "absl/strings/match.h"
#include <gtest/gtest.h>

#include "tests/crash/report.h"
#include "tests/crash/scenario.h"
#include "tests/crash/sweep.h"

namespace understudy::crash::order_test {
namespace {

using testing::SimFault;
using testing::SimIo;
using testing::SimIoKind;

constexpr uint64_t kSeeds = 12;  // at most

using MakeLie = std::function<Sweep::Lie()>;

bool IsSync(const SimIo& io, absl::string_view folder, absl::string_view suffix) {
  return io.kind == SimIoKind::kSync && absl::StartsWith(io.path, folder) &&
         absl::EndsWith(io.path, suffix);
}

// The first violation that power cuts find in the scenario under `lie`; OK: none. Every I/O gets
// its first seed before one gets its second: which I/Os tell is not known, and one seed is mostly
// enough there.
absl::Status FirstViolation(const std::string& scenario, const MakeLie& lie) {
  SilenceLog();
  Sweep sweep(*FindScenario(scenario), lie);
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    bool reached = true;
    for (uint64_t io = 1; reached; ++io) {
      const Outcome outcome =
          sweep.RunOne({.scenario = scenario, .io = io, .seed = seed + 31 * io});
      CountRun();
      if (!outcome.verdict.ok()) return outcome.verdict;
      reached = outcome.reached;
    }
  }
  return absl::OkStatus();
}

void ExpectViolation(const std::string& scenario, const MakeLie& lie) {
  const absl::Status found = FirstViolation(scenario, lie);
  EXPECT_FALSE(found.ok()) << "nobody missed the sync";
  std::printf("%s: %s\n", scenario.c_str(), found.ToString().c_str());
}

// Every sync of the index but those that come first: they are for the numbers of the overlays, of which none may be given out twice.
MakeLie NoIndexSyncsAfter(int first) {
  return [first] {
    return [left = first](const SimIo& io) mutable {
      return IsSync(io, "/host/standby/index/", ".log") && left-- <= 0;
    };
  };
}

MakeLie Always(Sweep::Lie lie) {
  return [lie] { return lie; };
}

// (1) A segment is used once its directory entry is synced.
TEST(OrderTest, OneSegmentsDirectoryIsSynced) {
  ExpectViolation("start-and-flush", Always([](const SimIo& io) {
                    return io.kind == SimIoKind::kSyncDirectory &&
                           absl::EndsWith(io.path, "/segments");
                  }));
}

// (2) Extents enter the index after their bytes are synced.
TEST(OrderTest, TwoTheLogIsSyncedBeforeTheIndex) {
  ExpectViolation("checkpoints", Always([](const SimIo& io) {
                    return IsSync(io, "/host/standby/segments/", ".seg");
                  }));
}

// (2) Apply starts after the log and the batch that ordered the epoch are synced. Each of the two is enough to find the checkpoint again;
// with --durability=none nobody was promised it, but a disk that has parts of it must not outlive both.
TEST(OrderTest, TwoTheCheckpointIsDurableBeforeApply) {
  ExpectViolation("marked-checkpoint-none", [] {
    return [index = NoIndexSyncsAfter(1)()](const SimIo& io) {
      return index(io) || IsSync(io, "/host/standby/segments/", ".seg");
    };
  });
}

// (3) The secondary disk is synced before the records are dropped, by apply and by the commit job.
TEST(OrderTest, ThreeTheDiskIsSyncedBeforeTheRecordsGo) {
  const auto lie = Always([](const SimIo& io) { return IsSync(io, "/host/disks/", ".img"); });
  ExpectViolation("marked-checkpoint", lie);
  ExpectViolation("marked-checkpoint-reflink", lie);
  ExpectViolation("failover", lie);
  ExpectViolation("failover-reflink", lie);
  ExpectViolation("stop", lie);
}

// (3) The drop is synced before the segments are used again.
TEST(OrderTest, ThreeTheDropIsSyncedBeforeSegmentsAreReused) {
  ExpectViolation("segments", NoIndexSyncsAfter(1));
}

// (4) Start, Stop, failover, Remove and terms are synced before they answer.
TEST(OrderTest, FourStagesAndTermsAreSynced) {
  ExpectViolation("open", NoIndexSyncsAfter(1));
  ExpectViolation("start", NoIndexSyncsAfter(1));
  ExpectViolation("takeover", NoIndexSyncsAfter(0));
  ExpectViolation("stop", NoIndexSyncsAfter(1));
  ExpectViolation("failover", NoIndexSyncsAfter(0));
  ExpectViolation("remove", NoIndexSyncsAfter(0));
}

}  // namespace
}  // namespace understudy::crash::order_test
