// server/rpc/scrub_handler.h
//
// Scrub: begins a verification of a group's overlays.
#ifndef UNDERSTUDY_SERVER_RPC_SCRUB_HANDLER_H_
#define UNDERSTUDY_SERVER_RPC_SCRUB_HANDLER_H_

#include <grpcpp/grpcpp.h>

#include "server/service.h"
#include "storage/base/worker_pool.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

class ScrubHandler {
 public:
  // Both outlive the handler.
  ScrubHandler(Service& service, base::WorkerPool& pool) : service_(service), pool_(pool) {}
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context,
                                   const v1::ScrubRequest* request, v1::ScrubResponse* response);

 private:
  Service& service_;
  base::WorkerPool& pool_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_SCRUB_HANDLER_H_
