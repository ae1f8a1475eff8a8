#include "tests/crash/model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace understudy::crash {
namespace {

std::string_view Sector(const std::string& image, uint64_t sector) {
  return std::string_view(image).substr(sector * kSectorBytes, kSectorBytes);
}

}  // namespace

std::string FirstDifference(const Images& found, const Images& expected) {
  for (size_t v = 0; v < expected.size(); ++v) {
    if (found[v] == expected[v]) continue;
    if (found[v].size() != expected[v].size()) return absl::StrCat("volume ", v, " length");
    for (uint64_t s = 0; s * kSectorBytes < expected[v].size(); ++s) {
      if (Sector(found[v], s) != Sector(expected[v], s))
        return absl::StrCat("volume ", v, " sector ", s);
    }
  }
  return "";
}

Model::Model(Images initial)
    : initial_(Share(std::move(initial))), checkpoints_{{.epoch = Epoch(0), .view = initial_}} {}

Images Model::PrimaryAfter(uint64_t operations) const {
  Images images = *initial_;
  for (uint64_t i = 0; i < operations; ++i) {
    const Operation& operation = sent[i].operation;
    if (!operation.has_range()) continue;
    std::string& image = images[operation.volume];
    if (operation.kind == OperationKind::kData) {
      image.replace(operation.offset, operation.length, *sent[i].data);
    } else {
      image.replace(operation.offset, operation.length, operation.length, '\0');
    }
  }
  return images;
}

// ---- what happens ----------------------------------------------------------------------------------------------------------------

void Model::BeginPrepare(Epoch epoch, uint64_t operations) {
  prepared_ = Epoch();
  prepares_[epoch] = operations;
}

void Model::AnswerPrepare(Epoch epoch) {
  prepared_ = epoch;
  durable = std::max(durable, PreparedAfter(epoch));
}

size_t Model::BeginCheckpoint(Epoch epoch, uint64_t operations) {
  prepared_ = Epoch();
  newest_begun_ = std::max(newest_begun_, epoch);
  for (size_t i = answered_ + 1; i < checkpoints_.size(); ++i) {
    if (checkpoints_[i].epoch == epoch && checkpoints_[i].sent == operations) return i;
  }
  checkpoints_.push_back(
      {.epoch = epoch, .sent = operations, .view = Share(PrimaryAfter(operations))});
  return checkpoints_.size() - 1;
}

size_t Model::BeginGoingBack(Epoch epoch) {
  const uint64_t operations = *FindCheckpoint(epoch);
  checkpoints_.push_back({.epoch = epoch,
                          .sent = operations,
                          .view = Share(PrimaryAfter(operations)),
                          .writes = {},
                          .gone_back_to = true});
  return checkpoints_.size() - 1;
}

void Model::AnswerCheckpoint(size_t index, bool is_durable) {
  answered_ = std::max(answered_, index);
  if (is_durable) durable_ = std::max(durable_, index);
}

size_t Model::BeginWrite(size_t shown, VmWrite write) {
  checkpoints_[shown].writes.push_back(std::move(write));
  return checkpoints_[shown].writes.size() - 1;
}

void Model::AnswerFlush(size_t shown, uint32_t volume) {
  durable_ = std::max(durable_, shown);  // the writes would go with the checkpoint below them
  for (VmWrite& write : checkpoints_[shown].writes) {
    if (write.volume == volume && write.answered) write.durable = true;
  }
}

// ---- history ----------------------------------------------------------------------------------------------------------------------

std::optional<uint64_t> Model::FindCheckpoint(Epoch epoch) const {
  // An epoch is begun again only when what was begun before has come to nothing.
  for (size_t i = checkpoints_.size(); i-- > 0;) {
    if (checkpoints_[i].epoch == epoch) return checkpoints_[i].sent;
  }
  const auto found = older_.find(epoch);
  return found == older_.end() ? std::nullopt : std::optional(found->second);
}

void Model::GiveUpHistory() { history_given_up_ = newest_begun_; }

