#include "server/rpc/get_status_handler.h"

#include "proto/unary_call.h"
#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* GetStatusHandler::Handle(grpc::CallbackServerContext* context,
                                                   const v1::GetStatusRequest* request,
                                                   v1::GetStatusResponse* response) {
  return proto::RunUnary(
      context, pool_, [&service = service_, response, name = request->group()]() -> absl::Status {
        if (!name.empty()) {
          ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, service.FindGroup(name));
          *response->add_groups() = ToProto(group->Status());
          return absl::OkStatus();
        }
        for (const auto& group : service.groups())
          *response->add_groups() = ToProto(group->Status());
        return absl::OkStatus();
      });
}

}  // namespace understudy::server
