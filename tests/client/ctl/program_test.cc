// understudyctl as scripts see it: the real program, a service of the test's own, exit statuses and both outputs.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <sys/wait.h>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/grpc_host.h"
#include "proto/status_codec.h"
#include "storage/base/reason.h"
#include "tests/testing/temp_dir.h"
#include "understudy/v1/replication.grpc.pb.h"

namespace understudy::ctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// Remembers the last request of each kind; every call ends with `status`.
class FakeService : public v1::Replication::Service {
 public:
  grpc::Status Open(grpc::ServerContext*, const v1::OpenRequest* request,
                    v1::OpenResponse* response) override {
    open = *request;
    response->set_stage(v1::STAGE_NONE);
    return Answer();
  }
  grpc::Status Start(grpc::ServerContext*, const v1::StartRequest* request,
                     v1::StartResponse* response) override {
    start = *request;
    response->set_stage(v1::STAGE_RUNNING);
    response->set_incarnation("\x0a\x0b");
    response->set_term(2);
    return Answer();
  }
  grpc::Status Checkpoint(grpc::ServerContext*, const v1::CheckpointRequest* request,
                          v1::CheckpointResponse* response) override {
    checkpoint = *request;
    response->set_stage(v1::STAGE_RUNNING);
    response->set_epoch(12);
    return Answer();
  }
  grpc::Status GetError(grpc::ServerContext*, const v1::GetErrorRequest*,
                        v1::GetErrorResponse* response) override {
    response->set_stage(v1::STAGE_RUNNING);
    *response->mutable_errors() = errors.errors();
    return Answer();
  }
  grpc::Status Stop(grpc::ServerContext*, const v1::StopRequest* request,
                    v1::StopResponse* response) override {
    stop = *request;
    response->set_stage(v1::STAGE_FAILOVER);
    return Answer();
  }
  grpc::Status GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest* request,
                         v1::GetStatusResponse* response) override {
    get_status = *request;
    for (const char* name : {"stop", "vm1"}) response->add_groups()->set_group(name);
    while (hang && !context->IsCancelled())
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return Answer();
  }
  grpc::Status Remove(grpc::ServerContext*, const v1::RemoveRequest* request,
                      v1::RemoveResponse*) override {
    remove = *request;
    return Answer();
  }

  absl::Status status;
  bool hang = false;
  v1::GetErrorResponse errors;
  v1::OpenRequest open;
  v1::StartRequest start;
  v1::CheckpointRequest checkpoint;
  v1::StopRequest stop;
  v1::GetStatusRequest get_status;
  v1::RemoveRequest remove;

 private:
  grpc::Status Answer() { return proto::ToGrpcStatus(status); }
};

struct Outcome {
  int exit_status = -1;
  std::string out;
  std::string error;
};

class ProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto host = proto::GrpcHost::Start("127.0.0.1:0", {&service_});
    ASSERT_TRUE(host.ok()) << host.status();
    host_ = *std::move(host);
  }

  Outcome RunAt(const std::string& server, const std::string& words) {
    const std::string command = "UNDERSTUDY_SERVER='" + server + "' " UNDERSTUDYCTL " " + words +
                                " > " + dir_.File("out") + " 2> " + dir_.File("error") +
                                " < /dev/null";
    const int raw = std::system(command.c_str());
    return {WIFEXITED(raw) ? WEXITSTATUS(raw) : -1, Read("out"), Read("error")};
  }
  Outcome Run(const std::string& words) { return RunAt(host_->address(), words); }
  std::string Read(const std::string& name) {
    std::ifstream file(dir_.File(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }

  testing::TempDir dir_;
  FakeService service_;
  std::unique_ptr<proto::GrpcHost> host_;
};

TEST_F(ProgramTest, ADoneCallEndsWithZeroAndSaysNothingOnStandardError) {
  const Outcome outcome =
      Run("start vm1 --mode secondary --volume root,disk=/d,size=1G --volume data,disk=/e");
  EXPECT_EQ(outcome.exit_status, 0);
  EXPECT_EQ(outcome.out, "vm1: RUNNING, term 2, incarnation 0a0b\n");
  EXPECT_EQ(outcome.error, "");
  EXPECT_EQ(service_.start.mode(), v1::MODE_SECONDARY);
  ASSERT_EQ(service_.start.volumes_size(), 2);
  EXPECT_EQ(service_.start.volumes(0).size_bytes(), 1ull << 30);
  EXPECT_EQ(service_.start.volumes(1).top_id(), "vm1/data");
}

TEST_F(ProgramTest, EveryCommandReachesItsCall) {
  EXPECT_EQ(Run("open vm1 --mode secondary --volume root,disk=/d").exit_status, 0);
  EXPECT_EQ(service_.open.volumes(0).disk_path(), "/d");
  EXPECT_EQ(Run("start vm1 --mode primary --takeover").exit_status, 0);
  EXPECT_TRUE(service_.start.takeover());
  EXPECT_EQ(Run("checkpoint vm1 --commit 9").exit_status, 0);
  EXPECT_EQ(service_.checkpoint.mode(), v1::CHECKPOINT_MODE_COMMIT);
  EXPECT_EQ(service_.checkpoint.epoch(), 9u);
  EXPECT_EQ(Run("stop vm1 --failover --epoch 7").exit_status, 0);
  EXPECT_TRUE(service_.stop.failover());
  EXPECT_EQ(service_.stop.epoch(), 7u);
  EXPECT_EQ(Run("stop vm1 --failover --received").exit_status, 0);
  EXPECT_TRUE(service_.stop.received());
  EXPECT_EQ(Run("remove vm1 --force").exit_status, 0);
  EXPECT_TRUE(service_.remove.force());
  EXPECT_EQ(Run("get-error vm1").out, "vm1: healthy, stage RUNNING\n");
}

TEST_F(ProgramTest, AGroupMayHaveTheNameOfACommand) {
  EXPECT_EQ(Run("status stop").exit_status, 0);
  EXPECT_EQ(service_.get_status.group(), "stop");
}

TEST_F(ProgramTest, GlobalFlagsWorkOnEitherSideOfTheCommand) {
  EXPECT_THAT(RunAt("127.0.0.1:1", "--server " + host_->address() + " --json checkpoint vm1").out,
              StartsWith("{"));
  EXPECT_THAT(RunAt("127.0.0.1:1", "checkpoint vm1 --json --server " + host_->address()).out,
              StartsWith("{"));
}

TEST_F(ProgramTest, JsonIsOneObjectPerLine) {
  EXPECT_EQ(
      Run("--json checkpoint vm1").out,
      R"({"stage": "RUNNING", "ignored": false, "epoch": 12, "sequence": 0, "bytes": 0, "duration_micros": 0})"
      "\n");
  for (const char* words : {"--json status", "--json list"}) {
    const std::string out = Run(words).out;
    EXPECT_THAT(
        out,
        StartsWith("{\"group\": \"stop\", \"mode\": \"UNSPECIFIED\", \"stage\": \"UNSPECIFIED\""));
    EXPECT_THAT(out, HasSubstr("\n{\"group\": \"vm1\", "));
    EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 2);
  }
}

