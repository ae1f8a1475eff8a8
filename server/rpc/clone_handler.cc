#include "server/rpc/clone_handler.h"

#include "proto/repeatable_call.h"
#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* CloneHandler::Handle(grpc::CallbackServerContext* context,
                                               const v1::CloneRequest* request,
                                               v1::CloneResponse* response) {
  return proto::RunRepeatable(
      context, pool_, service_.requests(), request, response,
      [this, response, spec = CloneSpecFrom(*request), name = request->group(),
       expected = ExpectedFrom(request->expected())]() -> absl::Status {
        RETURN_IF_ERROR(spec.status());
        RETURN_IF_ERROR(expected.status());
        ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, service_.FindGroup(name));
        ASSIGN_OR_RETURN(const storage::CloneInfo clone,
                         service_.CreateClone(*group, *spec, *expected));
        response->set_stage(ToProto(group->replica().state().stage));
        *response->mutable_clone() = ToProto(clone, name, group->volumes());
        response->set_nbd_socket(nbd_socket_);
        return absl::OkStatus();
      },
      {.before = {}, .derive = {}, .durable = false});  // a restart ends it
}

}  // namespace understudy::server
