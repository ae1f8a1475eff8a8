#include "storage/base/request_log.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

#include "storage/base/crc32c.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace understudy::base {
namespace {

constexpr size_t kIdBytesMax = 128;
constexpr uint64_t kJournalBytesMin = 1 << 20;  // not written anew below it
constexpr absl::Duration kSyncDelay = absl::Milliseconds(500);

absl::Status CheckId(const std::string& id) {
  const bool printable =
      std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (!id.empty() && id.size() <= kIdBytesMax && printable) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("request_id \"", absl::CEscape(id),
                                                 "\" is not 1 to ", kIdBytesMax,
                                                 " printable characters without blanks"));
}

std::string Line(const std::vector<std::string>& fields) {
  const std::string text =
      absl::StrJoin(fields, "\t", [](std::string* out, const std::string& field) {
        absl::StrAppend(out, absl::CEscape(field));
      });
  return absl::StrFormat("%s\t%08x\n", text, Crc32c(text.data(), text.size()));
}

std::string BeginLine(const std::string& id, absl::Time at, const std::string& call,
                      const std::string& before) {
  return Line({"begin", id, absl::StrCat(absl::ToUnixMicros(at)), call, before});
}

std::string EndLine(const std::string& id, absl::Time at, const std::string& answer) {
  return Line({"end", id, absl::StrCat(absl::ToUnixMicros(at)), answer});
}

std::string DropLine(const std::string& id, absl::Time at) {
  return Line({"drop", id, absl::StrCat(absl::ToUnixMicros(at)), ""});
}

// Whether the call may have had an effect, or have one yet.
bool Unclear(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

// Nothing unless the line is whole.
std::vector<std::string> FieldsOf(absl::string_view line) {
  const size_t crc = line.rfind('\t');
  if (crc == absl::string_view::npos) return {};
  const absl::string_view text = line.substr(0, crc);
  if (line.substr(crc + 1) != absl::StrFormat("%08x", Crc32c(text.data(), text.size()))) return {};
  std::vector<std::string> fields;
  for (const absl::string_view escaped : absl::StrSplit(text, '\t')) {
    if (!absl::CUnescape(escaped, &fields.emplace_back())) return {};
  }
  return fields;
}

}  // namespace

struct RequestLog::Journal {
  Turn turn;  // guards the rest
  std::shared_ptr<File> file;
  uint64_t bytes = 0;
  uint64_t bytes_max = 0;  // then it is written anew
  bool failing = false;
  bool sync_queued = false;
};

RequestLog::RequestLog(FileSystem& file_system, const std::string& path, const Clock& clock,
                       WorkerPool& pool)
    : file_system_(file_system),
      path_(path),
      clock_(clock),
      pool_(pool),
      journal_(std::make_shared<Journal>()) {
  if (!path_.empty() && file_system_.Exists(path_)) Load();
}

RequestLog::~RequestLog() {
  const Turn::Hold turn(journal_->turn);
  if (journal_->file != nullptr && journal_->sync_queued) journal_->file->Sync().IgnoreError();
  journal_->file = nullptr;
}

// ---- calls ----------------------------------------------------------------------------------------------------------------

absl::StatusOr<std::optional<RequestLog::Permit>> RequestLog::Enter(
    const Request& request, const std::shared_ptr<Waiter>& waiter) {
  RETURN_IF_ERROR(CheckId(request.id));
  if (request.call.size() > kCallBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a call of ", request.call.size(), " bytes is too long to have a request_id"));
  }
  const absl::Time now = clock_.Now();
  Permit permit;
  std::optional<std::string> answer;
  {
    const MutexLock lock(mutex_);
    EvictLocked();
    const auto [found, first] = entries_.try_emplace(request.id);
    Entry& entry = found->second;
    if (first) {
      entry.call = request.call;
      entry.before = request.before;
      entry.durable = request.durable;
    }
    if (entry.call != request.call) {
      return absl::InvalidArgumentError(
          absl::StrCat("request_id ", request.id,
                       " names another call, or the same with other arguments: take a new id"));
    }
    if (entry.state == State::kAnswered) {
      answer = entry.answer;
    } else if (!first && entry.state == State::kRunning) {
      entry.waiters.push_back(waiter);
      return std::optional<Permit>();
    } else {
      permit = {.repeated = !first, .before = entry.before};
      entry.state = State::kRunning;
      SetChanged(entry, now);
    }
  }
  if (answer.has_value()) {
    waiter->OnAnswer(*answer);
    return std::optional<Permit>();
  }
  if (!permit.repeated && request.durable) {
    Append(BeginLine(request.id, now, request.call, request.before));
  }
  return std::optional<Permit>(std::move(permit));
}

void RequestLog::Leave(const std::string& id, const absl::Status& status,
                       const std::string& answer) {
  const absl::Time now = clock_.Now();
  std::deque<std::shared_ptr<Waiter>> answered;
  std::shared_ptr<Waiter> next;
  Permit permit;
  std::string line;
  {
    const MutexLock lock(mutex_);
    Entry& entry = entries_.at(id);
    SetChanged(entry, now);
    if (entry.durable && status.ok()) line = EndLine(id, now, answer);
    if (status.ok()) {
      entry.answer = answer;
      // Who enters from now on is answered before the journal has it: only this process can tell.
      entry.state = State::kAnswered;
      answered.swap(entry.waiters);
    } else if (!entry.waiters.empty()) {
      next = std::move(entry.waiters.front());
      entry.waiters.pop_front();
      permit = {.repeated = Unclear(status), .before = entry.before};
    } else if (Unclear(status)) {
      entry.state = State::kOpen;
    } else {
      if (entry.durable) line = DropLine(id, now);
      entries_.erase(id);
    }
  }
  if (!line.empty()) Append(line);
  for (const auto& waiter : answered) waiter->OnAnswer(answer);
  if (next != nullptr) next->OnPermit(permit);
}

