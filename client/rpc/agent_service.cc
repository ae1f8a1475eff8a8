#include "client/rpc/agent_service.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "client/rpc/agent_status.h"
#include "client/rpc/frame_encoder.h"
#include "proto/repeatable_call.h"
#include "proto/unary_call.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::client {
namespace {

using proto::DeadlineOf;

// How things were before a call: "STAGE TERM COMMITTED-EPOCH OUT".
struct Before {
  explicit Before(Primary& primary)
      : stage(StageName(primary.stage())),
        term(primary.grant().term.value()),
        epoch(primary.forwarder().state().committed_epoch.value()),
        out(primary.fenced() || primary.handed_over()) {}
  explicit Before(const std::string& note) {
    const std::vector<std::string> fields = absl::StrSplit(note, ' ');
    if (fields.size() != 4 || !absl::SimpleAtoi(fields[1], &term) ||
        !absl::SimpleAtoi(fields[2], &epoch)) {
      return;
    }
    stage = fields[0];
    out = fields[3] == "1";
  }
  std::string Note() const { return absl::StrCat(stage, " ", term, " ", epoch, " ", out ? 1 : 0); }

  std::string stage;  // empty: not known
  uint64_t term = 0;
  uint64_t epoch = 0;
  bool out = false;  // fenced, or handed over
};

absl::Status NotRunning(const std::string& group, absl::string_view why = "") {
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat("group ", group, ": Block replication is not running", why)),
                    kReasonNotRunning);
}

absl::Status CheckStart(const v1::StartRequest& request) {
  if (request.mode() == v1::MODE_UNSPECIFIED) {
    return absl::InvalidArgumentError("Missing the option mode");
  }
  if (request.mode() != v1::MODE_PRIMARY && request.mode() != v1::MODE_SECONDARY) {
    return absl::InvalidArgumentError("The option mode's value should be primary or secondary");
  }
  for (const v1::VolumeSpec& volume : request.volumes()) {
    if (!volume.top_id().empty() && request.mode() == v1::MODE_PRIMARY) {
      return absl::InvalidArgumentError("The primary side does not support option top-id");
    }
  }
  return absl::OkStatus();
}

}  // namespace

AgentService::AgentService(Primary* primary, base::WorkerPool* pool, std::string nbd_socket)
    : primary_(*primary),
      pool_(*pool),
      nbd_socket_(std::move(nbd_socket)),
      watch_streams_(primary->journal(), *this) {}
AgentService::~AgentService() = default;

absl::Status AgentService::CheckGroup(const std::string& group) const {
  if (group == primary_.group()) return absl::OkStatus();
  return WithReason(absl::NotFoundError(absl::StrCat(
                        "group ", group, " is not known: this agent has group ", primary_.group())),
                    kReasonUnknownGroup);
}

absl::Status AgentService::CheckExpected(const v1::Expected& expected) const {
  if (!expected.incarnation().empty() && expected.incarnation().size() != 16) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected incarnation of ", expected.incarnation().size(), " bytes, not 16"));
  }
  const Grant grant = primary_.grant();
  const bool same_incarnation = expected.incarnation().empty() ||
                                DecodeIncarnation(expected.incarnation()) == grant.incarnation;
  const bool same_term = expected.term() == 0 || expected.term() == grant.term.value();
  if (same_incarnation && same_term) return absl::OkStatus();
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "group ", primary_.group(),
          ": the call expects another incarnation or term than the current ", grant.term.value())),
      Reason{.reason = std::string(kReasonFenced),
             .metadata = {{"term", absl::StrCat(grant.term.value())}}});
}

grpc::ServerUnaryReactor* AgentService::Open(grpc::CallbackServerContext* context,
                                             const v1::OpenRequest* request, v1::OpenResponse*) {
  return proto::RunUnary(context, pool_, [this, request] {
    RETURN_IF_ERROR(CheckGroup(request->group()));
    return absl::FailedPreconditionError(
        absl::StrCat("group ", primary_.group(),
                     ": an agent's volumes are given on its command line (understudy-agent "
                     "--volume), not by Open"));
  });
}

grpc::ServerUnaryReactor* AgentService::Scrub(grpc::CallbackServerContext* context,
                                              const v1::ScrubRequest* request, v1::ScrubResponse*) {
  return proto::RunUnary(context, pool_, [this, request] {
    RETURN_IF_ERROR(CheckGroup(request->group()));
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "group ", primary_.group(),
                          ": an agent has no overlays: scrub the group at the service")),
                      kReasonWrongMode);
  });
}

