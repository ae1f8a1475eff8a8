#include "server/rpc/start_handler.h"

#include "proto/repeatable_call.h"
#include "server/rpc/convert.h"
#include "server/rpc/repeats.h"
#include "storage/base/status_macros.h"
#include "storage/base/text.h"

namespace understudy::server {

grpc::ServerUnaryReactor* StartHandler::Handle(grpc::CallbackServerContext* context,
                                               const v1::StartRequest* request,
                                               v1::StartResponse* response) {
  return proto::RunRepeatable(
      context, pool_, service_.requests(), request, response,
      [&service = service_, response, mode = ModeFrom(request->mode()),
       spec = GroupSpecFrom(*request), expected = ExpectedFrom(request->expected()),
       deadline = DeadlineOf(*context)]() -> absl::Status {
        RETURN_IF_ERROR(expected.status());
        ASSIGN_OR_RETURN(const StartOutcome outcome,
                         service.Start(mode, spec, *expected, deadline));
        response->set_stage(ToProto(outcome.stage));
        response->set_ignored(outcome.ignored);
        response->set_incarnation(ToBytes(outcome.incarnation));
        response->set_term(outcome.term.value());
        if (!outcome.warning.empty()) response->add_warnings(base::ToUtf8(outcome.warning));
        return absl::OkStatus();
      },
      RepeatOf(service_, *request));
}

}  // namespace understudy::server
