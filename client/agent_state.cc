#include "client/agent_state.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

#include "client/differences.h"
#include "storage/base/crc32c.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

constexpr uint64_t kStateVersion = 2;
constexpr char kProved[] = "PROVED";
constexpr char kRefuted[] = "REFUTED";

absl::StatusOr<Stage> StageFromName(absl::string_view name) {
  for (const Stage stage : {Stage::kNone, Stage::kRunning, Stage::kDone}) {
    if (name == StageName(stage)) return stage;
  }
  return absl::DataLossError("no such stage");
}

bool ApplyFlag(absl::string_view value, bool& flag) {
  flag = value == "1";
  return value == "0" || value == "1";
}

bool ApplyMicros(absl::string_view value, absl::Duration& duration) {
  int64_t micros = 0;
  if (!absl::SimpleAtoi(value, &micros)) return false;
  duration = absl::Microseconds(micros);
  return true;
}

bool ApplyIncarnation(absl::string_view value, Incarnation& incarnation) {
  const auto decoded = Incarnation::FromHex(value);
  if (decoded.ok()) incarnation = *decoded;
  return decoded.ok();
}

// What says how to read the file, and the term.
struct Numbers {
  uint64_t version = 0;
  uint64_t lines = 0;  // 0: an older file does not say
  uint64_t term = 0;
};

bool Apply(absl::string_view key, absl::string_view value, Numbers& numbers, AgentRecord& record) {
  if (key == "version") return absl::SimpleAtoi(value, &numbers.version);
  if (key == "lines") return absl::SimpleAtoi(value, &numbers.lines);
  if (key == "term") return absl::SimpleAtoi(value, &numbers.term);
  if (key == "stream_id") return absl::SimpleAtoi(value, &record.resume.stream_id);
  if (key == "next_sequence") return absl::SimpleAtoi(value, &record.resume.next_sequence);
  if (key == "intent") return absl::SimpleHexAtoi(value, &record.intent);
  if (key == "differences") {
    record.differences = std::string(value);
    return true;
  }
  if (key == "stored") return absl::SimpleAtoi(value, &record.stored_micros);
  if (key == "boot_id") {
    record.stored_at.boot_id = std::string(value);
    return true;
  }
  if (key == "since_boot") return ApplyMicros(value, record.stored_at.since_boot);
  if (key == "fenced") return ApplyFlag(value, record.fenced);
  if (key == "handed_over") return ApplyFlag(value, record.handed_over);
  if (key == "clean") return ApplyFlag(value, record.clean);
  if (key == "failback_new") return ApplyFlag(value, record.failback_new);
  if (key == "proof") {
    record.proof = value == kProved ? Proof::kProved : Proof::kRefuted;
    return value == kProved || value == kRefuted;
  }
  if (key == "forward") {
    record.forward = std::string(value);
    return true;
  }
  if (key == "disks") {
    record.disks = std::string(value);
    return true;
  }
  if (key == "agent_id") {
    record.agent_id = std::string(value);
    return CheckName("agent id", value).ok();
  }
  if (key == "stage") {
    const auto stage = StageFromName(value);
    if (stage.ok()) record.stage = *stage;
    return stage.ok();
  }
  if (key == "incarnation") return ApplyIncarnation(value, record.grant.incarnation);
  if (key == "pair") return ApplyIncarnation(value, record.pair);
  if (key == "pair_agent") {
    record.pair_agent = std::string(value);
    return true;
  }
  if (key == "failback_of") return ApplyIncarnation(value, record.failback_of);
  return false;
}

uint64_t LinesOf(absl::string_view text) {
  return static_cast<uint64_t>(std::count(text.begin(), text.end(), '\n'));
}

