#include "server/rpc/checkpoint_handler.h"

#include "proto/unary_call.h"
#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* CheckpointHandler::Handle(grpc::CallbackServerContext* context,
                                                    const v1::CheckpointRequest* request,
                                                    v1::CheckpointResponse* response) {
  const bool full = request->mode() == v1::CHECKPOINT_MODE_UNSPECIFIED ||
                    request->mode() == v1::CHECKPOINT_MODE_FULL;
  return proto::RunUnary(
      context, pool_,
      [&service = service_, response, full, name = request->group(),
       expected = ExpectedFrom(request->expected()),
       deadline = DeadlineOf(*context)]() -> absl::Status {
        if (!full) {
          return absl::UnimplementedError(
              "checkpoint modes PREPARE, COMMIT and ABANDON are not available yet: use FULL");
        }
        RETURN_IF_ERROR(expected.status());
        ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, service.FindGroup(name));
        ASSIGN_OR_RETURN(const CheckpointAnswer answer, group->Checkpoint(*expected, deadline));
        response->set_stage(ToProto(answer.stage));
        response->set_ignored(answer.ignored);
        response->set_epoch(answer.result.epoch.value());
        response->set_sequence(answer.result.sequence);
        response->set_bytes(answer.result.bytes);
        response->set_duration_micros(
            static_cast<uint64_t>(absl::ToInt64Microseconds(answer.result.duration)));
        return absl::OkStatus();
      });
}

}  // namespace understudy::server
