// proto/unary_call.h
//
// A unary callback RPC whose work may block: it runs on a WorkerPool, never on a gRPC thread.
#ifndef UNDERSTUDY_PROTO_UNARY_CALL_H_
#define UNDERSTUDY_PROTO_UNARY_CALL_H_

#include <utility>

#include "absl/status/status.h"
#include <grpcpp/grpcpp.h>

#include "proto/status_codec.h"
#include "storage/base/worker_pool.h"

namespace understudy::proto {

// Calls `handle` (returning absl::Status, filling the response) on `pool` and finishes the call with its status. A call whose
// client has gone away before it begins is not handled.
template <typename Handle>
grpc::ServerUnaryReactor* RunUnary(grpc::CallbackServerContext* context, base::WorkerPool& pool,
                                   Handle handle) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  pool.Submit([context, reactor, handle = std::move(handle)]() mutable {
    if (context->IsCancelled()) {
      reactor->Finish(grpc::Status::CANCELLED);
      return;
    }
    reactor->Finish(ToGrpcStatus(handle()));
  });
  return reactor;
}

}  // namespace understudy::proto

#endif  // UNDERSTUDY_PROTO_UNARY_CALL_H_
