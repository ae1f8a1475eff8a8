// proto/grpc_channel.h
//
// Every gRPC channel between our programs is made here, with one list of arguments;
// proto/grpc_host.h is its other end. A channel that is made elsewhere, with a list of its own,
// notices other things at the same peer: tests/tidy forbids it.
#ifndef UNDERSTUDY_PROTO_GRPC_CHANNEL_H_
#define UNDERSTUDY_PROTO_GRPC_CHANNEL_H_

#include <memory>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

namespace understudy::proto {

struct ConnectionArgument {
  const char* name;
  int value;
};

// What both ends of a connection have: a peer that is silent for 20 s is given up, also one that
// has nothing to say.
const std::vector<ConnectionArgument>& ConnectionArguments();

// These, and what only the end that connects has.
grpc::ChannelArguments ChannelArguments();

// `address` is host:port or unix:/path of a daemon. A connection of its own, made when it is first
// needed.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address);

}  // namespace understudy::proto

#endif  // UNDERSTUDY_PROTO_GRPC_CHANNEL_H_
