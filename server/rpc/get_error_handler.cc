#include "server/rpc/get_error_handler.h"

#include "proto/unary_call.h"
#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* GetErrorHandler::Handle(grpc::CallbackServerContext* context,
                                                  const v1::GetErrorRequest* request,
                                                  v1::GetErrorResponse* response) {
  return proto::RunUnary(
      context, pool_, [&service = service_, response, name = request->group()]() -> absl::Status {
        ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, service.FindGroup(name));
        ASSIGN_OR_RETURN(const ErrorReport report, group->GetError());
        response->set_stage(ToProto(report.stage));
        for (const base::LatchedError& error : report.errors)
          *response->add_errors() = ToProto(error);
        response->set_disconnected_seconds(absl::ToDoubleSeconds(report.disconnected));
        return absl::OkStatus();
      });
}

}  // namespace understudy::server
