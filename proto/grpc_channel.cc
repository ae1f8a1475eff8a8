#include "proto/grpc_channel.h"

#include "proto/grpc_host.h"

namespace understudy::proto {

const std::vector<ConnectionArgument>& ConnectionArguments() {
  static const std::vector<ConnectionArgument> arguments = {
      {GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, kMessageBytesMax},
      {GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, kMessageBytesMax},
      // A peer whose host has died says nothing more: it is asked.
      {GRPC_ARG_KEEPALIVE_TIME_MS, 10'000},
      // Behind a window of data on a slow line an answer may take long. Calls that need to know
      // sooner have timeouts of their own.
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000},
      // Without limit: a stream may have nothing to tell for hours, and after two pings gRPC would
      // ask no more.
      {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},
  };
  return arguments;
}

grpc::ChannelArguments ChannelArguments() {
  grpc::ChannelArguments arguments;
  for (const auto& [name, value] : ConnectionArguments()) arguments.SetInt(name, value);
  // The callers have their own backoff. gRPC's, which grows to two minutes, must not add to it.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
  // How long one attempt may take: a daemon on a busy host is slow to answer, one on a dead host
  // never does.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5'000);
  // Channels to the same peer share no connection: one that is stuck must not take the others
  // along.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A proxy for the outside world has no business between the hosts of a pair.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return arguments;
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), ChannelArguments());
}

}  // namespace understudy::proto