absl::Status Model::CheckHistory(const std::vector<Epoch>& offered, uint64_t history_epochs) const {
  const Epoch newest = checkpoints_[answered_].epoch;
  for (size_t i = 0; i < offered.size(); ++i) {
    const std::string name = absl::StrCat("epoch ", offered[i].value());
    if (offered[i] > newest || !HasEpoch(offered[i])) {
      return Wrong(absl::StrCat("history offers ", name, ", which is no checkpoint"));
    }
    if (i > 0 && offered[i] >= offered[i - 1]) return Wrong("history is not in order");
  }
  // Of what is kept nothing may be missing; only what newer ones have pushed out may be half applied.
  for (Epoch epoch = newest; epoch > Epoch() && HasEpoch(epoch); epoch = Epoch(epoch.value() - 1)) {
    const bool kept =
        epoch.value() + history_epochs > newest_begun_.value() && epoch > history_given_up_;
    if (!kept && epoch != newest) break;
    if (std::find(offered.begin(), offered.end(), epoch) == offered.end()) {
      return Wrong(absl::StrCat("history lacks epoch ", epoch.value()));
    }
  }
  return absl::OkStatus();
}

// ---- verdicts ---------------------------------------------------------------------------------------------------------------------

uint64_t Model::ReceivedIn(const storage::ReplicaState& state) const {
  const auto base = bases.find(state.stream_id);
  return (base == bases.end() ? 0 : base->second) + state.received_sequence;
}

size_t Model::Shown(const storage::ReplicaState& state) const {
  for (size_t i = checkpoints_.size(); i-- > 0;) {
    if (checkpoints_[i].epoch == state.committed_epoch) return i;
  }
  UNDERSTUDY_CHECK(false, "epoch ", state.committed_epoch.value(), " was never asked for");
  return 0;
}

absl::Status Model::CheckGroup(const storage::ReplicaState& state) const {
  if (!stages.contains(state.stage)) {
    std::string allowed;
    for (const Stage stage : stages) absl::StrAppend(&allowed, " ", std::string(StageName(stage)));
    return Wrong(absl::StrCat("stage is ", StageName(state.stage), ", may be:", allowed));
  }
  if (state.term < term_min || state.term > term_max) {
    return Wrong(absl::StrCat("term is ", state.term.value(), ", may be ", term_min.value(), " to ",
                              term_max.value()));
  }
  if (!agents.contains(state.agent_id)) {
    return Wrong(absl::StrCat("the primaryship belongs to '", state.agent_id, "'"));
  }
  return absl::OkStatus();
}

absl::Status Model::CheckReceived(const storage::ReplicaState& state, Ending ending) const {
  if (!streams.contains(state.stream_id)) {
    return Wrong(absl::StrCat("stream ", state.stream_id, " is attached"));
  }
  const uint64_t found = ReceivedIn(state);
  const uint64_t least = ending == Ending::kPowerCut ? durable : received;
  if (found < least || found > sent.size()) {
    return Wrong(absl::StrCat("received are ", found, " operations of the primary, may be ", least,
                              " to ", sent.size()));
  }
  bool incomplete = false;
  for (uint64_t i = 0; i < found; ++i) {
    if (sent[i].operation.kind == OperationKind::kIncomplete) incomplete = true;
    if (sent[i].operation.kind == OperationKind::kComplete) incomplete = false;
    // Another stream than the first has taken over.
  }
  for (const auto& [stream, base] : bases) {
    if (base == 0 || stream > state.stream_id) continue;
    const bool completed =
        std::any_of(sent.begin() + static_cast<std::ptrdiff_t>(std::min(base, found)),
                    sent.begin() + static_cast<std::ptrdiff_t>(found),
                    [](const auto& one) { return one.operation.kind == OperationKind::kComplete; });
    incomplete = incomplete || !completed;
  }
  if (incomplete != state.incomplete) {
    return Wrong(absl::StrCat("incomplete is ", state.incomplete, " after ", found, " operations"));
  }
  return absl::OkStatus();
}

