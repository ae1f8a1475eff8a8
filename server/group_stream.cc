// The stream half of server/group.h: who may attach, and how one stream follows another.
#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

#include "server/fenced.h"
#include "server/group.h"
#include "server/stage_table.h"
#include "server/stream_session.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::server {
namespace {

// Longer than any healthy disk takes; the agent tries again after it.
constexpr absl::Duration kJoinTimeout = absl::Seconds(10);

}  // namespace

std::shared_ptr<StreamSession> Group::session() const {
  base::MutexLock lock(mutex_);
  return session_;
}

void Group::LoseStreamLocked(const absl::Status& why) {
  for (const auto& waiter : waiters_) waiter->stream_lost = true;
  marker_done_.NotifyAll();
  silent_since_ = clock_.Monotonic();
  if (session_ == nullptr) return;
  silent_since_ -= session_->Silence();
  last_contact_ = session_->last_word();
  earlier_.push_back(session_);
  const absl::string_view text = why.ok() ? "the agent has ended its stream" : why.message();
  journal_.Append(
      {.kind = base::EventKind::kDisconnected, .group = name(), .detail = std::string(text)});
}

std::vector<std::shared_ptr<StreamSession>> Group::TakeStreams(const absl::Status& why) {
  std::vector<std::shared_ptr<StreamSession>> taken;
  base::MutexLock lock(mutex_);
  if (session_ != nullptr) {
    LoseStreamLocked(why);
    taken.push_back(std::exchange(session_, nullptr));
  }
  if (joining_ != nullptr) {
    earlier_.push_back(joining_);
    taken.push_back(std::exchange(joining_, nullptr));
  }
  return taken;
}

absl::StatusOr<Group::Joined> Group::Join(const Handshake& handshake,
                                          const std::shared_ptr<StreamSession>& session) {
  absl::StatusOr<Joined> joined = TryJoin(handshake, session);
  (joined.ok() ? stats_.sessions_ok : stats_.sessions_failed).Add();
  CountFenced(joined.status());
  if (joined.ok()) {
    base::LogInfo("stream_attached")
        .With("group", name())
        .With("agent", handshake.agent_id)
        .With("term", joined->reply.term.value())
        .With("received_sequence", joined->reply.received_sequence);
  }
  return joined;
}

void Group::CountFenced(const absl::Status& status) {
  if (!HasReason(status, kReasonFenced)) return;
  stats_.fenced_requests.Add();
  stats_.errors[static_cast<size_t>(base::ErrorReason::kFenced)].Add();
  NoteFenced(status);
}

absl::Status Group::CheckPrimary(const Incarnation& incarnation, Term term) {
  const storage::ReplicaState state = replica_->state();
  absl::Status checked = CheckTakesWrites(state);
  if (checked.ok()) {
    checked = CheckGrant("checksums are asked for", incarnation, term, state);
  }
  CountFenced(checked);
  return checked;
}

absl::Status Group::CheckTakesWrites(const storage::ReplicaState& state) const {
  const Verdict verdict = Judge(Verb::kHandshake, state.stage);
  if (HasReason(verdict.refusal, kReasonFenced)) {
    return FencedError(absl::StrCat("group ", name(), ": ", verdict.refusal.message()), state.term);
  }
  return Annotate(verdict.refusal, absl::StrCat("group ", name()));
}

absl::Status Group::CheckGrant(const std::string& caller, const Incarnation& incarnation, Term term,
                               const storage::ReplicaState& state) const {
  const bool other_incarnation = incarnation != state.incarnation;
  if (!other_incarnation && term == state.term) return absl::OkStatus();
  return FencedError(
      absl::StrCat("group ", name(), ": ", caller, " with ",
                   other_incarnation ? std::string("the incarnation of another pairing")
                                     : absl::StrCat("term ", term.value()),
                   ", the current term is ", state.term.value(),
                   "; stop this primary or start it with takeover"),
      state.term);
}

absl::StatusOr<Group::Joined> Group::TryJoin(const Handshake& handshake,
                                             const std::shared_ptr<StreamSession>& session) {
  ASSIGN_OR_RETURN(const HandshakeReply reply, Admit(handshake));
  while (!session->ended()) {
    RETURN_IF_ERROR(EvictStreams(
        absl::AbortedError(absl::StrCat("group ", name(), ": a newer write stream has taken over")),
        base::Deadline::After(kEvictTimeout), handshake.agent_id));
    ASSIGN_OR_RETURN(const std::optional<Joined> joined, Attach(handshake, reply, session));
    if (joined) return *joined;
  }
  return absl::CancelledError("write stream: ended during its handshake");
}

