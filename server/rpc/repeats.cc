#include "server/rpc/repeats.h"

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "server/rpc/convert.h"

namespace understudy::server {
namespace {

// A group before a call. In a journal: "STAGE INCARNATION TERM COMMITTED-EPOCH UNIX-MICROS"; "": there was no such group.
struct Before {
  Stage stage = Stage::kNone;
  Incarnation incarnation;
  Term term;
  Epoch committed_epoch;
  absl::Time time;
};

std::optional<storage::ReplicaState> StateOf(Service& service, const std::string& name) {
  const auto group = service.FindGroup(name);
  if (!group.ok()) return std::nullopt;
  return (*group)->replica().state();
}

std::string Note(Service& service, const std::string& name) {
  const auto state = StateOf(service, name);
  if (!state) return "";
  return absl::StrCat(static_cast<int>(state->stage), " ", state->incarnation.ToHex(), " ",
                      state->term.value(), " ", state->committed_epoch.value(), " ",
                      absl::ToUnixMicros(service.clock().Now()));
}

std::optional<Before> Parse(const std::string& note) {
  const std::vector<std::string> fields = absl::StrSplit(note, ' ');
  if (fields.size() != 5) return std::nullopt;
  int stage = 0;
  uint64_t term = 0;
  uint64_t epoch = 0;
  int64_t micros = 0;
  const auto incarnation = Incarnation::FromHex(fields[1]);
  const bool numbers = absl::SimpleAtoi(fields[0], &stage) && absl::SimpleAtoi(fields[2], &term) &&
                       absl::SimpleAtoi(fields[3], &epoch) && absl::SimpleAtoi(fields[4], &micros);
  if (!numbers || !incarnation.ok()) return std::nullopt;
  return Before{.stage = static_cast<Stage>(stage),
                .incarnation = *incarnation,
                .term = Term(term),
                .committed_epoch = Epoch(epoch),
                .time = absl::FromUnixMicros(micros)};
}

// Only Start makes an incarnation, and only of a group in stage NONE.
bool Started(const std::string& note, const std::optional<storage::ReplicaState>& now) {
  const std::optional<Before> before = Parse(note);
  if (!now || now->stage != Stage::kRunning || (before && before->stage != Stage::kNone)) {
    return false;
  }
  return !before || before->incarnation != now->incarnation;
}

// As for a call that is not repeated: any checkpoint whose marker came after the call began will do.
bool Committed(const std::string& note, const std::optional<storage::ReplicaState>& now) {
  const std::optional<Before> before = Parse(note);
  return now && before && before->stage == Stage::kRunning &&
         now->incarnation == before->incarnation &&
         now->committed_epoch > before->committed_epoch && now->committed_time >= before->time;
}

bool Stopped(bool failover, const std::string& note,
             const std::optional<storage::ReplicaState>& now) {
  const std::optional<Before> before = Parse(note);
  if (!now || !before || now->incarnation != before->incarnation) return false;
  const bool taken_over =
      now->term > before->term;  // a failover raises it, a planned stop does not
  if (before->stage == Stage::kRunning) {
    if (!failover) return now->stage == Stage::kDone && !taken_over;
    return taken_over && now->stage != Stage::kRunning;
  }
  return failover && before->stage == Stage::kFailoverFailed &&
         (now->stage == Stage::kFailover || now->stage == Stage::kDone);
}

// Gone, or another one of that name is there, which is not to be removed.
bool Removed(const std::string& note, const std::optional<storage::ReplicaState>& now) {
  const std::optional<Before> before = Parse(note);
  return before && (!now || now->incarnation != before->incarnation);
}

}  // namespace

proto::Repeat<v1::StartResponse> RepeatOf(Service& service, const v1::StartRequest& request) {
  const std::string name = request.group();
  return {.before = [&service, name] { return Note(service, name); },
          .derive =
              [&service, name](const std::string& before, v1::StartResponse& response) {
                const auto now = StateOf(service, name);
                if (!Started(before, now)) return false;
                response.set_stage(ToProto(now->stage));
                response.set_incarnation(ToBytes(now->incarnation));
                response.set_term(now->term.value());
                return true;
              }};
}

proto::Repeat<v1::CheckpointResponse> RepeatOf(Service& service,
                                               const v1::CheckpointRequest& request) {
  const bool full = request.mode() == v1::CHECKPOINT_MODE_UNSPECIFIED ||
                    request.mode() == v1::CHECKPOINT_MODE_FULL;
  if (!full)
    return {};  // a COMMIT names its epoch, an ABANDON may find nothing: both can be done again
  const std::string name = request.group();
  return {.before = [&service, name] { return Note(service, name); },
          .derive =
              [&service, name, id = request.request_id()](const std::string& before,
                                                          v1::CheckpointResponse& response) {
                const auto group = service.FindGroup(name);
                if (!group.ok() || (*group)->CheckpointAtWork(id)) return false;
                const storage::ReplicaState now = (*group)->replica().state();
                if (!Committed(before, now)) return false;
                response.set_stage(ToProto(now.stage));
                response.set_epoch(now.committed_epoch.value());
                response.set_sequence(now.committed_sequence);
                return true;
              }};
}

proto::Repeat<v1::StopResponse> RepeatOf(Service& service, const v1::StopRequest& request) {
  const std::string name = request.group();
  return {.before = [&service, name] { return Note(service, name); },
          .derive =
              [&service, name, failover = request.failover()](const std::string& before,
                                                              v1::StopResponse& response) {
                const auto now = StateOf(service, name);
                if (!Stopped(failover, before, now)) return false;
                response.set_stage(ToProto(now->stage));
                response.set_epoch(now->committed_epoch.value());
                response.set_term(now->term.value());
                return true;
              }};
}

proto::Repeat<v1::RemoveResponse> RepeatOf(Service& service, const v1::RemoveRequest& request) {
  const std::string name = request.group();
  return {.before = [&service, name] { return Note(service, name); },
          .derive =
              [&service, name](const std::string& before, v1::RemoveResponse& response) {
                response.set_stage(v1::STAGE_NONE);
                return Removed(before, StateOf(service, name));
              }};
}

}  // namespace understudy::server
