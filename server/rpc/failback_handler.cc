#include "server/rpc/failback_handler.h"

#include "proto/unary_call.h"
#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* FailbackHandler::Handle(grpc::CallbackServerContext* context,
                                                  const v1::GetFailbackMapRequest* request,
                                                  v1::GetFailbackMapResponse* response) {
  return proto::RunUnary(
      context, pool_, [&service = service_, response, name = request->group()]() -> absl::Status {
        ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, service.FindGroup(name));
        ASSIGN_OR_RETURN(const storage::FailbackRegions failback, group->Failback());
        *response->mutable_map() = ToProto(failback, name, group->volumes());
        response->set_mark(failback.mark);
        return absl::OkStatus();
      });
}

}  // namespace understudy::server
