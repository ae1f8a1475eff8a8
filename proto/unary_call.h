// proto/unary_call.h
//
// A unary callback RPC whose work may block: it runs on a WorkerPool, never on a gRPC thread; and how long it may.
#ifndef UNDERSTUDY_PROTO_UNARY_CALL_H_
#define UNDERSTUDY_PROTO_UNARY_CALL_H_

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include <grpcpp/grpcpp.h>

#include "proto/grpc_time.h"
#include "proto/status_codec.h"
#include "storage/base/deadline.h"
#include "storage/base/worker_pool.h"

namespace understudy::proto {

// The call's deadline, a minute from now when the client set none; or its cancellation. A little early, so that the answer that time is
// up, which says more than the client's own, gets there first. `context` outlives it.
inline base::Deadline DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto gone = [&context] { return context.IsCancelled(); };
  const absl::Duration given = TimeUntil(context.raw_deadline());
  if (given >= absl::Hours(24 * 365)) return base::Deadline::After(absl::Minutes(1), gone);
  const absl::Duration left = std::max(absl::ZeroDuration(), given);
  return base::Deadline::After(left - std::min(left / 5, absl::Milliseconds(500)), gone);
}

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