absl::StatusOr<HandshakeReply> Group::Admit(const Handshake& handshake) {
  ASSIGN_OR_RETURN(const base::Gate::Pass pass, gate_.Enter(base::Deadline::After(kJoinTimeout)));
  RETURN_IF_ERROR(CheckHandshake(handshake, replica_->state()));
  HandshakeReply reply;
  ASSIGN_OR_RETURN(reply.volume_ids, MatchVolumes(handshake));
  RETURN_IF_ERROR(replica_->BindAgent(handshake.agent_id, handshake.takeover));
  return reply;
}

absl::Status Group::CheckHandshake(const Handshake& handshake,
                                   const storage::ReplicaState& state) const {
  RETURN_IF_ERROR(CheckName("agent", handshake.agent_id));
  if (handshake.stream_id == 0) return absl::InvalidArgumentError("write stream: stream_id is 0");
  RETURN_IF_ERROR(CheckTakesWrites(state));
  // Who takes over has nothing of the current pairing to show; nor has one whose reply to that was lost.
  if (handshake.takeover) return absl::OkStatus();
  // None yet is as good as the current one.
  RETURN_IF_ERROR(
      CheckGrant(absl::StrCat("agent ", handshake.agent_id, " writes"),
                 handshake.incarnation.none() ? state.incarnation : handshake.incarnation,
                 handshake.term == Term() ? state.term : handshake.term, state));
  // Another agent is told that it is not its turn.
  const bool own = state.handing_over && state.agent_id == handshake.agent_id;
  return own ? HandedOverError() : absl::OkStatus();
}

absl::StatusOr<std::vector<uint32_t>> Group::MatchVolumes(const Handshake& handshake) const {
  // Of what the operator declares at both ends, not of a malformed handshake.
  const auto other = [this](absl::StatusCode code, const std::string& how) {
    return WithReason(absl::Status(code, absl::StrCat(how, "; remedy: declare group ", name(),
                                                      " alike at both ends, docs/runbooks.md, "
                                                      "\"Grow a disk, add a disk\"")),
                      kReasonOtherVolumes);
  };
  std::vector<uint32_t> ids;
  for (const StreamVolume& wanted : handshake.volumes) {
    const auto found = std::find_if(volumes().begin(), volumes().end(),
                                    [&](const auto& volume) { return volume.name == wanted.name; });
    if (found == volumes().end()) {
      return other(
          absl::StatusCode::kInvalidArgument,
          absl::StrCat("group ", name(), " has no volume \"", wanted.name, "\" at the standby"));
    }
    if (found->size_bytes != wanted.size_bytes) {
      return other(
          absl::StatusCode::kFailedPrecondition,
          absl::StrCat(
              "Active disk, hidden disk, secondary disk's length are not the same: volume ",
              wanted.name, " has ", wanted.size_bytes, " bytes at the primary and ",
              found->size_bytes, " at the standby"));
    }
    const uint32_t id = found->id.value();
    if (std::find(ids.begin(), ids.end(), id) != ids.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("group ", name(), ": volume ", wanted.name, " is named twice"));
    }
    ids.push_back(id);
  }
  if (ids.size() == volumes().size()) return ids;
  return other(absl::StatusCode::kInvalidArgument,
               absl::StrCat("group ", name(), " has ", volumes().size(),
                            " volumes at the standby, the agent names ", ids.size(),
                            ": a group is replicated as a whole"));
}

