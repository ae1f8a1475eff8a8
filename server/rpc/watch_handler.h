// server/rpc/watch_handler.h
//
// Watch: the journal of the service as streams; see proto/watch_stream.h.
#ifndef UNDERSTUDY_SERVER_RPC_WATCH_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_WATCH_HANDLER_H_

#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "proto/watch_stream.h"
#include "server/service.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class WatchHandler : private proto::WatchedGroups {
 public:
  // `service` outlives the handler.
  explicit WatchHandler(Service& service) : service_(service), streams_(service.journal(), *this) {}

  grpc::ServerWriteReactor<v1::WatchEvent>* Handle(grpc::CallbackServerContext* context,
                                                   const v1::WatchRequest* request);
  void EndAll() { streams_.EndAll(); }

 private:
  std::vector<std::string> Names() override;
  absl::StatusOr<v1::GroupStatus> Status(const std::string& group) override;

  Service& service_;
  proto::WatchStreams streams_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_WATCH_HANDLER_H_
