#include "client/agent/agent_options.h"

#include <filesystem>
#include <fstream>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace understudy::client::agent_options_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

AgentOptions Complete() {
  AgentOptions options;
  EXPECT_TRUE(options.Set("server", "standby:7410").ok());
  EXPECT_TRUE(options.Set("nbd-socket", "/run/agent.nbd").ok());
  EXPECT_TRUE(options.Set("group", "vm1").ok());
  EXPECT_TRUE(options.Set("volume", "vda,size=1M").ok());
  return options;
}

TEST(AgentOptionsTest, BytesHaveBinaryUnits) {
  EXPECT_EQ(*ParseBytes("0"), 0u);
  EXPECT_EQ(*ParseBytes("1048576"), 1048576u);
  EXPECT_EQ(*ParseBytes("64M"), 64u << 20);
  EXPECT_EQ(*ParseBytes("10g"), 10ull << 30);
  for (const char* text : {"", "M", "-1", "+1", " 1", "1 M", "1.5G", "64MB", "99999999999999999999",
                           "18014398509481984K"}) {
    EXPECT_EQ(ParseBytes(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(AgentOptionsTest, AVolumeHasADiskOrASize) {
  const auto tee = ParseVolume("vda,disk=/dev/sda");
  ASSERT_TRUE(tee.ok());
  EXPECT_EQ(tee->name, "vda");
  EXPECT_EQ(tee->disk_path, "/dev/sda");
  EXPECT_EQ(tee->size_bytes, 0u);
  const auto forward = ParseVolume("vdb,size=1G");
  ASSERT_TRUE(forward.ok());
  EXPECT_EQ(forward->disk_path, "");
  EXPECT_EQ(forward->size_bytes, 1u << 30);
  for (const char* text : {"", "vda", "VDA,size=1M", "vda,size=513", "vda,size=x",
                           "vda,disk=", "vda,mode=tee,size=1M"}) {
    EXPECT_EQ(ParseVolume(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

// It used to be tried for ever.
TEST(AgentOptionsTest, AServerIsNoUrl) {
  for (const char* server : {"http://standby:7410", "standby", "standby:0", "unix:"}) {
    AgentOptions options = Complete();
    EXPECT_TRUE(options.Set("server", server).ok());
    EXPECT_THAT(std::string(options.Validate().message()),
                HasSubstr("is not host:port or unix:/path"))
        << server;
  }
}

TEST(AgentOptionsTest, AWrongValueIsNamedWithWhatIsExpected) {
  const std::map<std::string, std::pair<std::string, std::string>> wrong = {
      {"ack", {"maybe", "one of durable, forwarded, received"}},
      {"on-full", {"explode", "one of block, degrade"}},
      {"on-fenced", {"ignore", "one of continue, stop"}},
      {"window-bytes", {"1M", "at least 2097152"}},
      {"stall-timeout", {"0s", "a positive duration"}},
      {"checkpoint-interval", {"5", "a positive duration"}},
      {"start", {"yes", "true or false"}},
      {"report-forward-errors", {"", "true or false"}},
      {"server", {"", "given"}},
  };
  for (const auto& [key, value] : wrong) {
    AgentOptions options;
    const absl::Status status = options.Set(key, value.first);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("--" + key), HasSubstr("\"" + value.first + "\""),
                      HasSubstr(value.second)));
  }
  EXPECT_EQ(AgentOptions().Set("windows-bytes", "64M").code(), absl::StatusCode::kNotFound);
}

TEST(AgentOptionsTest, WhatIsNoUtf8IsRefusedWhicheverFlagItIs) {
  for (const char* key : {"server", "group", "nbd-socket", "state-dir", "failback-map"}) {
    const absl::Status status = AgentOptions().Set(key, "/srv/\xfc");
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(std::string("--") + key + ": \"/srv/\\xfc\" is not UTF-8"));
  }
  EXPECT_THAT(std::string(AgentOptions().Set("volume", "vda,disk=/srv/\xfc").message()),
              HasSubstr("is not UTF-8"));
}

TEST(AgentOptionsTest, EveryProblemIsListedAtOnce) {
  AgentOptions options;
  EXPECT_EQ(std::string(options.Validate().message()),
            "--server is required: the address of understudyd\n--nbd-socket is required\n"
            "--group is required\n--volume is required, once per volume");
  options = Complete();
  ASSERT_TRUE(options.Validate().ok());
  ASSERT_TRUE(options.Set("volume", "vda,disk=/no/such/disk").ok());
  const absl::Status status = options.Validate();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("vda is given twice"), HasSubstr("--state-dir is required")));
}

TEST(AgentOptionsTest, TheStateLiesBesideTheFirstDiskThatIsAFile) {
  const testing::TempDir directory;
  const std::string disk = directory.File("vda.raw");
  std::ofstream(disk) << "x";
  AgentOptions options = Complete();
  ASSERT_TRUE(options.Validate().ok());
  EXPECT_EQ(options.state_dir, "");  // forward mode keeps none
  ASSERT_TRUE(options.Set("volume", "vdb,disk=" + disk).ok());
  ASSERT_TRUE(options.Validate().ok());
  EXPECT_EQ(options.state_dir, disk + ".state");
  ASSERT_TRUE(options.Set("state-dir", directory.File("mine")).ok());
  ASSERT_TRUE(options.Validate().ok());
  EXPECT_EQ(options.state_dir, directory.File("mine"));
}

TEST(AgentOptionsTest, EachKeySetsWhatItNamesAndPathsBecomeAbsolute) {
  AgentOptions options = Complete();
  for (const auto& [key, value] :
       std::map<std::string, std::string>{{"listen", "unix:agent.sock"},
                                          {"metrics-listen", "0.0.0.0:1"},
                                          {"state-dir", "state"},
                                          {"nbd-socket-mode", "606"},
                                          {"nbd-socket-group", "0"},
                                          {"ack", "durable"},
                                          {"on-full", "block"},
                                          {"on-fenced", "continue"},
                                          {"window-bytes", "3M"},
                                          {"stall-timeout", "1500ms"},
                                          {"checkpoint-interval", "250ms"},
                                          {"start", "1"},
                                          {"report-forward-errors", "true"},
                                          {"volume", "vdb,disk=disks/b,,1.raw,size=2M"}}) {
    ASSERT_TRUE(options.Set(key, value).ok()) << key;
  }
  const std::string here = std::filesystem::current_path().string();
  EXPECT_EQ(options.server, "standby:7410");
  EXPECT_EQ(options.nbd_socket, "/run/agent.nbd");
  EXPECT_EQ(options.listen, "unix:agent.sock");
  EXPECT_EQ(options.metrics_listen, "0.0.0.0:1");
  EXPECT_EQ(options.state_dir, here + "/state");
  EXPECT_EQ(options.nbd_access.mode, "606");
  EXPECT_EQ(options.nbd_access.group, "0");
  EXPECT_EQ(options.primary.forwarder.group, "vm1");
  EXPECT_EQ(options.primary.forwarder.ack, AckMode::kDurable);
  EXPECT_EQ(options.primary.forwarder.on_full, OnFull::kBlock);
  EXPECT_FALSE(options.primary.stop_when_fenced);
  EXPECT_EQ(options.primary.forwarder.window_bytes, 3u << 20);
  EXPECT_EQ(options.primary.forwarder.stall_timeout, absl::Milliseconds(1500));
  EXPECT_EQ(options.checkpoint_interval, absl::Milliseconds(250));
  EXPECT_TRUE(options.primary.forwarder.may_checkpoint);
  EXPECT_FALSE(AgentOptions().primary.forwarder.may_checkpoint);
  EXPECT_TRUE(options.start);
  EXPECT_TRUE(options.primary.report_forward_errors);
  ASSERT_EQ(options.primary.volumes.size(), 2u);
  EXPECT_EQ(options.primary.volumes[0].size_bytes, 1u << 20);
  EXPECT_EQ(options.primary.volumes[1].disk_path, here + "/disks/b,1.raw");
  EXPECT_EQ(options.primary.volumes[1].size_bytes, 2u << 20);
}

}  // namespace
}  // namespace understudy::client::agent_options_test
