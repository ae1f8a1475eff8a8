#include "proto/grpc_channel.h"

#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace understudy::proto::grpc_channel_test {
namespace {

using ::testing::IsSupersetOf;
using ::testing::Pair;

std::map<std::string, int> Numbers(const grpc::ChannelArguments& arguments) {
  const grpc_channel_args all = arguments.c_channel_args();
  std::map<std::string, int> numbers;
  for (size_t i = 0; i < all.num_args; ++i) {
    const grpc_arg& argument = all.args[i];
    if (argument.type == GRPC_ARG_INTEGER) numbers[argument.key] = argument.value.integer;
  }
  return numbers;
}

// That nobody makes a channel elsewhere is for tests/tidy to see. A stream of Watch without a word
// for a minute, whose daemon then stood still, was followed for ever: its channel had another list,
// and gRPC's default is to ask an idle peer twice and no more.
TEST(GrpcChannelTest, EveryChannelAsksAnIdlePeerForEverAndReconnectsSoon) {
  EXPECT_THAT(
      Numbers(ChannelArguments()),
      IsSupersetOf(
          {Pair(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0), Pair(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000),
           Pair(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000),
           Pair(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, 16 << 20),
           Pair(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, 16 << 20),
           Pair(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50),
           Pair(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200),
           Pair(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5'000),
           Pair(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1), Pair(GRPC_ARG_ENABLE_HTTP_PROXY, 0)}));
}

// The service must notice that a watcher's or an agent's host has died, too.
TEST(GrpcChannelTest, WhatBothEndsHaveIsInTheList) {
  const std::map<std::string, int> numbers = Numbers(ChannelArguments());
  for (const auto& [name, value] : ConnectionArguments())
    EXPECT_EQ(numbers.at(name), value) << name;
}

}  // namespace
}  // namespace understudy::proto::grpc_channel_test
