#include "proto/watch_stream.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "absl/time/clock.h"

#include "proto/replication_codec.h"
#include "proto/status_codec.h"

namespace understudy::proto {
namespace {

using Position = base::EventJournal::Position;

constexpr absl::Duration kRefreshMin = absl::Milliseconds(100);
constexpr absl::Duration kRefreshMax = absl::Minutes(1);
// So many events of other groups without a word, and a stream gives a new token: the old one is on its way out of the journal.
constexpr uint64_t kPassedOverMax = 1024;

absl::Duration RefreshOf(const v1::WatchRequest& request) {
  if (request.refresh_micros() == 0) return absl::InfiniteDuration();
  const uint64_t micros = std::min<uint64_t>(
      request.refresh_micros(), static_cast<uint64_t>(absl::ToInt64Microseconds(kRefreshMax)));
  return std::max(kRefreshMin, absl::Microseconds(static_cast<int64_t>(micros)));
}

v1::WatchEvent Message(v1::WatchKind kind) {
  v1::WatchEvent message;
  message.set_kind(kind);
  message.set_unix_micros(absl::ToUnixMicros(absl::Now()));
  return message;
}

}  // namespace

// One stream's place in the journal and what is to be said before it goes on there. All of it belongs to the thread; `stream_` is
// gRPC's to delete once finished_.
class WatchStreams::Session {
 public:
  Session(WatchStreams& owner, const v1::WatchRequest& request, Reactor& stream)
      : owner_(owner), request_(request), stream_(stream), refresh_(RefreshOf(request)) {}

  void Begin() {
    if (request_.resume_token().empty()) {
      if (!request_.group().empty()) {
        const auto known = owner_.groups_.Status(request_.group());
        if (!known.ok()) return End(known.status());
      }
      return TellAll();
    }
    const absl::StatusOr<Position> position = base::DecodePosition(request_.resume_token());
    if (!position.ok()) return End(position.status());
    position_ = *position;
    current_due_ = true;
  }

  // Says the next thing there is to say, if the last one has been written.
  void Pump() {
    if (writing_ || finished_) return;
    if (end_) return Finish();
    std::optional<v1::WatchEvent> message = Next();
    if (!message) return;
    outgoing_ = *std::move(message);
    writing_ = true;
    stream_.StartWrite(&outgoing_);
  }

  void OnWritten(bool ok) {
    writing_ = false;
    if (!ok) End(absl::CancelledError("watch: the client has gone away"));
  }

  // The first status counts.
  void End(const absl::Status& status) {
    if (!end_) end_ = status;
  }

  void Refresh() { refresh_due_ = true; }

  bool finished() const { return finished_; }
  absl::Duration refresh() const { return refresh_; }

 private:
  void Finish() {
    finished_ = true;
    stream_.Finish(ToGrpcStatus(*end_));
  }

  // The status of every group, as of a position that no status is older than.
  void TellAll() {
    position_ = owner_.journal_.End();
    told_.clear();
    snapshots_ = WatchedNames();
    refreshing_.reset();
    current_due_ = true;
  }

  std::optional<v1::WatchEvent> Next() {
    while (!snapshots_.empty()) {
      v1::WatchEvent message = Message(v1::WATCH_KIND_SNAPSHOT);
      message.set_group(snapshots_.front());
      snapshots_.pop_front();
      if (AddStatus(message)) return message;  // else it has gone meanwhile
    }
    const base::EventJournal::Reading reading = owner_.journal_.Read(position_, request_.group());
    if (reading.gap) return Gap();
    position_ = reading.position;
    if (reading.event) return Told(*reading.event);
    if (std::exchange(current_due_, false)) return Current();
    if (refresh_due_) return NextRefresh();
    if (position_.number - token_number_ >= kPassedOverMax) return Current();
    return std::nullopt;
  }

  v1::WatchEvent Gap() {
    const bool other_run = position_.run != owner_.journal_.End().run;
    v1::WatchEvent message = Message(v1::WATCH_KIND_GAP);
    message.set_detail(other_run ? "the token is of another run of the daemon"
                                 : "the journal does not reach back that far any more");
    TellAll();
    return message;
  }

  v1::WatchEvent Current() {
    v1::WatchEvent message = Message(v1::WATCH_KIND_CURRENT);
    AddToken(message);
    return message;
  }

  v1::WatchEvent Told(const base::Event& event) {
    v1::WatchEvent message = ToProto(event);
    AddToken(message);
    AddStatus(message);
    return message;
  }

  // The next group whose status is another than was told last. Each group is looked at once per refresh.
  std::optional<v1::WatchEvent> NextRefresh() {
    if (!refreshing_) refreshing_ = WatchedNames();
    while (!refreshing_->empty()) {
      v1::WatchEvent message = Message(v1::WATCH_KIND_REFRESH);
      message.set_group(refreshing_->front());
      refreshing_->pop_front();
      const size_t before = told_[message.group()];
      if (!AddStatus(message) || told_[message.group()] == before) continue;
      AddToken(message);
      return message;
    }
    refreshing_.reset();
    refresh_due_ = false;
    if (position_.number != token_number_) return Current();
    return std::nullopt;
  }

