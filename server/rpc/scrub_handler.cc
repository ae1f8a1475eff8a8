#include "server/rpc/scrub_handler.h"

#include "proto/repeatable_call.h"
#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* ScrubHandler::Handle(grpc::CallbackServerContext* context,
                                               const v1::ScrubRequest* request,
                                               v1::ScrubResponse* response) {
  return proto::RunRepeatable(
      context, pool_, service_.requests(), request, response,
      [&service = service_, request, response]() -> absl::Status {
        ASSIGN_OR_RETURN(const Expected expected, ExpectedFrom(request->expected()));
        ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, service.FindGroup(request->group()));
        ASSIGN_OR_RETURN(const uint64_t number,
                         group->Scrub({.bytes_per_second = request->bytes_per_second()}, expected));
        response->set_stage(ToProto(group->Status().replica.stage));
        response->set_number(number);
        return absl::OkStatus();
      },
      {.before = {}, .derive = {}, .durable = false});  // a restart ends it
}

}  // namespace understudy::server
