// tests/server/harness.h
//
// A service over the fake store, and an agent that talks to one write stream by hand.
#ifndef UNDERSTUDY_TESTS_SERVER_HARNESS_H_
#define UNDERSTUDY_TESTS_SERVER_HARNESS_H_

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"

#include "server/export.h"
#include "server/service.h"
#include "server/stream_session.h"
#include "storage/base/clock.h"
#include "storage/base/deadline.h"
#include "tests/server/encoded_frame.h"
#include "tests/server/fake_replica.h"

namespace understudy::testing {

// Far enough for a slow machine under a sanitizer; a test that reaches it has failed.
inline base::Deadline Soon() { return base::Deadline::After(absl::Seconds(20)); }

inline absl::Status WriteStartOf(server::Export& to, const std::string& data) {
  const BlockWrite write{.offset = 0, .data = data};
  absl::Status result;
  to.WriteAll({&write, 1}, {&result, 1});
  return result;
}

// The transport's side of a stream: remembers every answer, reads when it is asked to.
class TestSink : public server::AckSink {
 public:
  void OnAnswer() override {
    const std::shared_ptr<server::StreamSession> session = session_.lock();
    if (session != nullptr && Take(*session)) session->OnWritten(!broken_);
  }
  // From now on no write reaches the peer.
  void Break() { broken_ = true; }
  void OnRoom() override {
    base::MutexLock lock(mutex_);
    ++rooms_;
    changed_.NotifyAll();
  }
  void OnEnd(const absl::Status& status) override {
    base::MutexLock lock(mutex_);
    ++ends_;
    end_ = status;
    changed_.NotifyAll();
  }

  void Connect(const std::shared_ptr<server::StreamSession>& session) { session_ = session; }
  // As a transport whose write has not ended.
  void Hold(bool held) {
    base::MutexLock lock(mutex_);
    held_ = held;
  }
  // False when nothing of the kind came in time.
  bool Await(const std::function<bool()>& condition) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const base::Deadline deadline = Soon();
    while (!condition()) {
      if (!deadline.Wait(changed_, mutex_) && !condition()) return false;
    }
    return true;
  }
  std::optional<server::HandshakeReply> Reply() {
    base::MutexLock lock(mutex_);
    Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return end_ || !answers_.empty(); });
    if (answers_.empty()) return std::nullopt;
    return std::get<server::HandshakeReply>(answers_.front());
  }
  // The first ack, from the newest on, that `wanted` likes.
  std::optional<server::Ack> AckThat(const std::function<bool(const server::Ack&)>& wanted) {
    base::MutexLock lock(mutex_);
    std::optional<server::Ack> found;
    Await([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      for (const server::Answer& answer : answers_) {
        if (const auto* ack = std::get_if<server::Ack>(&answer); ack && wanted(*ack)) found = *ack;
      }
      return found || end_;
    });
    return found;
  }
  bool AwaitCheckpointWanted() { return AwaitAnswer<server::CheckpointWanted>(); }
  bool AwaitHandoverWanted() { return AwaitAnswer<server::HandoverWanted>(); }
  template <typename Kind>
  bool AwaitAnswer() {
    base::MutexLock lock(mutex_);
    return Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      for (const server::Answer& answer : answers_) {
        if (std::holds_alternative<Kind>(answer)) return true;
      }
      return false;
    });
  }
  bool AwaitRooms(int count) {
    base::MutexLock lock(mutex_);
    return Await([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return rooms_ >= count; });
  }
  absl::Status End() {
    base::MutexLock lock(mutex_);
    Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return end_.has_value(); });
    return end_.value_or(absl::UnknownError("the stream has not ended"));
  }
  int rooms() const {
    base::MutexLock lock(mutex_);
    return rooms_;
  }
  int ends() const {
    base::MutexLock lock(mutex_);
    return ends_;
  }
  size_t answers() const {
    base::MutexLock lock(mutex_);
    return answers_.size();
  }

 private:
  // False when there was nothing to send.
  bool Take(server::StreamSession& session) {
    base::MutexLock lock(mutex_);
    if (held_) return false;
    const size_t before = answers_.size();
    while (auto answer = session.TakeAnswer()) answers_.push_back(*std::move(answer));
    changed_.NotifyAll();
    return answers_.size() > before;
  }

  std::weak_ptr<server::StreamSession> session_;
  std::atomic<bool> broken_{false};
  mutable base::Mutex mutex_;
  base::CondVar changed_;
  std::vector<server::Answer> answers_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  int rooms_ ABSL_GUARDED_BY(mutex_) = 0;
  int ends_ ABSL_GUARDED_BY(mutex_) = 0;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
};

// An agent with one stream. Destroyed as a peer that goes away.
class TestAgent {
 public:
  explicit TestAgent(server::Service& service, const server::StreamOptions& options = {})
      : session(std::make_shared<server::StreamSession>(service, sink, options)) {
    sink.Connect(session);
    session->Open();
  }
  ~TestAgent() {
    session->End(absl::CancelledError("gone"));
    session->WaitFinished(absl::Seconds(20));
    (void)sink.End();
  }

  static server::Handshake Hello(const std::string& group) {
    return {.group = group,
            .agent_id = "agent-1",
            .stream_id = 99,
            .volumes = {{.name = "disk0", .size_bytes = 1 << 20}},
            .first_available_sequence = 1};
  }
  // Nothing when the handshake was refused: see sink.End().
  std::optional<server::HandshakeReply> Greet(const server::Handshake& handshake) {
    session->Begin(handshake);
    const auto reply = sink.Reply();
    if (!reply) return reply;
    term = reply->term.value();
    incarnation = reply->incarnation;
    next_sequence = reply->received_sequence + 1;
    return reply;
  }
  void Send(TestFrame frame) {
    frame.term = term;
    frame.incarnation = incarnation;
    frame.first_sequence = next_sequence;
    next_sequence += frame.operations.size();
    session->Push(std::make_unique<StringMessage>(frame.Encode()));
  }
  void SendRaw(const std::string& bytes) { session->Push(std::make_unique<StringMessage>(bytes)); }

  TestSink sink;
  std::shared_ptr<server::StreamSession> session;
  uint64_t term = 0;
  Incarnation incarnation;
  uint64_t next_sequence = 1;
};

// A service with one group "vm1" of one volume, started.
class Harness {
 public:
  Harness() : service(store, base::Clock::Real()) {
    auto opened = service.Open(server::Mode::kSecondary, OneVolume("vm1"), Soon());
    group = opened.value().group;
  }
  void Start() { group->Start(true, {}, Soon()).value(); }
  FakeReplica& replica() { return *store.replicas.at("vm1"); }

  FakeStore store;
  server::Service service;
  std::shared_ptr<server::Group> group;
};

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_SERVER_HARNESS_H_
