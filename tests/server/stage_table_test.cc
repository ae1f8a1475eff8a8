#include "server/stage_table.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "storage/base/reason.h"

namespace understudy::server::stage_table_test {
namespace {

constexpr Stage kAll[] = {Stage::kNone, Stage::kRunning, Stage::kFailover, Stage::kFailoverFailed,
                          Stage::kDone};

// One cell of docs/semantics.md section 1: "ok", "ignored", or CODE[ REASON]: text.
std::string Cell(const Verdict& verdict) {
  if (verdict.ignored) return "ignored";
  if (verdict.refusal.ok()) return "ok";
  const auto reason = ReasonOf(verdict.refusal);
  return absl::StatusCodeToString(verdict.refusal.code()) + (reason ? " " + reason->reason : "") +
         ": " + std::string(verdict.refusal.message());
}

struct Row {
  Verb verb;
  std::vector<std::string> cells;  // NONE, RUNNING, FAILOVER, FAILOVER_FAILED, DONE
};

TEST(StageTableTest, EveryCellIsAsTheSemanticsSay) {
  const std::string not_running =
      "FAILED_PRECONDITION NOT_RUNNING: Block replication is not running";
  const std::string running = "FAILED_PRECONDITION: Block replication is running or done";
  const std::string in_use = "FAILED_PRECONDITION: Block device is in use by internal backup job";
  const std::string wrong_mode =
      "INVALID_ARGUMENT WRONG_MODE: The parameter mode's value is invalid, needs 1, but got 0";
  const std::vector<Row> table = {
      {Verb::kStartSecondary, {"ok", running, "ignored", running, "ignored"}},
      {Verb::kStartPrimary, {wrong_mode, running, "ignored", running, "ignored"}},
      {Verb::kCheckpoint, {not_running, "ok", "ignored", not_running, "ignored"}},
      {Verb::kGetError, {not_running, "ok", "ok", "ok", "ok"}},
      {Verb::kStop, {not_running, "ok", "ignored", not_running, "ignored"}},
      {Verb::kFailover, {not_running, "ok", "ignored", "ok", "ignored"}},
      {Verb::kRemove, {"ok", in_use, in_use, in_use, "ok"}},
      {Verb::kForceRemove, {"ok", in_use, in_use, "ok", "ok"}},
  };
  for (const Row& row : table) {
    for (size_t i = 0; i < row.cells.size(); ++i) {
      EXPECT_EQ(Cell(Judge(row.verb, kAll[i])), row.cells[i])
          << "verb " << static_cast<int>(row.verb) << " in " << StageName(kAll[i]);
    }
  }
}

TEST(StageTableTest, AHandshakeIsToldWhetherToTryAgain) {
  EXPECT_TRUE(Judge(Verb::kHandshake, Stage::kRunning).proceed());
  EXPECT_TRUE(HasReason(Judge(Verb::kHandshake, Stage::kNone).refusal, kReasonNotRunning));
  for (const Stage stage : {Stage::kFailover, Stage::kFailoverFailed, Stage::kDone}) {
    EXPECT_TRUE(HasReason(Judge(Verb::kHandshake, stage).refusal, kReasonFenced))
        << StageName(stage);
  }
}

}  // namespace
}  // namespace understudy::server::stage_table_test