absl::Status Group::EvictStreams(const absl::Status& status, const base::Deadline& deadline,
                                 const std::string& successor) {
  for (const auto& stream : TakeStreams(status)) {
    const bool fenced = !successor.empty() && stream->agent_id() != successor;
    stream->End(fenced ? FencedError(absl::StrCat("group ", name(), ": agent ", successor,
                                                  " has taken over; stop this primary"),
                                     replica_->state().term)
                       : status);
  }
  std::vector<std::shared_ptr<StreamSession>> earlier;
  {
    base::MutexLock lock(mutex_);
    for (const auto& weak : earlier_) {
      if (auto stream = weak.lock(); stream != nullptr) earlier.push_back(std::move(stream));
    }
  }
  for (const auto& stream : earlier) {
    if (!stream->WaitFinished(deadline.left())) {
      return absl::UnavailableError(absl::StrCat(
          "group ", name(),
          ": an earlier write stream is still busy in file I/O; look at the standby's disk"));
    }
  }
  base::MutexLock lock(mutex_);
  std::erase_if(earlier_, [](const auto& weak) {
    const auto stream = weak.lock();
    return stream == nullptr || stream->finished();
  });
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Group::Joined>> Group::Attach(
    const Handshake& handshake, HandshakeReply reply,
    const std::shared_ptr<StreamSession>& session) {
  ASSIGN_OR_RETURN(const base::Gate::Pass pass, gate_.Enter(base::Deadline::After(kJoinTimeout)));
  {
    base::MutexLock lock(mutex_);
    if (detached_)
      return absl::UnavailableError(absl::StrCat("group ", name(), " is being closed"));
    if (session_ != nullptr) return std::optional<Joined>();
    joining_ = session;
  }
  const absl::Cleanup joined_or_not = [&] {
    base::MutexLock lock(mutex_);
    if (joining_ == session) joining_ = nullptr;
  };
  // The stage, and who is bound, may have changed while earlier streams ended. A failover from here on takes joining_ away.
  const storage::ReplicaState before = replica_->state();
  RETURN_IF_ERROR(CheckHandshake(handshake, before));
  if (before.agent_id != handshake.agent_id) {
    return FencedError(
        absl::StrCat("group ", name(), ": agent ", before.agent_id, " has taken over"),
        before.term);
  }
  const absl::Status attached =
      replica_->AttachStream(handshake.stream_id, handshake.may_checkpoint);
  const storage::ReplicaState state = replica_->state();
  RETURN_IF_ERROR(CheckHandshake(handshake, state));
  RETURN_IF_ERROR(attached);
  if (!before.incomplete && state.incomplete) {
    Latch(std::nullopt, "write", {},
          WithReason(absl::AbortedError(absl::StrCat(
                         "agent ", handshake.agent_id,
                         " does not continue the stream of before: what that one had still to say "
                         "is not known; remedy: none needed in tee mode, a resync sends what is "
                         "missing; in forward mode mirror the volumes again")),
                     kReasonIncomplete));
  }
  const bool known = state.stream_id == handshake.stream_id;
  reply.incarnation = state.incarnation;
  reply.term = state.term;
  reply.received_sequence = known ? state.received_sequence : 0;
  reply.durable_sequence = known ? state.durable_sequence : 0;
  reply.committed_epoch = state.committed_epoch;
  reply.committed_sequence = known ? state.committed_sequence : 0;
  reply.committed_time = state.committed_time;
  reply.incomplete = state.incomplete;
  base::MutexLock lock(mutex_);
  if (joining_ != session) {
    return absl::AbortedError(
        absl::StrCat("group ", name(), ": the write stream was ended during its handshake"));
  }
  joining_ = nullptr;
  session_ = session;
  reply.committed_age = clock_.Monotonic() - committed_at_;
  journal_.Append({.kind = base::EventKind::kConnected,
                   .group = name(),
                   .term = state.term,
                   .detail = handshake.agent_id});
  Joined joined{.reply = std::move(reply)};
  if (last_checkpoint_.epoch == state.committed_epoch) {
    joined.committed_bytes = last_checkpoint_.bytes;
    joined.committed_duration_micros =
        static_cast<uint64_t>(absl::ToInt64Microseconds(last_checkpoint_.duration));
  }
  return std::optional<Joined>(std::move(joined));
}

void Group::Leave(StreamSession& session, bool joined, const absl::Status& status) {
  if (joined && (absl::IsDeadlineExceeded(status) || absl::IsCancelled(status) ||
                 absl::IsUnavailable(status))) {
    stats_.errors[static_cast<size_t>(base::ErrorReasonOf(status))].Add();
  }
  base::MutexLock lock(mutex_);
  if (session_.get() == &session) {
    LoseStreamLocked(status);
    session_.reset();
  }
}

}  // namespace understudy::server
