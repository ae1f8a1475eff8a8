#include "server/stage_table.h"

#include "storage/base/reason.h"

namespace understudy::server {
namespace {

Verdict Proceed() { return {}; }
Verdict Ignored() { return {.ignored = true, .refusal = {}}; }
Verdict Refuse(absl::string_view text) {
  return {.ignored = false, .refusal = absl::FailedPreconditionError(text)};
}
Verdict RefuseNotRunning() {
  return {.ignored = false,
          .refusal = WithReason(absl::FailedPreconditionError(kNotRunningText), kReasonNotRunning)};
}
Verdict RefuseWrongMode() {
  return {.ignored = false,
          .refusal = WithReason(absl::InvalidArgumentError(kWrongModeText), kReasonWrongMode)};
}
Verdict RefuseFenced(Stage stage) {
  return {.ignored = false,
          .refusal = WithReason(absl::FailedPreconditionError(
                                    absl::StrCat("the standby is in stage ", StageName(stage),
                                                 " and takes no more writes: stop this primary")),
                                kReasonFenced)};
}

Verdict JudgeStart(Verb verb, Stage stage) {
  switch (stage) {
    case Stage::kRunning:
      return Refuse(kRunningOrDoneText);
    case Stage::kFailover:
    case Stage::kDone:
      return Ignored();
    case Stage::kNone:
      return verb == Verb::kStartPrimary ? RefuseWrongMode() : Proceed();
    case Stage::kFailoverFailed:  // as RUNNING
      return Refuse(kRunningOrDoneText);
  }
  return Proceed();
}

Verdict JudgeRunningOnly(Stage stage) {
  switch (stage) {
    case Stage::kRunning:
      return Proceed();
    case Stage::kFailover:
    case Stage::kDone:
      return Ignored();
    case Stage::kNone:
    case Stage::kFailoverFailed:
      return RefuseNotRunning();
  }
  return Proceed();
}

Verdict JudgeFailover(Stage stage) {
  return stage == Stage::kFailoverFailed ? Proceed() : JudgeRunningOnly(stage);
}

Verdict JudgeRemove(Verb verb, Stage stage) {
  if (stage == Stage::kNone || stage == Stage::kDone) return Proceed();
  if (stage == Stage::kFailoverFailed && verb == Verb::kForceRemove) return Proceed();
  return Refuse(kInUseText);
}

Verdict JudgeHandshake(Stage stage) {
  if (stage == Stage::kRunning) return Proceed();
  return stage == Stage::kNone ? RefuseNotRunning() : RefuseFenced(stage);
}

}  // namespace

Verdict Judge(Verb verb, Stage stage) {
  switch (verb) {
    case Verb::kStartSecondary:
    case Verb::kStartPrimary:
      return JudgeStart(verb, stage);
    case Verb::kCheckpoint:
    case Verb::kStop:
      return JudgeRunningOnly(stage);
    case Verb::kGetError:
      return stage == Stage::kNone ? RefuseNotRunning() : Proceed();
    case Verb::kFailover:
      return JudgeFailover(stage);
    case Verb::kRemove:
    case Verb::kForceRemove:
      return JudgeRemove(verb, stage);
    case Verb::kHandshake:
      return JudgeHandshake(stage);
  }
  return Proceed();
}

}  // namespace understudy::server
