#include "server/rpc/remove_handler.h"

#include "proto/repeatable_call.h"
#include "server/rpc/convert.h"
#include "server/rpc/repeats.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* RemoveHandler::Handle(grpc::CallbackServerContext* context,
                                                const v1::RemoveRequest* request,
                                                v1::RemoveResponse* response) {
  return proto::RunRepeatable(
      context, pool_, service_.requests(), request, response,
      [&service = service_, name = request->group(), force = request->force(),
       expected = ExpectedFrom(request->expected()), deadline = DeadlineOf(*context)] {
        RETURN_IF_ERROR(expected.status());
        return service.Remove(name, force, *expected, deadline);
      },
      RepeatOf(service_, *request));
}

}  // namespace understudy::server
