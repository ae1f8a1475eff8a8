#include "client/ctl/arguments.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/ctl/invocation.h"

namespace understudy::ctl::arguments_test {
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

TEST(ArgumentsTest, WhatACallExpectsGoesWithEveryCallThatChangesSomething) {
  const auto with_expected = [](Arguments words) {
    words.expected_term = "3";
    words.expected_incarnation = "000102030405060708090A0B0C0D0e0f";
    return words;
  };
  Arguments start = Words("start");
  start.mode = "primary";
  const std::string bytes("\0\1\2\3\4\5\6\7\10\11\12\13\14\15\16\17", 16);
  for (const v1::Expected& expected :
       {RequestOf<v1::StartRequest>(with_expected(start)).expected(),
        RequestOf<v1::CheckpointRequest>(with_expected(Words("checkpoint"))).expected(),
        RequestOf<v1::StopRequest>(with_expected(Words("stop"))).expected(),
        RequestOf<v1::RemoveRequest>(with_expected(Words("remove"))).expected()}) {
    EXPECT_EQ(expected.term(), 3u);
    EXPECT_EQ(expected.incarnation(), bytes);
  }
  EXPECT_FALSE(RequestOf<v1::StopRequest>(Words("stop")).has_expected());
  Arguments wrong = Words("stop");
  wrong.expected_term = "0";
  wrong.expected_incarnation = "0001";
  EXPECT_THAT(Problems(wrong),
              ElementsAre(HasSubstr("--expected-term"), HasSubstr("--expected-incarnation")));
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
  words.force = true;
  EXPECT_TRUE(RequestOf<v1::StopRequest>(words).force());
  words.epoch_given = false;
  EXPECT_THAT(Problems(words), ElementsAre("--force goes with --epoch"));
}

TEST(ArgumentsTest, ACloneIsMadeListedOrRemoved) {
  Arguments words = Words("clone");
  EXPECT_THAT(Problems(words), ElementsAre(HasSubstr("--name NAME, --list and --remove NAME")));
  words.name = "drill";
  EXPECT_EQ(RequestOf<v1::CloneRequest>(words).epoch(), 0u) << "0: the newest";
  words.epoch_given = true;
  words.epoch = "7";
  words.bytes_max = "2G";
  words.ttl = "2d";
  const auto request = RequestOf<v1::CloneRequest>(words);
  EXPECT_EQ(request.name(), "drill");
  EXPECT_EQ(request.epoch(), 7u);
  EXPECT_EQ(request.bytes_max(), 2ull << 30);
  EXPECT_EQ(request.time_to_live_micros(), 2ull * 86400 * 1'000'000);
  words.list = true;
  EXPECT_THAT(Problems(words), ElementsAre(HasSubstr("exclude each other"),
                                           HasSubstr("--bytes-max and --ttl go with --name")));
  words = Words("clone");
  words.list = true;
  EXPECT_EQ(RequestOf<v1::ListClonesRequest>(words).group(), "vm1");
  words.list = false;
  words.remove_given = true;
  EXPECT_THAT(Problems(words), ElementsAre(HasSubstr("--remove needs")));
  words.remove = "drill";
  EXPECT_EQ(RequestOf<v1::RemoveCloneRequest>(words).name(), "drill");
  words.expected_term = "3";
  EXPECT_EQ(RequestOf<v1::RemoveCloneRequest>(words).expected().term(), 3u);
  words.remove_given = false;
  words.name = "drill";
  EXPECT_EQ(RequestOf<v1::CloneRequest>(words).expected().term(), 3u);
  words.name.clear();
  words.list = true;
  EXPECT_THAT(Problems(words), ElementsAre(HasSubstr("go with --name and --remove")));
}

TEST(ArgumentsTest, WhatACloneCannotBeIsTold) {
  Arguments words = Words("clone");
  words.name = "drill";
  words.bytes_max = "0";
  words.ttl = "-1s";
  EXPECT_THAT(Problems(words), ElementsAre(HasSubstr("--bytes-max"), HasSubstr("--ttl")));
  words.bytes_max = "1X";
  words.ttl = "400d";
  EXPECT_THAT(Problems(words), ElementsAre(HasSubstr("--bytes-max"), HasSubstr("--ttl")));
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

TEST(ArgumentsTest, BehindAnUnknownCommandIsNoOtherOne) {
  Arguments words = Words("", "");
  words.unknown = {"checkpiont", "vm1", "--colour"};
  EXPECT_THAT(Problems(words),
              ElementsAre("checkpiont: unknown command", "--colour: unknown flag"));
}

TEST(ArgumentsTest, WhatMayHaveBeenMeantIsSaid) {
  Arguments words = Words("", "");
  words.unknown = {"stauts"};
  words.nearest = {{"stauts", "status"}};
  EXPECT_THAT(Problems(words), ElementsAre("stauts: unknown command; did you mean status?"));
  words = Words("stop");
  words.unknown = {"--failvoer", "now"};
  words.nearest = {{"--failvoer", "--failover"}};
  EXPECT_THAT(Problems(words), ElementsAre("--failvoer: unknown flag; did you mean --failover?",
                                           "now: unexpected argument"));
}

TEST(ArgumentsTest, AHintLeadsToTheSameDaemon) {
  const auto ctl = [](const std::string& server) {
    Arguments words = Words("list");
    words.usual_server = "127.0.0.1:7410";
    words.server = server;
    return std::get<Invocation>(Interpret(words)).ctl;
  };
  EXPECT_EQ(ctl("127.0.0.1:7410"), "understudyctl");
  EXPECT_EQ(ctl("agent-1:7420"), "understudyctl --server agent-1:7420");
  EXPECT_EQ(ctl("unix:/run/a b"), "understudyctl --server 'unix:/run/a b'");
}

TEST(ArgumentsTest, WhatIsMissingIsNamed) {
  EXPECT_THAT(Problems(Words("", "")), ElementsAre("COMMAND is missing"));
  EXPECT_THAT(Problems(Words("open")),
              ElementsAre(HasSubstr("Missing the option mode"), HasSubstr("--volume is missing")));
  for (const char* command :
       {"checkpoint", "get-error", "clear-error", "stop", "remove", "scrub", "history", "clone"}) {
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
  for (const char* server :
       {"", "host", "host:", "host:0", "host:65536", ":7410", "unix:", "http://host:7410"}) {
    Arguments words = Words("list");
    words.server = server;
    EXPECT_THAT(Problems(words), SizeIs(1)) << server;
  }
}

TEST(ArgumentsTest, Watch) {
  Arguments words = Words("watch", "");
  words.terminal = true;
  const auto command = RequestOf<WatchCommand>(words);
  EXPECT_EQ(command.request.group(), "");
  EXPECT_EQ(command.request.refresh_micros(), 1'000'000u);
  EXPECT_EQ(command.request.resume_token(), "");
  EXPECT_TRUE(command.live);
  words.json = true;
  words.group = "vm1";
  words.refresh = "0";
  words.resume = "000102030405060708090a0b0c0d0e0F";
  const auto resumed = RequestOf<WatchCommand>(words);
  EXPECT_EQ(resumed.request.group(), "vm1");
  EXPECT_EQ(resumed.request.refresh_micros(), 0u);
  EXPECT_EQ(resumed.request.resume_token(),
            std::string("\0\1\2\3\4\5\6\7\x8\x9\xa\xb\xc\xd\xe\xf", 16));
  EXPECT_FALSE(resumed.live);
  words.refresh = "soon";
  words.resume = "0001";
  EXPECT_THAT(Problems(words), ElementsAre(HasSubstr("--resume"), HasSubstr("--refresh")));
  words.resume = std::string(32, 'x');
  EXPECT_THAT(Problems(words), Contains(HasSubstr("32 hexadecimal digits")));
}

TEST(ArgumentsTest, AttachTakesGroupAndVolumeOrNeither) {
  Arguments words = Words("attach", "vm1/vda");
  words.qmp = "/run/vm1.qmp";
  words.device = "disk0";
  words.terminal = true;
  const auto attach = RequestOf<AttachCommand>(words);
  EXPECT_EQ(attach.group, "vm1");
  EXPECT_EQ(attach.volume, "vda");
  EXPECT_TRUE(attach.wait);
  EXPECT_TRUE(attach.live);
  words.group = "";
  words.no_wait = true;
  EXPECT_EQ(RequestOf<AttachCommand>(words).volume, "");
  EXPECT_FALSE(RequestOf<AttachCommand>(words).wait);
  words.group = "vm1/";
  words.request_id_given = true;
  words.request_id = "x";
  EXPECT_THAT(Problems(words),
              ElementsAre("\"vm1/\" is not GROUP/VOLUME", HasSubstr("--request-id")));
  EXPECT_THAT(Problems(Words("attach")), ElementsAre(HasSubstr("--qmp"), HasSubstr("--device")));
  EXPECT_THAT(Problems(Words("detach")), ElementsAre(HasSubstr("--qmp")));
}

TEST(ArgumentsTest, OnlyACheckpointAtTheAgentPausesTheVm) {
  Arguments words = Words("checkpoint");
  words.qmp_given = true;
  words.qmp = "/run/vm1.qmp";
  EXPECT_EQ(std::get<Invocation>(Interpret(words)).qmp, "/run/vm1.qmp");
  words.abandon = true;
  EXPECT_THAT(Problems(words), ElementsAre(HasSubstr("--abandon")));
}

}  // namespace
}  // namespace understudy::ctl::arguments_test