bool RequestLog::GiveUp(const std::string& id, const Waiter* waiter) {
  const MutexLock lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return false;
  return std::erase_if(found->second.waiters,
                       [&](const auto& other) { return other.get() == waiter; }) > 0;
}

void RequestLog::SetChanged(Entry& entry, absl::Time at) const {
  entry.changed = at;
  entry.changed_steady = clock_.MonotonicOf(at);
}

// The oldest go first; what runs stays.
void RequestLog::EvictLocked() {
  const absl::Duration oldest = clock_.Monotonic() - kKeptFor;
  std::erase_if(entries_, [&](const auto& entry) {
    return entry.second.state != State::kRunning && entry.second.changed_steady < oldest;
  });
  while (entries_.size() >= kRequestsMax) {
    auto victim = entries_.end();
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      if (it->second.state == State::kRunning) continue;
      if (victim == entries_.end() || it->second.changed_steady < victim->second.changed_steady)
        victim = it;
    }
    if (victim == entries_.end()) return;
    entries_.erase(victim);
  }
}

// ---- the journal ----------------------------------------------------------------------------------------------------------

void RequestLog::Load() {
  const absl::StatusOr<std::string> text = file_system_.ReadWholeFile(path_);
  size_t damaged = 0;
  {
    const MutexLock lock(mutex_);
    for (const absl::string_view line : absl::StrSplit(text.value_or(""), '\n')) {
      if (!line.empty() && !Replay(line)) ++damaged;
    }
    EvictLocked();
  }
  if (text.ok() && damaged == 0) return;
  // The last line of a process that was killed, or worse.
  LogWarning("requests_not_read")
      .With("path", path_)
      .With("lines", damaged)
      .With("status", text.status())
      .With("consequence", "repeated calls of these ids run anew");
}

bool RequestLog::Replay(absl::string_view line) {
  std::vector<std::string> fields = FieldsOf(line);
  int64_t micros = 0;
  if (fields.size() < 4 || !absl::SimpleAtoi(fields[2], &micros)) return false;
  if (fields[0] == "begin" && fields.size() == 5) {
    Entry& entry = entries_[fields[1]];
    entry.state = State::kOpen;
    entry.call = std::move(fields[3]);
    entry.before = std::move(fields[4]);
    SetChanged(entry, absl::FromUnixMicros(micros));
    return true;
  }
  if (fields.size() != 4) return false;
  const auto begun = entries_.find(fields[1]);
  if (fields[0] == "drop") {
    if (begun != entries_.end()) entries_.erase(begun);
    return true;
  }
  if (fields[0] != "end") return false;
  if (begun == entries_.end()) return true;  // its beginning was damaged: that was said
  begun->second.state = State::kAnswered;
  begun->second.answer = std::move(fields[3]);
  SetChanged(begun->second, absl::FromUnixMicros(micros));
  return true;
}

std::string RequestLog::LinesLocked() const {
  std::string lines;
  for (const auto& [id, entry] : entries_) {
    if (!entry.durable) continue;
    lines += BeginLine(id, entry.changed, entry.call, entry.before);
    if (entry.state == State::kAnswered) lines += EndLine(id, entry.changed, entry.answer);
  }
  return lines;
}

void RequestLog::Append(const std::string& line) {
  if (path_.empty()) return;
  const Turn::Hold turn(journal_->turn);
  const absl::Status appended = TryAppend(line);
  if (appended.ok()) {
    journal_->failing = false;
    return;
  }
  journal_->file = nullptr;  // written anew at the next try
  if (std::exchange(journal_->failing, true)) return;
  LogWarning("requests_not_stored")
      .With("status", appended)
      .With("consequence", "a restart forgets answers: repeated calls may run anew");
}

absl::Status RequestLog::TryAppend(const std::string& line) {
  // Memory has what the line says already.
  if (journal_->file == nullptr || journal_->bytes > journal_->bytes_max) return Rewrite();
  RETURN_IF_ERROR(journal_->file->Write(journal_->bytes, line));
  journal_->bytes += line.size();
  SyncLater();
  return absl::OkStatus();
}

absl::Status RequestLog::Rewrite() {
  std::string lines;
  {
    const MutexLock lock(mutex_);
    lines = LinesLocked();
  }
  journal_->file = nullptr;
  RETURN_IF_ERROR(file_system_.WriteFileAtomically(path_, lines));
  ASSIGN_OR_RETURN(std::unique_ptr<File> file, file_system_.Open(path_, {}));
  journal_->file = std::move(file);
  journal_->bytes = lines.size();
  journal_->bytes_max = std::max<uint64_t>(kJournalBytesMin, 2 * lines.size());
  return absl::OkStatus();
}

void RequestLog::SyncLater() {
  if (std::exchange(journal_->sync_queued, true)) return;
  pool_.SubmitAfter(kSyncDelay, [journal = journal_] {
    std::shared_ptr<File> file;
    {
      const Turn::Hold turn(journal->turn);
      journal->sync_queued = false;
      file = journal->file;
    }
    // Outside the turn: a failover's answer does not wait for a disk that is slow.
    if (file != nullptr) file->Sync().IgnoreError();
  });
}

}  // namespace understudy::base
