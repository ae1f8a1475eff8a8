#include "client/ctl/qmp.h"

#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/ctl/paused_vm.h"
#include "tests/client/ctl/fake_qmp.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/unix_socket.h"

namespace understudy::ctl::qmp_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(20);
constexpr absl::Duration kShort = absl::Milliseconds(100);

class QmpTest : public ::testing::Test {
 protected:
  std::unique_ptr<Qmp> Connect(absl::Duration timeout = kTimeout) {
    auto qmp = Qmp::Connect(path_, timeout);
    EXPECT_TRUE(qmp.ok()) << qmp.status();
    return qmp.ok() ? *std::move(qmp) : nullptr;
  }

  testing::TempDir directory_;
  const std::string path_ = directory_.File("qmp");
};

TEST_F(QmpTest, ReturnsWhatACommandReturns) {
  JsonObject seen;
  FakeQmp qemu(path_, [&](const std::string&, const JsonObject& arguments) {
    seen = arguments;
    return FakeQmp::Return(R"([{"device": "understudy-vda", "len": 67108864, "ready": true}])");
  });
  const auto answer = Connect()->Execute(
      "blockdev-add", QmpArguments()
                          .Text("node-name", "quote \" and \\")
                          .Number("reconnect-delay", 60)
                          .Flag("read-only", false)
                          .Object("server", QmpArguments().Text("type", "unix")));
  ASSERT_TRUE(answer.ok()) << answer.status();
  const JsonObject& job = answer->list_value().values(0).struct_value();
  EXPECT_EQ(TextOf(job, "device"), "understudy-vda");
  EXPECT_EQ(NumberOf(job, "len"), 67108864);
  EXPECT_TRUE(FlagOf(job, "ready"));
  EXPECT_EQ(TextOf(job, "missing"), "");
  EXPECT_EQ(TextOf(seen, "node-name"), "quote \" and \\");
  EXPECT_EQ(NumberOf(seen, "reconnect-delay"), 60);
  EXPECT_EQ(TextOf(ObjectOf(seen, "server"), "type"), "unix");
  EXPECT_THAT(qemu.commands(), ElementsAre("blockdev-add"));
}

TEST_F(QmpTest, ARefusalNamesSocketCommandClassAndDescription) {
  const FakeQmp qemu(path_, [](const std::string& command, const JsonObject&) {
    return command == "a"   ? FakeQmp::Refuse("GenericError", "no such node")
           : command == "b" ? FakeQmp::Refuse("CommandNotFound", "never heard of it")
                            : FakeQmp::Refuse("DeviceNotActive", "no job");
  });
  const auto qmp = Connect();
  const absl::Status refused = qmp->Execute("a").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_EQ(refused.message(), absl::StrCat("qmp ", path_, ": a: GenericError: no such node"));
  EXPECT_TRUE(absl::IsUnimplemented(qmp->Execute("b").status()));
  EXPECT_TRUE(absl::IsNotFound(qmp->Execute("c").status()));
}

TEST_F(QmpTest, EventsInBetweenAreKeptInOrder) {
  const FakeQmp qemu(path_, [](const std::string&, const JsonObject&) {
    return FakeQmp::Event("JOB_STATUS_CHANGE", R"({"id": "j"})") +
           FakeQmp::Event("BLOCK_JOB_READY", R"({"device": "j", "len": 5})") + FakeQmp::Return() +
           FakeQmp::Event("BLOCK_JOB_COMPLETED", R"({"device": "j", "error": "broken"})");
  });
  const auto qmp = Connect();
  ASSERT_TRUE(qmp->Execute("x").ok());
  EXPECT_EQ((*qmp->NextEvent(kTimeout))->name, "JOB_STATUS_CHANGE");
  const auto ready = *qmp->NextEvent(kTimeout);
  EXPECT_EQ(ready->name, "BLOCK_JOB_READY");
  EXPECT_EQ(NumberOf(*ready->data, "len"), 5);
  EXPECT_EQ(TextOf(*(*qmp->NextEvent(kTimeout))->data, "error"), "broken");
  EXPECT_EQ(*qmp->NextEvent(kShort), std::nullopt);
}

