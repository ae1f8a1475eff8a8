#include "server/rpc/clear_error_handler.h"

#include "proto/repeatable_call.h"
#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* ClearErrorHandler::Handle(grpc::CallbackServerContext* context,
                                                    const v1::ClearErrorRequest* request,
                                                    v1::ClearErrorResponse* response) {
  return proto::RunRepeatable(
      context, pool_, service_.requests(), request, response,
      [&service = service_, request, response]() -> absl::Status {
        ASSIGN_OR_RETURN(const Expected expected, ExpectedFrom(request->expected()));
        ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, service.FindGroup(request->group()));
        ASSIGN_OR_RETURN(const ErrorReport cleared, group->ClearError(expected));
        response->set_stage(ToProto(cleared.stage));
        response->set_ignored(cleared.errors.empty());
        for (const base::LatchedError& error : cleared.errors) {
          *response->add_errors() = ToProto(error);
        }
        return absl::OkStatus();
      });
}

}  // namespace understudy::server
