// client/rpc/agent_status.h
//
// A Primary as the messages of the control service.
#ifndef UNDERSTUDY_CLIENT_RPC_AGENT_STATUS_H_
#define UNDERSTUDY_CLIENT_RPC_AGENT_STATUS_H_

#include "client/primary.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::client {

v1::Stage ToProto(Stage stage);
v1::ReplicationError ToProto(const LatchedError& error);
v1::GroupStatus StatusOf(Primary& primary);

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_RPC_AGENT_STATUS_H_
