#include "client/ctl/arguments.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace understudy::ctl {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

Arguments Words(const std::string& command, const std::string& group = "vm1") {
  Arguments arguments;
  arguments.server = "127.0.0.1:7410";
  arguments.command = command;
  arguments.group = group;
  return arguments;
}

std::vector<std::string> Problems(const Arguments& arguments) {
  const auto result = Interpret(arguments);
  const auto* problems = std::get_if<std::vector<std::string>>(&result);
  return problems != nullptr ? *problems : std::vector<std::string>();
}

template <typename T>
T RequestOf(const Arguments& arguments) {
  EXPECT_THAT(Problems(arguments), SizeIs(0));
  return std::get<T>(std::get<Invocation>(Interpret(arguments)).request);
}

TEST(ArgumentsTest, ASecondaryVolumeGetsGroupAndNameAsTopId) {
  Arguments words = Words("start");
  words.mode = "secondary";
  words.volumes = {"root,disk=/d", "data,disk=/e,top-id=other"};
  const auto request = RequestOf<v1::StartRequest>(words);
  EXPECT_EQ(request.mode(), v1::MODE_SECONDARY);
  ASSERT_EQ(request.volumes_size(), 2);
  EXPECT_EQ(request.volumes(0).top_id(), "vm1/root");
  EXPECT_EQ(request.volumes(1).top_id(), "other");
}

TEST(ArgumentsTest, APrimaryVolumeGetsNone) {
  Arguments words = Words("start");
  words.mode = "primary";
  words.takeover = true;
  words.volumes = {"root,disk=/d"};
  const auto request = RequestOf<v1::StartRequest>(words);
  EXPECT_TRUE(request.takeover());
  EXPECT_EQ(request.volumes(0).top_id(), "");
}

TEST(ArgumentsTest, CheckpointModes) {
  EXPECT_EQ(RequestOf<v1::CheckpointRequest>(Words("checkpoint")).mode(), v1::CHECKPOINT_MODE_FULL);
  Arguments words = Words("checkpoint");
  words.commit_given = true;
  words.commit = "12";
  EXPECT_EQ(RequestOf<v1::CheckpointRequest>(words).mode(), v1::CHECKPOINT_MODE_COMMIT);
  EXPECT_EQ(RequestOf<v1::CheckpointRequest>(words).epoch(), 12u);
  words.commit = "twelve";
  words.abandon = true;
  EXPECT_THAT(Problems(words), ElementsAre("--prepare, --commit and --abandon exclude each other",
                                           HasSubstr("\"twelve\" is not an epoch")));
}

TEST(ArgumentsTest, StopOptionsNeedTheFailover) {
  Arguments words = Words("stop");
  words.received = true;
  words.epoch_given = true;
  words.epoch = "7";
  EXPECT_THAT(Problems(words), SizeIs(3));
  words.failover = true;
  EXPECT_THAT(Problems(words), ElementsAre("--received and --epoch exclude each other"));
  words.received = false;
  EXPECT_EQ(RequestOf<v1::StopRequest>(words).epoch(), 7u);
}

TEST(ArgumentsTest, EverythingWrongIsToldAtOnce) {
  Arguments words = Words("open", "");
  words.server = "nowhere";
  words.timeout = "10";
  words.mode = "tertiary";
  words.volumes = {"root", "data,disk=/d,size=x"};
  words.unknown = {"--colour"};
  EXPECT_THAT(Problems(words),
              ElementsAre("--colour: unknown flag", HasSubstr("--timeout"), HasSubstr("--server"),
                          "GROUP is missing", HasSubstr("should be primary or secondary"),
                          HasSubstr("--volume root: "), HasSubstr("--volume data,")));
}

TEST(ArgumentsTest, WhatIsMissingIsNamed) {
  EXPECT_THAT(Problems(Words("", "")), ElementsAre("COMMAND is missing"));
  EXPECT_THAT(Problems(Words("open")),
              ElementsAre(HasSubstr("Missing the option mode"), HasSubstr("--volume is missing")));
  for (const char* command : {"checkpoint", "get-error", "stop", "remove"}) {
    EXPECT_THAT(Problems(Words(command, "")), Contains("GROUP is missing")) << command;
  }
  EXPECT_THAT(Problems(Words("status", "")), SizeIs(0));
}

TEST(ArgumentsTest, ServersAreHostAndPortOrAUnixPath) {
  for (const char* server : {"unix:/run/s", "host:1", "[::1]:7410", "127.0.0.1:65535"}) {
    Arguments words = Words("list");
    words.server = server;
    EXPECT_THAT(Problems(words), SizeIs(0)) << server;
  }
  for (const char* server : {"", "host", "host:", "host:0", "host:65536", ":7410", "unix:"}) {
    Arguments words = Words("list");
    words.server = server;
    EXPECT_THAT(Problems(words), SizeIs(1)) << server;
  }
}

}  // namespace
}  // namespace understudy::ctl
