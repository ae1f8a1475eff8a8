// client/rpc/channel.h
//
// The gRPC channel from an agent to its standby, with the limits and the credentials that all of its calls share.
#ifndef UNDERSTUDY_CLIENT_RPC_CHANNEL_H_
#define UNDERSTUDY_CLIENT_RPC_CHANNEL_H_

#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

namespace understudy::client {

// `server` is host:port or unix:/path of an understudyd. A connection of its own, made when it is first needed.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& server);

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_RPC_CHANNEL_H_
