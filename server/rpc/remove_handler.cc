#include "server/rpc/remove_handler.h"

#include <optional>

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
       mark = request->failback_mark(), expected = ExpectedFrom(request->expected()),
       deadline = DeadlineOf(*context), response]() -> absl::Status {
        RETURN_IF_ERROR(expected.status());
        const std::optional<uint64_t> failback_mark =
            mark == 0 ? std::nullopt : std::optional<uint64_t>(mark);
        RETURN_IF_ERROR(service.Remove(name, force, *expected, deadline, failback_mark));
        response->set_stage(v1::STAGE_NONE);
        return absl::OkStatus();
      },
      RepeatOf(service_, *request));
}

}  // namespace understudy::server
