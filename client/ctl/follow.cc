#include "client/ctl/follow.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "client/ctl/json.h"
#include "client/ctl/progress.h"
#include "client/ctl/units.h"
#include "client/ctl/views.h"
#include "storage/base/deadline.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"
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
  const base::Deadline until = base::Deadline::After(kPatience);
  while (true) {
    absl::StatusOr<v1::GroupStatus> answer = status();
    if (!absl::IsUnavailable(answer.status()) || until.over()) return answer;
    absl::SleepFor(kStatusPoll);
  }
}

// Whether the agent makes good by itself all that is missing: what a volume in forward mode lacks
// has to be copied.
bool ResyncBegins(const v1::GroupStatus& status) {
  bool tee = status.volumes().empty();
  for (const v1::VolumeStatus& volume : status.volumes()) {
    const bool forward = volume.disk_path().empty();
    if (forward && volume.dirty_bytes() + volume.suspect_bytes() > 0) return false;
    tee = tee || !forward;
  }
  return tee;
}

// What is missing before the standby could take over with everything; empty: nothing.
std::string Awaited(const std::string& ctl, const v1::GroupStatus& status) {
  if (!status.connected()) return "the standby, which is not connected";
  if (status.incomplete()) {
    return ResyncBegins(status) ? "the resync to begin"
                                : "the volumes to be copied, as attach does";
  }
  if (status.committed_epoch() == 0) {
    return absl::StrCat("the first checkpoint: ", ctl, " checkpoint ", status.group());
  }
  return "";
}

// Why it will never come, if it will not.
absl::Status CheckGoesOn(const v1::GroupStatus& status) {
  if (status.stage() != v1::STAGE_RUNNING) {
    return absl::AbortedError(absl::StrCat("group ", status.group(), " is not RUNNING any more"));
  }
  if (status.handed_over()) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "group ", status.group(),
            " has handed over: its VM writes no more, and the standby is to take over; "
            "to write here again start it with takeover")),
        kReasonHandedOver);
  }
  for (const v1::ReplicationError& error : status.errors()) {
    if (status.connected() || error.reason() != kReasonFenced) continue;
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat("group ", status.group(), ": ", error.message())),
                      kReasonFenced);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::GroupStatus> FollowSync(const std::string& ctl, const StatusCall& status,
                                           Progress& progress) {
  while (true) {
    absl::StatusOr<v1::GroupStatus> answer = Ask(status);
    if (!answer.ok()) return answer;
    RETURN_IF_ERROR(CheckGoesOn(*answer));
    // A group is complete from the moment its last missing operation is queued; the standby shows it with the checkpoint that
    // ends the resync.
    if (const v1::JobStatus* const job = FindJob(*answer, "resync"); job != nullptr) {
      progress.Show(absl::StrCat(answer->group(), ": resync"), job->done_bytes(),
                    job->total_bytes());
    } else {
      const std::string awaited = Awaited(ctl, *answer);
      if (awaited.empty()) return answer;
      progress.Say(absl::StrCat(answer->group(), ": waiting for ", awaited, "\n"));
    }
    absl::SleepFor(kStatusPoll);
  }
}

absl::StatusOr<v1::GroupStatus> FollowScrub(const std::string& ctl, uint64_t number,
                                            const StatusCall& status, Progress& progress) {
  while (true) {
    absl::StatusOr<v1::GroupStatus> answer = Ask(status);
    if (!answer.ok()) return answer;
    const v1::ScrubStatus& scrub = answer->scrub();
    if (scrub.number() < number) {
      return absl::AbortedError(
          absl::StrCat("group ", answer->group(), ": the service was restarted: scrub again"));
    }
    if (scrub.number() > number || scrub.outcome() != v1::SCRUB_OUTCOME_RUNNING) return answer;
    progress.Say(ScrubView(ctl, *answer));
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

std::string SyncView(const std::string& ctl, const v1::GroupStatus& status) {
  std::string text =
      absl::StrCat(status.group(), ": nothing is missing at the standby, sync state ",
                   EnumName(*v1::SyncState_descriptor(), status.sync_state()), ", committed epoch ",
                   status.committed_epoch());
  if (status.sync_state() == v1::SYNC_STATE_DIVERGED) {
    absl::StrAppend(&text, "; but a verify has found differences; remedy: ", ctl, " sync ",
                    status.group(), " --full --wait");
  }
  return text + "\n";
}

std::string VerifyView(const std::string& ctl, const v1::GroupStatus& status) {
  const v1::VerifyStatus& verify = status.verify();
  std::string text = absl::StrCat(status.group(), ": verify ", verify.number(), " ",
                                  EnumName(*v1::VerifyOutcome_descriptor(), verify.outcome()), ", ",
                                  HumanBytes(verify.bytes()), " compared, ",
                                  HumanBytes(verify.different_bytes()), " different");
  if (!verify.message().empty()) absl::StrAppend(&text, ": ", verify.message());
  if (verify.different_bytes() > 0) {
    absl::StrAppend(&text, "; where: ", ctl, " get-error ", status.group(), "; remedy: ", ctl,
                    " sync ", status.group(), " --full --wait");
  }
  return text + "\n";
}

}  // namespace understudy::ctl
