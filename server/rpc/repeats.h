// server/rpc/repeats.h
//
// What a repeated call can find out when the outcome of its first run is not known: the service ended in between, or the deadline
// passed. How the group was is noted before the first run; how it is now shows whether that had its effect. Start, Checkpoint,
// Stop and Remove only: what the other calls do is done again without harm, or ends with the process.
#ifndef UNDERSTUDY_SERVER_RPC_REPEATS_H_
#define UNDERSTUDY_SERVER_RPC_REPEATS_H_

#include "proto/repeatable_call.h"
#include "server/service.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

// `service` outlives what they return.
proto::Repeat<v1::StartResponse> RepeatOf(Service& service, const v1::StartRequest& request);
proto::Repeat<v1::CheckpointResponse> RepeatOf(Service& service,
                                               const v1::CheckpointRequest& request);
proto::Repeat<v1::StopResponse> RepeatOf(Service& service, const v1::StopRequest& request);
proto::Repeat<v1::RemoveResponse> RepeatOf(Service& service, const v1::RemoveRequest& request);

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_REPEATS_H_