// That the state file is new, not lost. Touches nothing.
absl::Status CheckNotLost(base::FileSystem& file_system, const std::string& directory) {
  const auto path = [&](absl::string_view name) { return absl::StrCat(directory, "/", name); };
  if (file_system.Exists(path("agent"))) return absl::OkStatus();
  for (const char* const name : {kIntentFile, kDifferencesFile, "errors", "requests"}) {
    if (!file_system.Exists(path(name))) continue;
    return absl::DataLossError(absl::StrCat(
        "state file ", path("agent"), " is missing, but there is ", path(name),
        "; nothing was touched (remedy: put it back, or remove the state directory and take over: "
        "then the whole disks are compared)"));
  }
  return absl::OkStatus();
}

std::string MarkOf(absl::string_view differences) {
  return absl::StrCat(absl::Hex(base::Crc32c(differences.data(), differences.size())));
}

// A record whose end does not come last, as in older releases, with zeroes for what would count of
// it: of the same length.
std::string WithoutEnd(std::string text) {
  for (const std::string key : {"\nclean=", "\nstream_id=", "\nstored="}) {
    size_t at = text.find(key);
    if (at == std::string::npos) continue;
    for (at += key.size(); at < text.size() && text[at] != '\n'; ++at) text[at] = '0';
  }
  return text;
}

// Whether the record names the file; that of an older release names any.
bool Names(const AgentRecord& record, absl::string_view differences) {
  const std::vector<std::string> marks = absl::StrSplit(record.differences, ',');
  return record.differences.empty() ||
         std::count(marks.begin(), marks.end(), MarkOf(differences)) > 0;
}

}  // namespace

std::string NewAgentId() {
  std::random_device device;
  return absl::StrFormat("agent-%08x%08x", device(), device());
}

std::string EncodeAgentRecord(const AgentRecord& record) {
  std::string text =
      absl::StrCat("agent_id=", record.agent_id, "\nstage=", StageName(record.stage),
                   "\nincarnation=", record.grant.incarnation.ToHex(),
                   "\nterm=", record.grant.term.value(), "\nfenced=", record.fenced ? "1" : "0",
                   "\nhanded_over=", record.handed_over ? "1" : "0", "\n");
  if (!record.pair.none()) {
    absl::StrAppend(&text, "pair=", record.pair.ToHex(), "\npair_agent=", record.pair_agent, "\n");
  }
  if (!record.failback_of.none()) {
    absl::StrAppend(&text, "failback_of=", record.failback_of.ToHex(), "\n");
  }
  if (record.failback_new) absl::StrAppend(&text, "failback_new=1\n");
  if (record.proof != Proof::kNone) {
    absl::StrAppend(&text, "proof=", record.proof == Proof::kProved ? kProved : kRefuted, "\n");
  }
  if (!record.forward.empty()) absl::StrAppend(&text, "forward=", record.forward, "\n");
  if (!record.disks.empty()) absl::StrAppend(&text, "disks=", record.disks, "\n");
  if (!record.differences.empty()) {
    absl::StrAppend(&text, "differences=", record.differences, "\n");
  }
  if (record.intent != 0) absl::StrAppend(&text, "intent=", absl::Hex(record.intent), "\n");
  text = absl::StrCat("version=", kStateVersion, "\nlines=", LinesOf(text) + 2, "\n", text);
  // From here on it may be cut off.
  if (record.stored_micros != 0) absl::StrAppend(&text, "stored=", record.stored_micros, "\n");
  if (!record.stored_at.boot_id.empty()) {
    absl::StrAppend(&text, "boot_id=", record.stored_at.boot_id,
                    "\nsince_boot=", absl::ToInt64Microseconds(record.stored_at.since_boot), "\n");
  }
  if (record.clean) absl::StrAppend(&text, "clean=1\n");
  if (record.resume.stream_id != 0) {
    absl::StrAppend(&text, "next_sequence=", record.resume.next_sequence,
                    "\nstream_id=", record.resume.stream_id, "\n");
  }
  return text;
}