TEST_F(QmpTest, NobodyThereIsUnavailableWithTheRemedy) {
  const absl::Status missing = Qmp::Connect(path_, kTimeout).status();
  EXPECT_TRUE(absl::IsUnavailable(missing));
  EXPECT_THAT(missing.message(),
              AllOf(HasSubstr(path_), HasSubstr("remedy: start QEMU with -qmp")));
  EXPECT_TRUE(absl::IsInvalidArgument(Qmp::Connect(std::string(200, 'x'), kTimeout).status()));
}

TEST_F(QmpTest, OneWhoDoesNotGreetMayBeBusyWithAnother) {
  const testing::UnixListener silent(path_);
  const absl::Status busy = Qmp::Connect(path_, kShort).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(busy));
  EXPECT_THAT(busy.message(), HasSubstr("another client, such as libvirt"));
}

TEST_F(QmpTest, ACommandWithoutAnAnswerEndsAtItsDeadline) {
  const FakeQmp qemu(path_, [](const std::string&, const JsonObject&) { return ""; });
  const absl::Status late = Connect(kShort)->Execute("stop").status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(late));
  EXPECT_THAT(late.message(), HasSubstr("stop: no answer for 100ms"));
}

TEST_F(QmpTest, WhatIsNotQmpIsRefused) {
  const FakeQmp http(
      path_, [](const std::string&, const JsonObject&) { return ""; }, "HTTP/1.1 400\r\n");
  EXPECT_TRUE(absl::IsDataLoss(Qmp::Connect(path_, kTimeout).status()));
}

TEST_F(QmpTest, JsonThatIsNotAGreetingIsRefused) {
  const FakeQmp other(
      path_, [](const std::string&, const JsonObject&) { return ""; }, "{\"hello\": 1}\n");
  EXPECT_THAT(Qmp::Connect(path_, kTimeout).status().message(), HasSubstr("greeting"));
}

// ---- a VM that is paused ---------------------------------------------------------------------------------------------------

std::string RunningVm(const std::string& command, const JsonObject&) {
  return command == "query-status" ? FakeQmp::Return(R"({"status": "running", "running": true})")
                                   : FakeQmp::Return();
}

TEST_F(QmpTest, APausedVmGoesOnWhenItIsForgotten) {
  FakeQmp qemu(path_, RunningVm);
  ASSERT_TRUE(PausedVm::Pause(path_, kTimeout).ok());
  EXPECT_THAT(qemu.commands(), ElementsAre("query-status", "stop", "cont"));
}

TEST_F(QmpTest, AVmIsResumedOnce) {
  FakeQmp qemu(path_, RunningVm);
  {
    const auto vm = *PausedVm::Pause(path_, kTimeout);
    EXPECT_EQ(vm->Resume(), absl::OkStatus());
    EXPECT_EQ(vm->Resume(), absl::OkStatus());
  }
  EXPECT_THAT(qemu.commands(), ElementsAre("query-status", "stop", "cont"));
}

TEST_F(QmpTest, AVmThatStandsStillIsLeftAlone) {
  FakeQmp qemu(path_, [](const std::string&, const JsonObject&) {
    return FakeQmp::Return(R"({"status": "paused", "running": false})");
  });
  ASSERT_EQ((*PausedVm::Pause(path_, kTimeout))->Resume(), absl::OkStatus());
  EXPECT_THAT(qemu.commands(), ElementsAre("query-status"));
}

TEST_F(QmpTest, AVmWhoseStopWasRefusedIsToldToGoOn) {
  FakeQmp qemu(path_, [](const std::string& command, const JsonObject& arguments) {
    return command == "stop" ? FakeQmp::Refuse("GenericError", "no")
                             : RunningVm(command, arguments);
  });
  EXPECT_FALSE(PausedVm::Pause(path_, kTimeout).ok());
  EXPECT_THAT(qemu.commands(), ElementsAre("query-status", "stop", "cont"));
}

TEST_F(QmpTest, AVmThatCannotGoOnIsShoutedAbout) {
  const FakeQmp qemu(path_, [](const std::string& command, const JsonObject& arguments) {
    return command == "cont" ? FakeQmp::Refuse("GenericError", "no")
                             : RunningVm(command, arguments);
  });
  EXPECT_THAT((*PausedVm::Pause(path_, kTimeout))->Resume().message(),
              HasSubstr("THE VM MAY STAND STILL"));
}

}  // namespace
}  // namespace understudy::ctl::qmp_test
