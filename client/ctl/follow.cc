#include "client/ctl/follow.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "client/ctl/json.h"
#include "client/ctl/progress.h"
#include "client/ctl/units.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::ctl {
namespace {

constexpr absl::Duration kStatusPoll = absl::Milliseconds(500);
constexpr absl::Duration kPatience = absl::Seconds(10);

const v1::JobStatus* FindJob(const v1::GroupStatus& status, const std::string& kind) {
  for (const v1::JobStatus& job : status.jobs()) {
    if (job.kind() == kind) return &job;
  }
  return nullptr;
}

absl::StatusOr<v1::GroupStatus> Ask(const StatusCall& status) {
  const absl::Time until = absl::Now() + kPatience;
  while (true) {
    absl::StatusOr<v1::GroupStatus> answer = status();
    if (!absl::IsUnavailable(answer.status()) || absl::Now() > until) return answer;
    absl::SleepFor(kStatusPoll);
  }
}

}  // namespace

absl::StatusOr<v1::GroupStatus> FollowSync(const StatusCall& status, Progress& progress) {
  while (true) {
    absl::StatusOr<v1::GroupStatus> answer = Ask(status);
    if (!answer.ok()) return answer;
    // A group is complete from the moment its last missing operation is queued; the standby shows it with the checkpoint that
    // ends the resync.
    const v1::JobStatus* const job = FindJob(*answer, "resync");
    if (!answer->incomplete() && job == nullptr) return answer;
    if (answer->stage() != v1::STAGE_RUNNING) {
      return absl::AbortedError(
          absl::StrCat("group ", answer->group(), " is not RUNNING any more"));
    }
    if (job != nullptr) {
      progress.Show(absl::StrCat(answer->group(), ": resync"), job->done_bytes(),
                    job->total_bytes());
    } else {
      progress.Say(absl::StrCat(answer->group(), ": waiting for ",
                                answer->connected() ? "the resync to begin" : "the standby", "\n"));
    }
    absl::SleepFor(kStatusPoll);
  }
}

absl::StatusOr<v1::GroupStatus> FollowVerify(uint64_t number, const StatusCall& status,
                                             Progress& progress) {
  while (true) {
    absl::StatusOr<v1::GroupStatus> answer = Ask(status);
    if (!answer.ok()) return answer;
    const v1::VerifyStatus& verify = answer->verify();
    if (verify.number() < number) {
      return absl::AbortedError(
          absl::StrCat("group ", answer->group(), ": the agent was restarted: verify again"));
    }
    const v1::JobStatus* const job = FindJob(*answer, "verify");
    if (verify.number() > number || job == nullptr) return answer;
    progress.Show(absl::StrCat(answer->group(), ": verify"), job->done_bytes(), job->total_bytes());
    absl::SleepFor(kStatusPoll);
  }
}

std::string SyncView(const v1::GroupStatus& status) {
  return absl::StrCat(status.group(), ": nothing is missing at the standby, sync state ",
                      EnumName(*v1::SyncState_descriptor(), status.sync_state()),
                      ", committed epoch ", status.committed_epoch(), "\n");
}

std::string VerifyView(const v1::GroupStatus& status) {
  const v1::VerifyStatus& verify = status.verify();
  std::string text = absl::StrCat(status.group(), ": verify ", verify.number(), " ",
                                  EnumName(*v1::VerifyOutcome_descriptor(), verify.outcome()), ", ",
                                  HumanBytes(verify.bytes()), " compared, ",
                                  HumanBytes(verify.different_bytes()), " different");
  if (!verify.message().empty()) absl::StrAppend(&text, ": ", verify.message());
  if (verify.different_bytes() > 0) {
    absl::StrAppend(&text, "; where: understudyctl get-error ", status.group(),
                    "; remedy: understudyctl sync ", status.group(), " --full --wait");
  }
  return text + "\n";
}

}  // namespace understudy::ctl