absl::StatusOr<AgentRecord> DecodeAgentRecord(absl::string_view text) {
  AgentRecord record;
  Numbers numbers;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(line, absl::MaxSplits('=', 1));
    if (numbers.version > kStateVersion) break;
    if (!Apply(field.first, field.second, numbers, record)) {
      return absl::DataLossError(absl::StrCat("line \"", line, "\" is not understood"));
    }
  }
  if (numbers.version > kStateVersion) {
    return absl::FailedPreconditionError(absl::StrCat("it was written by a newer release (version ",
                                                      numbers.version, ", this one knows ",
                                                      kStateVersion, ")"));
  }
  if (numbers.lines != 0 && (LinesOf(text) < numbers.lines || text.back() != '\n')) {
    return absl::DataLossError(absl::StrCat("it is cut short behind line ", LinesOf(text)));
  }
  if (numbers.version == 0 || record.agent_id.empty()) {
    return absl::DataLossError("version or agent_id is missing");
  }
  if (record.resume.stream_id == 0) record.resume = {};  // that line was cut off
  record.grant.term = Term(numbers.term);
  return record;
}

absl::Status NewDirectory(absl::string_view directory, const absl::Status& status) {
  return Annotate(status,
                  absl::StrCat("state directory ", directory,
                               " is new and takes nothing (remedy: free some space in its file "
                               "system, let the agent's user write there, or choose another "
                               "directory with --state-dir)"));
}

absl::StatusOr<std::unique_ptr<AgentState>> AgentState::Open(base::FileSystem& file_system,
                                                             const std::string& directory,
                                                             const base::Clock& clock) {
  if (directory.empty()) {
    auto state = std::unique_ptr<AgentState>(new AgentState(file_system, "", clock));
    base::MutexLock lock(state->mutex_);
    state->record_.agent_id = NewAgentId();
    return state;
  }
  RETURN_IF_ERROR(CheckNotLost(file_system, directory));
  if (const absl::Status made = file_system.CreateDirectory(directory); !made.ok()) {
    return NewDirectory(directory, made);
  }
  auto state =
      std::unique_ptr<AgentState>(new AgentState(file_system, directory + "/agent", clock));
  auto lock_file = file_system.Open(directory + "/LOCK", {.create = true, .lock = true});
  if (absl::IsFailedPrecondition(lock_file.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat("state directory ", directory,
                     " is in use by another understudy-agent; give each its own"));
  }
  if (!lock_file.ok()) {
    return Annotate(lock_file.status(),
                    absl::StrCat("state directory ", directory,
                                 " takes nothing (remedy: let the agent's user write there)"));
  }
  state->lock_file_ = *std::move(lock_file);
  if (!file_system.Exists(state->path_)) {
    RETURN_IF_ERROR(NewDirectory(
        directory, state->Update([](AgentRecord& record) { record.agent_id = NewAgentId(); })));
    return state;
  }
  ASSIGN_OR_RETURN(const std::string text, file_system.ReadWholeFile(state->path_));
  auto record = DecodeAgentRecord(text);
  if (!record.ok()) {
    return Annotate(record.status(),
                    absl::StrCat("state file ", state->path_,
                                 " (remedy: restore it, or remove it and take over)"));
  }
  // No power cut brings back the file before it, whose id of the write-intent log is an older one.
  file_system.SyncDirectory(directory).IgnoreError();
  base::MutexLock lock(state->mutex_);
  state->record_ = *std::move(record);
  return state;
}

AgentRecord AgentState::record() const {
  base::MutexLock lock(mutex_);
  return record_;
}

absl::Status AgentState::Update(const std::function<void(AgentRecord&)>& change) {
  base::MutexLock io_lock(io_mutex_);
  const AgentRecord before = record();
  AgentRecord next = before;
  change(next);
  next.stored_micros = absl::ToUnixMicros(clock_.Now());
  // A clean end keeps its time for as long as it stands: see WasAway().
  if (!before.clean || !next.clean) next.stored_at = clock_.SinceBoot();
  if (kept()) {
    RETURN_IF_ERROR(
        Annotate(file_system_.WriteFileAtomically(path_, EncodeAgentRecord(next)), "agent state"));
  }
  Take(std::move(next));
  return absl::OkStatus();
}

