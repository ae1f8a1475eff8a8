#include "server/rpc/list_clones_handler.h"

#include "proto/unary_call.h"
#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* ListClonesHandler::Handle(grpc::CallbackServerContext* context,
                                                    const v1::ListClonesRequest* request,
                                                    v1::ListClonesResponse* response) {
  return proto::RunUnary(
      context, pool_, [this, response, name = request->group()]() -> absl::Status {
        ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, service_.FindGroup(name));
        response->set_stage(ToProto(group->replica().state().stage));
        for (const storage::CloneInfo& clone : group->replica().clones()) {
          *response->add_clones() = ToProto(clone, name, group->volumes());
        }
        response->set_nbd_socket(nbd_socket_);
        return absl::OkStatus();
      });
}

}  // namespace understudy::server
