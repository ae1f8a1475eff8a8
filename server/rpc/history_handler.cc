#include "server/rpc/history_handler.h"

#include "proto/unary_call.h"
#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* HistoryHandler::Handle(grpc::CallbackServerContext* context,
                                                 const v1::HistoryRequest* request,
                                                 v1::HistoryResponse* response) {
  return proto::RunUnary(
      context, pool_, [&service = service_, response, name = request->group()]() -> absl::Status {
        ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, service.FindGroup(name));
        const HistoryReport report = group->History();
        response->set_stage(ToProto(report.stage));
        for (const storage::EpochInfo& epoch : report.epochs) {
          *response->add_epochs() = ToProto(epoch, group->volumes());
        }
        return absl::OkStatus();
      });
}

}  // namespace understudy::server