absl::Status Model::CheckView(const ModelCheckpoint& checkpoint, const Images& view,
                              Ending ending) {
  const auto required = [ending](const VmWrite& write) {
    return ending == Ending::kPowerCut ? write.durable : write.answered;
  };
  std::string expected;
  for (uint32_t v = 0; v < checkpoint.view->size(); ++v) {
    expected = (*checkpoint.view)[v];
    for (const VmWrite& write : checkpoint.writes) {
      if (write.volume != v || !required(write)) continue;
      expected.replace(write.offset, write.data->size(), *write.data);
    }
    if (view[v] == expected) continue;
    for (uint64_t s = 0; s * kSectorBytes < expected.size(); ++s) {
      const std::string_view found = Sector(view[v], s);
      bool allowed = found == Sector(expected, s);
      // Any write that was not promised and that none that was promised has overwritten since.
      for (auto write = checkpoint.writes.rbegin(); !allowed && write != checkpoint.writes.rend();
           ++write) {
        const ByteRange range = ByteRange::OfLength(write->offset, write->data->size());
        if (write->volume != v || !range.Contains(ByteRange::OfLength(s * 512, 512))) continue;
        if (required(*write)) break;
        allowed = found == std::string_view(*write->data).substr(s * 512 - write->offset, 512);
      }
      if (!allowed) {
        return Wrong(absl::StrCat("volume ", v, " sector ", s, " is neither of epoch ",
                                  checkpoint.epoch.value(), " nor of a write since"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Model::CheckHandover(const storage::ReplicaState& state) const {
  if (handed_over_ && !state.handed_over) return Wrong("the hand-over is forgotten");
  if (state.handed_over && !handover_) return Wrong("handed over by nobody");
  if (state.stage != Stage::kRunning || !handover_) return absl::OkStatus();
  const bool committed = FindCheckpoint(state.committed_epoch) == handover_;
  if (state.handed_over && !committed) return Wrong("handed over without its checkpoint");
  if (committed && !state.handed_over && !taken_back_) return Wrong("its checkpoint alone");
  return absl::OkStatus();
}

absl::StatusOr<size_t> Model::Check(const storage::ReplicaState& state, const Images& view,
                                    Ending ending) const {
  RETURN_IF_ERROR(CheckGroup(state));
  if (state.stage == Stage::kRunning) RETURN_IF_ERROR(CheckReceived(state, ending));
  if (state.stage == Stage::kRunning && prepared_ != Epoch() && state.prepared_epoch != prepared_) {
    return Wrong(absl::StrCat("epoch ", state.prepared_epoch.value(), " is prepared, may be ",
                              prepared_.value()));
  }
  RETURN_IF_ERROR(CheckHandover(state));
  if (state.stage == Stage::kNone) return answered_;
  const bool going_back = checkpoints_.back().gone_back_to;
  absl::Status verdict = Wrong(absl::StrCat("committed epoch is ", state.committed_epoch.value(),
                                            ", which was given up or never asked for"));
  for (size_t i = ending == Ending::kPowerCut ? durable_ : answered_; i < checkpoints_.size();
       ++i) {
    if (checkpoints_[i].epoch != state.committed_epoch) continue;
    if (going_back && checkpoints_[i].gone_back_to == (state.stage == Stage::kRunning)) continue;
    verdict = CheckView(checkpoints_[i], view, ending);
    if (verdict.ok() && state.stage == Stage::kRunning &&
        ReceivedIn(state) < checkpoints_[i].sent) {
      verdict = Wrong("the newest checkpoint covers more than was received");
    }
    if (verdict.ok()) return i;
  }
  return verdict;
}

void Model::Settle(const storage::ReplicaState& state, Images view, size_t checkpoint,
                   Ending ending) {
  stages = {state.stage};
  if (state.stage == Stage::kFailover) stages.insert({Stage::kFailoverFailed, Stage::kDone});
  if (state.stage == Stage::kFailoverFailed) stages.insert({Stage::kFailover, Stage::kDone});
  term_min = term_max = state.term;
  agents = {state.agent_id};
  prepared_ = state.prepared_epoch;
  handed_over_ = state.handed_over;
  if (state.stage == Stage::kRunning) {
    streams = {state.stream_id};
    received = durable = ReceivedIn(state);
  }
  for (size_t i = 0; i < checkpoint; ++i) older_[checkpoints_[i].epoch] = checkpoints_[i].sent;
  ModelCheckpoint found = checkpoints_[checkpoint];
  older_.erase(older_.lower_bound(found.epoch), older_.end());
  // Recovery makes durable what it has read from the logs, but what the VM has written to the disk itself waits for its flush.
  const bool on_disk = state.stage != Stage::kNone && state.stage != Stage::kRunning;
  if (on_disk && ending != Ending::kPowerCut) {
    for (VmWrite& write : found.writes) write.answered = write.durable;
  } else {
    found.writes.clear();
    if (state.stage != Stage::kNone) found.view = Share(std::move(view));
  }
  checkpoints_ = {std::move(found)};
  answered_ = durable_ = 0;
}

}  // namespace understudy::crash
