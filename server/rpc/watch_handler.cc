#include "server/rpc/watch_handler.h"

#include "server/rpc/convert.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerWriteReactor<v1::WatchEvent>* WatchHandler::Handle(
    grpc::CallbackServerContext* /*context*/, const v1::WatchRequest* request) {
  return streams_.Watch(*request);
}

std::vector<std::string> WatchHandler::Names() {
  std::vector<std::string> names;
  for (const auto& group : service_.groups()) names.push_back(group->name());
  return names;
}

absl::StatusOr<v1::GroupStatus> WatchHandler::Status(const std::string& name) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, service_.FindGroup(name));
  return ToProto(group->Status());
}

}  // namespace understudy::server