void AgentState::Take(AgentRecord record) {
  unclean_.store(record.resume.stream_id == 0 && !record.clean, std::memory_order_release);
  base::MutexLock lock(mutex_);
  record_ = std::move(record);
}

absl::Status AgentState::MarkUnclean() {
  if (unclean()) return absl::OkStatus();
  const absl::Status stored = Update([](AgentRecord& record) {
    record.resume = {};
    record.clean = false;
  });
  if (stored.ok()) return stored;
  if (!CutOffEnd().ok()) return stored;
  base::LogWarning("agent_state_cut").With("file", path_);
  return absl::OkStatus();
}

absl::Status AgentState::CutOffEnd() {
  base::MutexLock io_lock(io_mutex_);
  const AgentRecord before = record();
  AgentRecord next = before;
  next.resume = {};
  next.clean = false;
  next.stored_micros = 0;
  next.stored_at = {};
  const std::string text = EncodeAgentRecord(next);
  ASSIGN_OR_RETURN(const std::string stored, file_system_.ReadWholeFile(path_));
  const bool last = absl::StartsWith(stored, text);
  if (!last) {
    ASSIGN_OR_RETURN(const AgentRecord there, DecodeAgentRecord(stored));
    if (there != before) return absl::FailedPreconditionError("it says what was never taken");
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<base::File> file, file_system_.Open(path_, {}));
  RETURN_IF_ERROR(last ? file->Truncate(text.size()) : file->Write(0, WithoutEnd(stored)));
  RETURN_IF_ERROR(file->Sync());
  // The update that failed may have put the file there, and only its name is not durable.
  RETURN_IF_ERROR(file_system_.SyncDirectory(base::DirectoryOf(path_)));
  Take(std::move(next));
  return absl::OkStatus();
}

absl::StatusOr<bool> LoadDifferences(base::FileSystem& file_system, const AgentState& state,
                                     bool has_intents, Differences* differences) {
  const std::string path = state.PathOf(kDifferencesFile);
  absl::Status loaded = absl::DataLossError("a file of the state directory is missing");
  if (has_intents && file_system.Exists(path)) {
    ASSIGN_OR_RETURN(const std::string encoded, file_system.ReadWholeFile(path));
    loaded = Names(state.record(), encoded)
                 ? differences->DecodeAll(encoded)
                 : absl::DataLossError("it is of another copy of the state directory");
  }
  if (loaded.ok()) return true;
  if (!absl::IsDataLoss(loaded)) {
    return Annotate(loaded, absl::StrCat(path, " (remedy: remove it, then all is compared)"));
  }
  base::LogWarning("differences_unknown")
      .With("file", path)
      .With("status", loaded)
      .With("consequence", "everything is compared, and sent where it differs");
  return false;
}

// A crash between two of the three leaves a file that the record names.
absl::Status StoreDifferences(base::FileSystem& file_system, AgentState& state,
                              const Differences& differences) {
  const std::string path = state.PathOf(kDifferencesFile);
  const std::string encoded = differences.EncodeAll();
  const std::string mark = MarkOf(encoded);
  std::string marks = mark;
  const absl::StatusOr<std::string> before = file_system.ReadWholeFile(path);
  if (before.ok() && Names(state.record(), *before)) {
    absl::StrAppend(&marks, ",", MarkOf(*before));
  }
  RETURN_IF_ERROR(state.Update([&](AgentRecord& record) { record.differences = marks; }));
  RETURN_IF_ERROR(Annotate(file_system.WriteFileAtomically(path, encoded), "agent state"));
  return state.Update([&](AgentRecord& record) { record.differences = mark; });
}

}  // namespace understudy::client