absl::Status AgentService::DoStart(const v1::StartRequest& request, const base::Deadline& deadline,
                                   v1::StartResponse& response) {
  RETURN_IF_ERROR(CheckStart(request));
  RETURN_IF_ERROR(CheckGroup(request.group()));
  RETURN_IF_ERROR(CheckExpected(request.expected()));
  const Stage stage = primary_.stage();
  if (request.mode() == v1::MODE_SECONDARY && stage == Stage::kNone) {
    return WithReason(
        absl::InvalidArgumentError("The parameter mode's value is invalid, needs 0, but got 1"),
        kReasonWrongMode);
  }
  if (!request.volumes().empty() && stage == Stage::kNone) {
    return absl::InvalidArgumentError(
        absl::StrCat("group ", primary_.group(),
                     ": an agent's volumes are given on its command line (understudy-agent "
                     "--volume), not by Start"));
  }
  // A secondary's Start never takes over here: in RUNNING it is refused, in DONE ignored.
  ASSIGN_OR_RETURN(
      const Primary::Outcome outcome,
      primary_.Start(request.takeover() && request.mode() == v1::MODE_PRIMARY, deadline));
  FillStart(response);
  response.set_stage(ToProto(outcome.stage));
  response.set_ignored(outcome.ignored);
  return absl::OkStatus();
}

void AgentService::FillStart(v1::StartResponse& response) const {
  const Grant grant =
      primary_.fenced() ? Grant() : primary_.grant();  // a takeover that waits for its own
  response.set_stage(ToProto(primary_.stage()));
  if (!grant.none()) response.set_incarnation(EncodeIncarnation(grant.incarnation));
  response.set_term(grant.term.value());
}

grpc::ServerUnaryReactor* AgentService::Start(grpc::CallbackServerContext* context,
                                              const v1::StartRequest* request,
                                              v1::StartResponse* response) {
  return proto::RunRepeatable(
      context, pool_, primary_.requests(), request, response,
      [=, this] { return DoStart(*request, DeadlineOf(*context), *response); },
      {.before = [this] { return Before(primary_).Note(); },
       .derive =
           [this](const std::string& note, v1::StartResponse& derived) {
             const Before before(note);
             const Before now(primary_);
             const bool begun = before.stage == StageName(Stage::kNone);
             const bool taken_over = before.out && now.term > before.term;
             if ((!begun && !taken_over) || now.out || now.stage != StageName(Stage::kRunning)) {
               return false;
             }
             FillStart(derived);
             return true;
           }});
}

absl::Status AgentService::DoCheckpoint(const v1::CheckpointRequest& request,
                                        const base::Deadline& deadline,
                                        v1::CheckpointResponse& response) {
  RETURN_IF_ERROR(CheckGroup(request.group()));
  RETURN_IF_ERROR(CheckExpected(request.expected()));
  if (!v1::CheckpointMode_IsValid(request.mode())) {
    return absl::InvalidArgumentError(absl::StrCat("group ", request.group(), ": checkpoint mode ",
                                                   static_cast<int>(request.mode()),
                                                   " is not known"));
  }
  const bool prepare = request.mode() == v1::CHECKPOINT_MODE_PREPARE;
  if (!prepare && request.mode() != v1::CHECKPOINT_MODE_UNSPECIFIED &&
      request.mode() != v1::CHECKPOINT_MODE_FULL) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat(
            "group ", request.group(),
            ": a prepared epoch is committed or abandoned at the service, not at the agent")),
        kReasonWrongMode);
  }
  ASSIGN_OR_RETURN(const Primary::Outcome outcome,
                   prepare ? primary_.Prepare(deadline) : primary_.Checkpoint(deadline));
  response.set_stage(ToProto(outcome.stage));
  response.set_ignored(outcome.ignored);
  response.set_epoch(outcome.checkpoint.epoch.value());
  response.set_sequence(outcome.checkpoint.sequence);
  response.set_bytes(outcome.checkpoint.bytes);
  response.set_duration_micros(
      static_cast<uint64_t>(absl::ToInt64Microseconds(outcome.checkpoint.duration)));
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AgentService::Checkpoint(grpc::CallbackServerContext* context,
                                                   const v1::CheckpointRequest* request,
                                                   v1::CheckpointResponse* response) {
  return proto::RunRepeatable(context, pool_, primary_.requests(), request, response, [=, this] {
    return DoCheckpoint(*request, DeadlineOf(*context), *response);
  });
}