  std::deque<std::string> WatchedNames() {
    if (!request_.group().empty()) return {request_.group()};
    const std::vector<std::string> names = owner_.groups_.Names();
    return {names.begin(), names.end()};
  }

  void AddToken(v1::WatchEvent& message) {
    token_number_ = position_.number;
    message.set_resume_token(base::EncodePosition(position_));
  }

  // False when the group is gone.
  bool AddStatus(v1::WatchEvent& message) {
    absl::StatusOr<v1::GroupStatus> status = owner_.groups_.Status(message.group());
    if (!status.ok()) {
      told_.erase(message.group());
      return false;
    }
    told_[message.group()] = std::hash<std::string>()(status->SerializeAsString());
    *message.mutable_status() = *std::move(status);
    return true;
  }

  WatchStreams& owner_;
  const v1::WatchRequest request_;
  Reactor& stream_;
  const absl::Duration refresh_;

  Position position_;
  uint64_t token_number_ = 0;          // of the token that was given last
  std::deque<std::string> snapshots_;  // to be told before anything else
  bool current_due_ = false;           // once there is nothing to read
  bool refresh_due_ = false;
  std::optional<std::deque<std::string>> refreshing_;  // groups that this refresh has not looked at
  std::map<std::string, size_t> told_;                 // hash of the status told last, by group
  bool writing_ = false;                               // outgoing_ is gRPC's
  v1::WatchEvent outgoing_;
  std::optional<absl::Status> end_;
  bool finished_ = false;
};

// gRPC's half of a stream: hands everything to the thread.
class WatchStreams::Stream final : public Reactor {
 public:
  Stream(WatchStreams& owner, const v1::WatchRequest& request)
      : owner_(owner), session_(std::make_shared<Session>(owner, request, *this)) {
    owner_.pool_.Submit([&owner, session = session_] { owner.Begin(session); });
  }

  void OnWriteDone(bool ok) override {
    owner_.pool_.Submit([&owner = owner_, session = session_, ok] {
      session->OnWritten(ok);
      owner.Pump(session);
    });
  }
  void OnCancel() override {
    owner_.pool_.Submit([&owner = owner_, session = session_] {
      session->End(absl::CancelledError("watch: the client has gone away"));
      owner.Pump(session);
    });
  }
  void OnDone() override { delete this; }

 private:
  WatchStreams& owner_;
  const std::shared_ptr<Session> session_;
};

WatchStreams::WatchStreams(base::EventJournal& journal, WatchedGroups& groups)
    : journal_(journal), groups_(groups) {
  journal_.SetListener(this);
}

WatchStreams::~WatchStreams() {
  journal_.SetListener(nullptr);
  pool_.Shutdown();
}

WatchStreams::Reactor* WatchStreams::Watch(const v1::WatchRequest& request) {
  return new Stream(*this, request);
}

void WatchStreams::EndAll() {
  pool_.Submit([this] {
    ended_ = true;
    for (const auto& session : sessions_) {
      session->End(absl::UnavailableError("the daemon is shutting down; resume with the token"));
    }
    PumpAll();
  });
}

void WatchStreams::OnEvent() {
  if (streams_.load() == 0 || woken_.exchange(true)) return;
  pool_.Submit([this] {
    woken_.store(false);
    PumpAll();
  });
}

void WatchStreams::Begin(const std::shared_ptr<Session>& session) {
  sessions_.push_back(session);
  streams_.store(sessions_.size());  // before it looks: what comes after the look wakes it
  if (ended_) session->End(absl::UnavailableError("the daemon is shutting down"));
  session->Begin();
  if (session->refresh() != absl::InfiniteDuration()) ScheduleRefresh(session);
  Pump(session);
}

void WatchStreams::Pump(const std::shared_ptr<Session>& session) {
  session->Pump();
  if (!session->finished()) return;
  std::erase(sessions_, session);
  streams_.store(sessions_.size());
}

void WatchStreams::PumpAll() {
  const std::vector<std::shared_ptr<Session>> sessions = sessions_;  // Pump() takes some away
  for (const auto& session : sessions) Pump(session);
}

void WatchStreams::ScheduleRefresh(const std::shared_ptr<Session>& session) {
  pool_.SubmitAfter(session->refresh(), [this, weak = std::weak_ptr<Session>(session)] {
    const std::shared_ptr<Session> session = weak.lock();
    if (session == nullptr || session->finished()) return;
    session->Refresh();
    Pump(session);
    ScheduleRefresh(session);
  });
}

}  // namespace understudy::proto
