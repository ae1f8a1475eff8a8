// What a rig's store must look like, and that it is of use afterwards.
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "tests/crash/rig.h"

namespace understudy::crash {

Images Rig::RawDisks() {
  Images images;
  for (const storage::VolumeSpec& volume : spec_.volumes) {
    images.push_back(disk_.ReadWholeFile(volume.disk_path).value_or("unreadable"));
  }
  return images;
}

absl::Status Rig::CompareDisks(const Images& expected) {
  const std::string difference = FirstDifference(RawDisks(), expected);
  return difference.empty()
             ? absl::OkStatus()
             : Wrong(absl::StrCat("the raw disk is not the VM's view: ", difference));
}

absl::Status Rig::CheckFailback() {
  ASSIGN_OR_RETURN(const storage::FailbackRegions failback, replica_->Failback());
  Images here = RawDisks();
  Images primary = model_.PrimaryAfter(model_.sent.size());
  const auto excuse = [&](size_t volume, ByteRange range) {
    for (Images* images : {&here, &primary}) {
      (*images)[volume].replace(range.start, range.size(), range.size(), '\0');
    }
  };
  for (size_t i = model_.durable; i < model_.sent.size(); ++i) {
    const Operation& operation = model_.sent[i].operation;
    if (operation.has_range()) excuse(operation.volume, operation.range());
  }
  for (size_t volume = 0; volume < failback.runs.size(); ++volume) {
    for (const ByteRange& run : failback.runs[volume]) excuse(volume, run);
  }
  const std::string difference = FirstDifference(here, primary);
  if (difference.empty()) return absl::OkStatus();
  return Wrong(
      absl::StrCat("differs from the primary's disk, and no failback would find it: ", difference));
}

absl::Status Rig::Check(Ending ending, Ending promised) {
  if (replica_ == nullptr) return CheckGone();
  const storage::ReplicaState state = replica_->state();
  Images view;  // a group without one shows nothing
  if (state.stage != Stage::kNone) {
    absl::StatusOr<Images> read = ReadAll(*replica_);
    RETURN_IF_ERROR(Annotate(read.status(), "view cannot be read"));
    view = *std::move(read);
  }
  ASSIGN_OR_RETURN(const size_t checkpoint, model_.Check(state, view, promised));
  if (ending != Ending::kStillRunning) model_.Settle(state, std::move(view), checkpoint, ending);
  return absl::OkStatus();
}

// There is no group: it was never opened, or has been removed.
absl::Status Rig::CheckGone() {
  if (model_.open_answered && !model_.remove_asked) return Wrong("the group is gone");
  model_.open_asked = model_.open_answered = false;
  return absl::OkStatus();
}

absl::Status Rig::Recover(Ending ending, Ending promised, Ending second) {
  const bool cloned = cloned_;
  uint64_t segment_bytes = 0;
  if (cloned) {
    ASSIGN_OR_RETURN(segment_bytes, SegmentBytesWithoutClones());
  }
  RETURN_IF_ERROR(Annotate(OpenStore(), "first reopening"));
  if (replica_ != nullptr && !model_.open_asked) return Wrong("there is a group that was removed");
  if (replica_ != nullptr) model_.open_answered = true;
  RETURN_IF_ERROR(Annotate(Check(ending, promised), "after the first reopening"));
  RETURN_IF_ERROR(Annotate(CheckHistory(), "after the first reopening"));
  if (cloned) RETURN_IF_ERROR(CheckNoTrace(segment_bytes));
  const bool there = replica_ != nullptr;
  End(second);
  RETURN_IF_ERROR(Annotate(OpenStore(), "second reopening"));
  if (there != (replica_ != nullptr)) return Wrong("the second reopening found another group");
  RETURN_IF_ERROR(Annotate(Check(second), "after the second reopening"));
  RETURN_IF_ERROR(Annotate(CheckHistory(), "after the second reopening"));
  return Annotate(GoOn(), "going on");
}

absl::Status Rig::Resume() {
  if (model_.handover_asked()) {
    RETURN_IF_ERROR(TakeBackHandover());
    std::erase_if(model_.sent, [&](const PrimaryOperation& one) {
      return static_cast<uint64_t>(&one - model_.sent.data()) >=
                 model_.ReceivedIn(replica_->state()) &&
             one.operation.kind == OperationKind::kHandover;
    });
  }
  const storage::ReplicaState state = replica_->state();
  if (state.agent_id.empty()) RETURN_IF_ERROR(BindAgent("agent", false));
  if (state.stream_id == 0) {
    RETURN_IF_ERROR(AttachStream());
  } else {
    RETURN_IF_ERROR(replica_->AttachStream(state.stream_id, /*may_checkpoint=*/false));
  }
  if (replica_->state().incomplete) {
    // Markers that are sent again while it is incomplete make no checkpoint.
    std::erase_if(model_.sent, [&](const PrimaryOperation& one) {
      return static_cast<uint64_t>(&one - model_.sent.data()) >= model_.ReceivedIn(state) &&
             IsMarker(one.operation.kind);
    });
    RETURN_IF_ERROR(Complete());
  }
  return Send();
}

absl::Status Rig::GoOnRunning() {
  RETURN_IF_ERROR(Annotate(Resume(), "resuming the stream"));
  RETURN_IF_ERROR(VmWrite());
  RETURN_IF_ERROR(Frame(3));
  RETURN_IF_ERROR(MarkedCheckpoint());
  RETURN_IF_ERROR(Settle());
  RETURN_IF_ERROR(Check(Ending::kStillRunning));
  RETURN_IF_ERROR(CheckHistory());
  if (options_.history_epochs == 0) {
    RETURN_IF_ERROR(CompareDisks(model_.PrimaryAfter(model_.sent.size())));
  }
  RETURN_IF_ERROR(Frame(2));
  RETURN_IF_ERROR(VmWrite());
  RETURN_IF_ERROR(VmFlush(0));
  return LeaveRunning();
}

absl::Status Rig::LeaveRunning() {
  if (random_() % 3 == 0) return Stop();
  if (options_.history_epochs == 0) return Failover();
  RETURN_IF_ERROR(DurablePoint());  // one that is not durable yet cannot be chosen
  const std::vector<Epoch> history = History();
  return FailoverTo(history[random_() % history.size()]);
}

absl::Status Rig::GoOn() {
  if (replica_ == nullptr) {
    // What the disks hold now is where the next pairing begins.
    model_ = Model(RawDisks());
    RETURN_IF_ERROR(OpenGroup());
  }
  if (replica_->state().stage == Stage::kNone) {
    model_ = Model(RawDisks());
    model_.term_min = model_.term_max = replica_->state().term;
    RETURN_IF_ERROR(Start());
  }
  if (replica_->state().stage == Stage::kFailoverFailed) RETURN_IF_ERROR(Failover());
  if (replica_->state().stage == Stage::kRunning) RETURN_IF_ERROR(GoOnRunning());
  RETURN_IF_ERROR(VmWrite());
  RETURN_IF_ERROR(Annotate(Settle(), "last job"));
  RETURN_IF_ERROR(VmWrite());
  if (replica_->state().stage != Stage::kDone) return Wrong("the commit job did not end in DONE");
  RETURN_IF_ERROR(Check(Ending::kStillRunning));
  ASSIGN_OR_RETURN(const Images view, ReadAll(*replica_));
  RETURN_IF_ERROR(CompareDisks(view));
  return CheckFailback();
}

}  // namespace understudy::crash
