#include "server/rpc/remove_handler.h"

#include "proto/unary_call.h"
#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* RemoveHandler::Handle(grpc::CallbackServerContext* context,
                                                const v1::RemoveRequest* request,
                                                v1::RemoveResponse* /*response*/) {
  return proto::RunUnary(context, pool_,
                         [&service = service_, name = request->group(), force = request->force(),
                          expected = ExpectedFrom(request->expected()),
                          deadline = DeadlineOf(*context)]() -> absl::Status {
                           RETURN_IF_ERROR(expected.status());
                           return service.Remove(name, force, *expected, deadline);
                         });
}

}  // namespace understudy::server