grpc::ServerUnaryReactor* AgentService::GetError(grpc::CallbackServerContext* context,
                                                 const v1::GetErrorRequest* request,
                                                 v1::GetErrorResponse* response) {
  return proto::RunUnary(context, quick_pool_, [=, this]() -> absl::Status {
    RETURN_IF_ERROR(CheckGroup(request->group()));
    const Stage stage = primary_.stage();
    if (stage == Stage::kNone) {
      std::string refused;
      for (const base::LatchedError& error : primary_.errors()) {
        if (error.reason == kReasonFenced) {
          refused = absl::StrCat("; its last start was refused: ", error.message);
        }
      }
      return NotRunning(primary_.group(), refused);
    }
    response->set_stage(ToProto(stage));
    for (const base::LatchedError& error : primary_.errors())
      *response->add_errors() = ToProto(error);
    response->set_handed_over(primary_.handed_over());
    response->set_disconnected_seconds(
        absl::ToDoubleSeconds(primary_.forwarder().state().disconnected()));
    return absl::OkStatus();
  });
}

absl::Status AgentService::DoClearError(const v1::ClearErrorRequest& request,
                                        v1::ClearErrorResponse& response) {
  RETURN_IF_ERROR(CheckGroup(request.group()));
  RETURN_IF_ERROR(CheckExpected(request.expected()));
  ASSIGN_OR_RETURN(const std::vector<base::LatchedError> cleared, primary_.ClearError());
  response.set_stage(ToProto(primary_.stage()));
  response.set_ignored(cleared.empty());
  for (const base::LatchedError& error : cleared) *response.add_errors() = ToProto(error);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AgentService::ClearError(grpc::CallbackServerContext* context,
                                                   const v1::ClearErrorRequest* request,
                                                   v1::ClearErrorResponse* response) {
  return proto::RunRepeatable(context, pool_, primary_.requests(), request, response,
                              [=, this] { return DoClearError(*request, *response); });
}

absl::Status AgentService::DoStop(const v1::StopRequest& request, const base::Deadline& deadline,
                                  v1::StopResponse& response) {
  RETURN_IF_ERROR(CheckGroup(request.group()));
  RETURN_IF_ERROR(CheckExpected(request.expected()));
  if (request.received() && !request.failover()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "group ", request.group(), ": received is for a stop with failover, at the service"));
  }
  const uint64_t term = primary_.grant().term.value();
  ASSIGN_OR_RETURN(const Primary::Outcome outcome, primary_.Stop(request.failover(), deadline));
  response.set_stage(ToProto(outcome.stage));
  response.set_ignored(outcome.ignored);
  response.set_epoch(primary_.forwarder().state().committed_epoch.value());
  response.set_term(term);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AgentService::Stop(grpc::CallbackServerContext* context,
                                             const v1::StopRequest* request,
                                             v1::StopResponse* response) {
  // A failover waits for no other call.
  return proto::RunRepeatable(
      context, request->failover() ? quick_pool_ : pool_, primary_.requests(), request, response,
      [=, this] { return DoStop(*request, DeadlineOf(*context), *response); },
      {.before = [this] { return Before(primary_).Note(); },
       .derive =
           [this](const std::string& note, v1::StopResponse& derived) {
             const Before before(note);
             if (primary_.stage() != Stage::kDone || before.stage != StageName(Stage::kRunning)) {
               return false;
             }
             derived.set_stage(v1::STAGE_DONE);
             derived.set_term(before.term);
             derived.set_epoch(before.epoch);
             return true;
           }});
}

