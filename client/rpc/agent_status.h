// client/rpc/agent_status.h
//
// A Primary as the messages of the control service.
#ifndef UNDERSTUDY_CLIENT_RPC_AGENT_STATUS_H_
#define UNDERSTUDY_CLIENT_RPC_AGENT_STATUS_H_

#include "client/primary.h"
#include "proto/replication_codec.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::client {

using proto::ToProto;  // stages and latched errors

v1::GroupStatus StatusOf(Primary& primary);

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_RPC_AGENT_STATUS_H_
