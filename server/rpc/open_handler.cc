#include "server/rpc/open_handler.h"

#include "proto/repeatable_call.h"
#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* OpenHandler::Handle(grpc::CallbackServerContext* context,
                                              const v1::OpenRequest* request,
                                              v1::OpenResponse* response) {
  return proto::RunRepeatable(
      context, pool_, service_.requests(), request, response,
      [&service = service_, response, mode = ModeFrom(request->mode()),
       spec = GroupSpecFrom(*request), deadline = DeadlineOf(*context)]() -> absl::Status {
        ASSIGN_OR_RETURN(const OpenOutcome outcome, service.Open(mode, spec, deadline));
        response->set_stage(ToProto(outcome.group->replica().state().stage));
        response->set_ignored(outcome.ignored);
        return absl::OkStatus();
      });
}

}  // namespace understudy::server
