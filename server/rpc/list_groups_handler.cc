#include "server/rpc/list_groups_handler.h"

#include "proto/unary_call.h"
#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* ListGroupsHandler::Handle(grpc::CallbackServerContext* context,
                                                    const v1::ListGroupsRequest* /*request*/,
                                                    v1::ListGroupsResponse* response) {
  return proto::RunUnary(context, pool_, [&service = service_, response]() -> absl::Status {
    for (const auto& group : service.groups()) response->add_groups(group->name());
    return absl::OkStatus();
  });
}

}  // namespace understudy::server
