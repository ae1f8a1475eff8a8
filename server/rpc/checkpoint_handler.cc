#include "server/rpc/checkpoint_handler.h"

#include "proto/repeatable_call.h"
#include "server/rpc/convert.h"
#include "server/rpc/repeats.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::server {
namespace {

absl::StatusOr<CheckpointAnswer> Call(Group& group, v1::CheckpointMode mode, Epoch epoch,
                                      const Expected& expected, const base::Deadline& deadline,
                                      const std::string& request_id) {
  switch (mode) {
    case v1::CHECKPOINT_MODE_UNSPECIFIED:
    case v1::CHECKPOINT_MODE_FULL:
      return group.Checkpoint(expected, deadline, request_id);
    case v1::CHECKPOINT_MODE_COMMIT:
      return group.CommitPrepared(epoch, expected);
    case v1::CHECKPOINT_MODE_ABANDON:
      return group.AbandonPrepared(expected);
    case v1::CHECKPOINT_MODE_PREPARE:
      return WithReason(
          absl::InvalidArgumentError(absl::StrCat(
              "group ", group.name(),
              ": only the agent can prepare, because it marks the stream: ask it instead")),
          kReasonWrongMode);
    default:
      return absl::InvalidArgumentError(absl::StrCat("unknown checkpoint mode ", mode));
  }
}

}  // namespace

grpc::ServerUnaryReactor* CheckpointHandler::Handle(grpc::CallbackServerContext* context,
                                                    const v1::CheckpointRequest* request,
                                                    v1::CheckpointResponse* response) {
  return proto::RunRepeatable(
      context, pool_, service_.requests(), request, response,
      [&service = service_, response, mode = request->mode(), epoch = Epoch(request->epoch()),
       name = request->group(), id = request->request_id(),
       expected = ExpectedFrom(request->expected()),
       deadline = DeadlineOf(*context)]() -> absl::Status {
        RETURN_IF_ERROR(expected.status());
        ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, service.FindGroup(name));
        ASSIGN_OR_RETURN(const CheckpointAnswer answer,
                         Call(*group, mode, epoch, *expected, deadline, id));
        response->set_stage(ToProto(answer.stage));
        response->set_ignored(answer.ignored);
        response->set_epoch(answer.result.epoch.value());
        response->set_sequence(answer.result.sequence);
        response->set_bytes(answer.result.bytes);
        response->set_duration_micros(
            static_cast<uint64_t>(absl::ToInt64Microseconds(answer.result.duration)));
        return absl::OkStatus();
      },
      RepeatOf(service_, *request));
}

}  // namespace understudy::server