TEST_F(ProgramTest, ALatchedErrorEndsWithThreeAndIsPrinted) {
  v1::ReplicationError& error = *service_.errors.add_errors();
  error.set_code("DATA_LOSS");
  error.set_message("checksum mismatch");
  for (const char* words : {"get-error vm1", "--json get-error vm1"}) {
    const Outcome outcome = Run(words);
    EXPECT_EQ(outcome.exit_status, 3) << words;
    EXPECT_THAT(outcome.out, AllOf(HasSubstr("DATA_LOSS"), HasSubstr("checksum mismatch")));
  }
}

TEST_F(ProgramTest, ARefusedCallEndsWithOneAndShowsCodeMessageAndReason) {
  service_.status = WithReason(absl::FailedPreconditionError("term 3 is over"), kReasonFenced);
  for (const char* flags : {"", "--json "}) {
    const Outcome outcome = Run(std::string(flags) + "checkpoint vm1");
    EXPECT_EQ(outcome.exit_status, 1);
    EXPECT_EQ(outcome.out, "");
    EXPECT_THAT(outcome.error, StartsWith("error: FAILED_PRECONDITION: term 3 is over (FENCED)\n"));
    EXPECT_THAT(outcome.error, HasSubstr("hint: "));
  }
  service_.status = absl::NotFoundError("no such group");
  EXPECT_EQ(Run("get-error vm1").exit_status, 1);
  EXPECT_EQ(Run("status vm1").error, "error: NOT_FOUND: no such group\n");
  service_.status = absl::UnavailableError("the standby cannot be reached");
  EXPECT_EQ(Run("checkpoint vm1").error, "error: UNAVAILABLE: the standby cannot be reached\n");
}

TEST_F(ProgramTest, ADaemonThatIsNotThereIsNamed) {
  const auto before = std::chrono::steady_clock::now();
  const Outcome outcome = RunAt("unix:" + dir_.File("none"), "status");
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.error,
              StartsWith("error: UNAVAILABLE: cannot reach unix:" + dir_.File("none")));
  EXPECT_THAT(outcome.error, HasSubstr("--server"));
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(8));
}

TEST_F(ProgramTest, ACallThatHangsEndsAtItsTimeout) {
  service_.hang = true;
  const Outcome outcome = Run("--timeout 200ms status");
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.error, StartsWith("error: DEADLINE_EXCEEDED: "));
}

TEST_F(ProgramTest, WrongUsageEndsWithTwoAndListsEverything) {
  const Outcome outcome =
      Run("--bogus start vm1 --mode tertiary --volume root --timeout soon --server here");
  EXPECT_EQ(outcome.exit_status, 2);
  EXPECT_EQ(outcome.out, "");
  for (const char* part : {"--bogus", "tertiary", "--volume root", "\"soon\"", "\"here\""}) {
    EXPECT_THAT(outcome.error, HasSubstr(part));
  }
  for (const char* words : {"", "frob", "start", "stop vm1 --received", "list vm1", "open vm1",
                            "checkpoint vm1 --commit", "status --server"}) {
    EXPECT_EQ(Run(words).exit_status, 2) << words;
  }
}

TEST_F(ProgramTest, AnswersThatCannotBeWrittenAreAFailure) {
  const int raw = std::system(("UNDERSTUDY_SERVER=" + host_->address() +
                               " " UNDERSTUDYCTL " list > /dev/full 2> " + dir_.File("error"))
                                  .c_str());
  EXPECT_EQ(WEXITSTATUS(raw), 1);
}

TEST_F(ProgramTest, HelpShowsTheCommandsAndTheExitStatuses) {
  const Outcome outcome = Run("--help");
  EXPECT_EQ(outcome.exit_status, 0);
  for (const char* part :
       {"open", "start", "checkpoint", "get-error", "stop", "remove", "status", "list", "--server",
        "--json", "--timeout", "Exit status", "127.0.0.1:7410"}) {
    EXPECT_THAT(outcome.out, HasSubstr(part));
  }
  EXPECT_THAT(Run("stop --help").out, AllOf(HasSubstr("--received"), Not(HasSubstr("--takeover"))));
}

}  // namespace
}  // namespace understudy::ctl
