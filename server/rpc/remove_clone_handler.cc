#include "server/rpc/remove_clone_handler.h"

#include "proto/repeatable_call.h"
#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* RemoveCloneHandler::Handle(grpc::CallbackServerContext* context,
                                                     const v1::RemoveCloneRequest* request,
                                                     v1::RemoveCloneResponse* response) {
  return proto::RunRepeatable(
      context, pool_, service_.requests(), request, response,
      [&service = service_, response, name = request->group(), clone = request->name(),
       expected = ExpectedFrom(request->expected())]() -> absl::Status {
        RETURN_IF_ERROR(expected.status());
        ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, service.FindGroup(name));
        RETURN_IF_ERROR(group->RemoveClone(clone, *expected));
        response->set_stage(ToProto(group->replica().state().stage));
        return absl::OkStatus();
      });
}

}  // namespace understudy::server