grpc::ServerUnaryReactor* AgentService::GetStatus(grpc::CallbackServerContext* context,
                                                  const v1::GetStatusRequest* request,
                                                  v1::GetStatusResponse* response) {
  return proto::RunUnary(context, quick_pool_, [=, this]() -> absl::Status {
    if (!request->group().empty()) RETURN_IF_ERROR(CheckGroup(request->group()));
    *response->add_groups() = CurrentStatus();
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AgentService::ListGroups(grpc::CallbackServerContext* context,
                                                   const v1::ListGroupsRequest*,
                                                   v1::ListGroupsResponse* response) {
  return proto::RunUnary(context, quick_pool_, [=, this] {
    response->add_groups(primary_.group());
    return absl::OkStatus();
  });
}

absl::Status AgentService::DoRemove(const v1::RemoveRequest& request,
                                    const base::Deadline& deadline, v1::RemoveResponse& response) {
  RETURN_IF_ERROR(CheckGroup(request.group()));
  RETURN_IF_ERROR(CheckExpected(request.expected()));
  ASSIGN_OR_RETURN(const Primary::Outcome outcome, primary_.Remove(deadline));
  response.set_stage(ToProto(outcome.stage));
  response.set_ignored(outcome.ignored);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AgentService::Remove(grpc::CallbackServerContext* context,
                                               const v1::RemoveRequest* request,
                                               v1::RemoveResponse* response) {
  return proto::RunRepeatable(context, pool_, primary_.requests(), request, response, [=, this] {
    return DoRemove(*request, DeadlineOf(*context), *response);
  });
}

absl::StatusOr<v1::GroupStatus> AgentService::Status(const std::string& group) {
  RETURN_IF_ERROR(CheckGroup(group));
  return CurrentStatus();
}

v1::GroupStatus AgentService::CurrentStatus() {
  v1::GroupStatus status = StatusOf(primary_);
  status.set_nbd_socket(nbd_socket_);
  return status;
}

absl::Status AgentService::DoSync(const v1::SyncRequest& request, const base::Deadline& deadline,
                                  v1::SyncResponse& response) {
  RETURN_IF_ERROR(CheckGroup(request.group()));
  RETURN_IF_ERROR(CheckExpected(request.expected()));
  const v1::SyncMode mode =
      request.mode() == v1::SYNC_MODE_UNSPECIFIED ? v1::SYNC_MODE_MISSING : request.mode();
  if (!v1::SyncMode_IsValid(mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("group ", request.group(), ": sync mode ", static_cast<int>(mode),
                     " is not known: MISSING, FULL or DECLARE_COMPLETE"));
  }
  ASSIGN_OR_RETURN(const Primary::Outcome outcome,
                   primary_.Sync(static_cast<SyncMode>(mode), deadline));
  response.set_stage(ToProto(outcome.stage));
  response.set_ignored(outcome.ignored);
  response.set_epoch(outcome.checkpoint.epoch.value());
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AgentService::Sync(grpc::CallbackServerContext* context,
                                             const v1::SyncRequest* request,
                                             v1::SyncResponse* response) {
  return proto::RunRepeatable(context, pool_, primary_.requests(), request, response, [=, this] {
    return DoSync(*request, DeadlineOf(*context), *response);
  });
}

absl::Status AgentService::DoVerify(const v1::VerifyRequest& request,
                                    v1::VerifyResponse& response) {
  RETURN_IF_ERROR(CheckGroup(request.group()));
  RETURN_IF_ERROR(CheckExpected(request.expected()));
  ASSIGN_OR_RETURN(const uint64_t number, primary_.Verify(request.bytes_per_second()));
  response.set_stage(ToProto(primary_.stage()));
  response.set_number(number);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AgentService::Verify(grpc::CallbackServerContext* context,
                                               const v1::VerifyRequest* request,
                                               v1::VerifyResponse* response) {
  return proto::RunRepeatable(context, pool_, primary_.requests(), request, response,
                              [=, this] { return DoVerify(*request, *response); });
}

grpc::ServerWriteReactor<v1::WatchEvent>* AgentService::Watch(grpc::CallbackServerContext*,
                                                              const v1::WatchRequest* request) {
  return watch_streams_.Watch(*request);
}

grpc::ServerUnaryReactor* AgentService::RefuseAsPrimary(grpc::CallbackServerContext* context) {
  return proto::RunUnary(context, pool_, [this] {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "group ", primary_.group(),
            ": an agent has no overlays, no epochs and no failover: ask the standby's service")),
        kReasonWrongMode);
  });
}

grpc::ServerUnaryReactor* AgentService::GetFailbackMap(grpc::CallbackServerContext* context,
                                                       const v1::GetFailbackMapRequest*,
                                                       v1::GetFailbackMapResponse*) {
  return RefuseAsPrimary(context);
}

grpc::ServerUnaryReactor* AgentService::History(grpc::CallbackServerContext* context,
                                                const v1::HistoryRequest*, v1::HistoryResponse*) {
  return RefuseAsPrimary(context);
}

grpc::ServerUnaryReactor* AgentService::Clone(grpc::CallbackServerContext* context,
                                              const v1::CloneRequest*, v1::CloneResponse*) {
  return RefuseAsPrimary(context);
}

grpc::ServerUnaryReactor* AgentService::ListClones(grpc::CallbackServerContext* context,
                                                   const v1::ListClonesRequest*,
                                                   v1::ListClonesResponse*) {
  return RefuseAsPrimary(context);
}

grpc::ServerUnaryReactor* AgentService::RemoveClone(grpc::CallbackServerContext* context,
                                                    const v1::RemoveCloneRequest*,
                                                    v1::RemoveCloneResponse*) {
  return RefuseAsPrimary(context);
}

}  // namespace understudy::client
