// understudyctl as scripts see it: the real program, a service of the test's own, exit statuses and both outputs.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <memory>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/grpc_host.h"
#include "proto/status_codec.h"
#include "storage/base/reason.h"
#include "tests/testing/temp_dir.h"
#include "understudy/v1/replication.grpc.pb.h"

namespace understudy::ctl::program_test {
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
    checkpoint_ids.push_back(request->request_id());
    if (unavailable-- > 0) return {grpc::StatusCode::UNAVAILABLE, "lost on the way"};
    response->set_stage(v1::STAGE_RUNNING);
    response->set_epoch(12);
    return Answer();
  }
  grpc::Status GetError(grpc::ServerContext*, const v1::GetErrorRequest*,
                        v1::GetErrorResponse* response) override {
    response->set_stage(v1::STAGE_RUNNING);
    *response->mutable_errors() = errors.errors();
    response->set_disconnected_seconds(errors.disconnected_seconds());
    response->set_handed_over(errors.handed_over());
    return Answer();
  }
  grpc::Status ClearError(grpc::ServerContext*, const v1::ClearErrorRequest* request,
                          v1::ClearErrorResponse* response) override {
    clear_error = *request;
    response->set_ignored(true);
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
    for (const char* name : {"stop", "vm1"}) {
      response->add_groups()->set_group(name);
      *response->mutable_groups()->rbegin()->mutable_scrub() = scrub_status;
    }
    if (scrub_status.outcome() == v1::SCRUB_OUTCOME_RUNNING) scrub_status = scrub_end;
    while (hang && !context->IsCancelled())
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return Answer();
  }
  grpc::Status Scrub(grpc::ServerContext*, const v1::ScrubRequest* request,
                     v1::ScrubResponse* response) override {
    scrub = *request;
    response->set_number(scrub_status.number());
    return Answer();
  }
  grpc::Status Remove(grpc::ServerContext*, const v1::RemoveRequest* request,
                      v1::RemoveResponse*) override {
    remove = *request;
    return Answer();
  }
  grpc::Status GetFailbackMap(grpc::ServerContext*, const v1::GetFailbackMapRequest* request,
                              v1::GetFailbackMapResponse* response) override {
    response->mutable_map()->set_group(request->group());
    response->set_mark(7);
    return grpc::Status::OK;
  }

  grpc::Status History(grpc::ServerContext*, const v1::HistoryRequest* request,
                       v1::HistoryResponse* response) override {
    history = *request;
    response->add_epochs()->set_epoch(5);
    return Answer();
  }
  grpc::Status Clone(grpc::ServerContext*, const v1::CloneRequest* request,
                     v1::CloneResponse* response) override {
    clone = *request;
    response->mutable_clone()->set_name(request->name());
    return Answer();
  }
  grpc::Status ListClones(grpc::ServerContext*, const v1::ListClonesRequest* request,
                          v1::ListClonesResponse*) override {
    list_clones = *request;
    return Answer();
  }
  grpc::Status RemoveClone(grpc::ServerContext*, const v1::RemoveCloneRequest* request,
                           v1::RemoveCloneResponse*) override {
    remove_clone = *request;
    return Answer();
  }

  // Each call plays the next of `watch_streams` and then ends with NOT_FOUND if it was the last, else with UNAVAILABLE.
  grpc::Status Watch(grpc::ServerContext*, const v1::WatchRequest* request,
                     grpc::ServerWriter<v1::WatchEvent>* writer) override {
    watches.push_back(*request);
    if (watch_streams.empty()) return grpc::Status(grpc::StatusCode::NOT_FOUND, "no such group");
    for (const v1::WatchEvent& event : watch_streams.front()) writer->Write(event);
    std::this_thread::sleep_for(watch_silence);
    watch_streams.pop_front();
    if (watch_streams.empty()) return grpc::Status(grpc::StatusCode::NOT_FOUND, "it has gone");
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "shutting down");
  }

  absl::Status status;
  int unavailable = 0;  // so many checkpoints end in it
  std::vector<std::string> checkpoint_ids;
  bool hang = false;
  std::deque<std::vector<v1::WatchEvent>> watch_streams;
  std::vector<v1::WatchRequest> watches;
  std::chrono::milliseconds watch_silence{0};  // before a stream ends
  v1::GetErrorResponse errors;
  v1::ClearErrorRequest clear_error;
  v1::OpenRequest open;
  v1::StartRequest start;
  v1::CheckpointRequest checkpoint;
  v1::StopRequest stop;
  v1::GetStatusRequest get_status;
  v1::RemoveRequest remove;
  v1::ScrubRequest scrub;
  v1::ScrubStatus scrub_status;
  v1::ScrubStatus scrub_end;  // after the first look at a running one
  v1::HistoryRequest history;
  v1::CloneRequest clone;
  v1::ListClonesRequest list_clones;
  v1::RemoveCloneRequest remove_clone;

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

TEST_F(ProgramTest, EveryCallHasARequestIdOfItsOwnUnlessItIsGivenOne) {
  ASSERT_EQ(Run("checkpoint vm1").exit_status, 0);
  const std::string first = service_.checkpoint.request_id();
  EXPECT_THAT(first, StartsWith("ctl-"));
  ASSERT_EQ(Run("checkpoint vm1").exit_status, 0);
  EXPECT_NE(service_.checkpoint.request_id(), first);
  ASSERT_EQ(Run("--request-id nightly-7 stop vm1").exit_status, 0);
  EXPECT_EQ(service_.stop.request_id(), "nightly-7");
  ASSERT_EQ(Run("remove vm1 --request-id r").exit_status, 0);
  EXPECT_EQ(service_.remove.request_id(), "r");
  EXPECT_EQ(Run("--request-id '' stop vm1").exit_status, 2);
}

// Else the file could be taken for the last word after a remove without it.
TEST_F(ProgramTest, AFailbackMapOfAGroupThatIsNotRemovedIsNotLeftBehind) {
  const std::string words = "remove vm1 --failback-map " + dir_.File("b.map");
  EXPECT_EQ(Run(words).exit_status, 0);
  EXPECT_EQ(service_.remove.failback_mark(), 7u);
  EXPECT_NE(Read("b.map"), "");
  service_.status = absl::AbortedError("its VM has written");
  EXPECT_NE(Run(words).exit_status, 0);
  EXPECT_EQ(Read("b.map"), "");
  // It may have been removed all the same.
  service_.status = absl::UnavailableError("lost on the way");
  EXPECT_NE(Run("--timeout 1s " + words).exit_status, 0);
  EXPECT_NE(Read("b.map"), "");
}

// Nobody is there for the first two tries.
TEST_F(ProgramTest, ACallThatEndsUnavailableIsMadeAgainUnderTheSameId) {
  service_.unavailable = 2;
  const Outcome outcome = Run("checkpoint vm1");
  EXPECT_EQ(outcome.exit_status, 0) << outcome.error;
  ASSERT_EQ(service_.checkpoint_ids.size(), 3u);
  EXPECT_EQ(service_.checkpoint_ids[0], service_.checkpoint_ids[2]);
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
  EXPECT_EQ(Run("stop vm1 --failover --epoch 7 --force").exit_status, 0);
  EXPECT_TRUE(service_.stop.force());
  EXPECT_THAT(Run("history vm1").out, HasSubstr("clone vm1 --epoch 5"));
  EXPECT_EQ(service_.history.group(), "vm1");
  EXPECT_THAT(Run("--json history vm1").out, StartsWith("{\"stage\": "));
  EXPECT_EQ(Run("clone vm1 --epoch 5 --name drill --bytes-max 1M --ttl 30m").exit_status, 0);
  EXPECT_EQ(service_.clone.epoch(), 5u);
  EXPECT_EQ(service_.clone.name(), "drill");
  EXPECT_EQ(service_.clone.bytes_max(), 1u << 20);
  EXPECT_EQ(service_.clone.time_to_live_micros(), 1'800'000'000u);
  EXPECT_EQ(Run("clone vm1 --list").out, "vm1: no clones\n");
  EXPECT_EQ(service_.list_clones.group(), "vm1");
  EXPECT_EQ(Run("clone vm1 --remove drill").out, "vm1@drill: removed without trace\n");
  EXPECT_EQ(service_.remove_clone.name(), "drill");
  EXPECT_EQ(Run("get-error vm1").out, "vm1: healthy, stage RUNNING\n");
  EXPECT_EQ(Run("clear-error vm1 --expected-term 3").out,
            "vm1: no error was latched; nothing changed\n");
  EXPECT_EQ(service_.clear_error.expected().term(), 3u);
  EXPECT_THAT(service_.clear_error.request_id(), StartsWith("ctl-"));
}

TEST_F(ProgramTest, AScrubIsFollowedToItsEndAndDamageEndsWithThree) {
  service_.scrub_status.set_outcome(v1::SCRUB_OUTCOME_RUNNING);
  service_.scrub_status.set_number(4);
  service_.scrub_end = service_.scrub_status;
  service_.scrub_end.set_outcome(v1::SCRUB_OUTCOME_CLEAN);
  service_.scrub_end.set_bytes(1 << 20);
  service_.scrub_end.set_extents(3);
  const v1::ScrubStatus running = service_.scrub_status;
  const Outcome begun = Run("scrub vm1 --bytes-per-second 8M");
  EXPECT_EQ(begun.exit_status, 0);
  EXPECT_EQ(service_.scrub.bytes_per_second(), 8u << 20);
  EXPECT_THAT(begun.out, StartsWith("vm1: scrub 4 RUNNING"));

  service_.scrub_status = running;
  const Outcome clean = Run("scrub vm1 --wait");
  EXPECT_EQ(clean.exit_status, 0) << clean.error;
  EXPECT_EQ(clean.out, "vm1: scrub 4 CLEAN, 1 MiB in 3 extents, 0 damages\n");
  EXPECT_THAT(clean.error, StartsWith("vm1: scrub 4 RUNNING"));

  service_.scrub_end.set_outcome(v1::SCRUB_OUTCOME_DAMAGED);
  service_.scrub_end.set_damages(2);
  service_.scrub_status = running;
  const Outcome damaged = Run("scrub vm1 --wait --json");
  EXPECT_EQ(damaged.exit_status, 3);
  EXPECT_THAT(damaged.out, HasSubstr("\"outcome\": \"DAMAGED\""));

  service_.scrub_end.set_outcome(v1::SCRUB_OUTCOME_STOPPED);
  service_.scrub_status = running;
  EXPECT_EQ(Run("scrub vm1 --wait").exit_status, 1);
  EXPECT_EQ(Run("scrub vm1 --bytes-per-second fast").exit_status, 2);
}

v1::WatchEvent EventOf(v1::WatchKind kind, const std::string& token) {
  v1::WatchEvent event;
  event.set_kind(kind);
  event.set_group("vm1");
  event.set_resume_token(token);
  return event;
}

TEST_F(ProgramTest, AWatchGoesOnWithItsTokenWhenTheDaemonWentAway) {
  const std::string first(16, 'a'), second(16, 'b');
  service_.watch_streams = {{EventOf(v1::WATCH_KIND_CURRENT, first)},
                            {EventOf(v1::WATCH_KIND_REMOVED, second)},
                            {},
                            {EventOf(v1::WATCH_KIND_OPENED, "")}};
  const Outcome outcome = Run("watch vm1 --refresh 250ms");
  EXPECT_EQ(outcome.exit_status, 1);
  ASSERT_EQ(service_.watches.size(), 4u);
  EXPECT_EQ(service_.watches[0].group(), "vm1");
  EXPECT_EQ(service_.watches[0].refresh_micros(), 250'000u);
  EXPECT_EQ(service_.watches[0].resume_token(), "");
  EXPECT_EQ(service_.watches[1].resume_token(), first);
  EXPECT_EQ(service_.watches[2].resume_token(), second);
  EXPECT_EQ(service_.watches[3].resume_token(), second);
  EXPECT_EQ(outcome.out,
            "1970-01-01T00:00:00.000Z REMOVED      vm1: removed\n"
            "1970-01-01T00:00:00.000Z OPENED       vm1: opened\n");
  EXPECT_EQ(outcome.error,
            "connection lost, trying again: UNAVAILABLE: shutting down\n"
            "connection lost, trying again: UNAVAILABLE: shutting down\n"
            "error: NOT_FOUND: it has gone\n")
      << "once per outage";
}

// --timeout is for the time without a daemon, not for the time without news.
TEST_F(ProgramTest, AWatchThatHadNothingToTellForLongIsMadeAgain) {
  service_.watch_silence = std::chrono::milliseconds(300);
  service_.watch_streams = {{EventOf(v1::WATCH_KIND_CURRENT, "0123456789abcdef")},
                            {EventOf(v1::WATCH_KIND_OPENED, "")}};
  const Outcome outcome = Run("--timeout 100ms watch vm1 --refresh 0");
  EXPECT_EQ(service_.watches.size(), 2u);
  EXPECT_THAT(outcome.error, HasSubstr("connection lost, trying again"));
  EXPECT_THAT(outcome.error, HasSubstr("it has gone"));
}

TEST_F(ProgramTest, AWatchPrintsMessagesAsJsonAndGivesUpWhenNobodyIsThere) {
  service_.watch_streams = {{EventOf(v1::WATCH_KIND_CURRENT, "0123456789abcdef")}};
  EXPECT_THAT(Run("--json watch --resume 30313233343536373839616263646566").out,
              StartsWith("{\"kind\": \"CURRENT\", \"resume_token\": "
                         "\"30313233343536373839616263646566\", \"number\": 0, "));
  EXPECT_EQ(service_.watches[0].resume_token(), "0123456789abcdef");
  const Outcome outcome = RunAt("unix:" + dir_.File("none"), "watch --timeout 600ms");
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.error, AllOf(HasSubstr("error: UNAVAILABLE: cannot reach unix:"),
                                   HasSubstr("hint: is a daemon running there?")));
  EXPECT_EQ(Run("watch vm1 --resume zz --refresh 0").exit_status, 2);
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

TEST_F(ProgramTest, WithoutTheOtherEndForAMinuteGetErrorEndsWithThree) {
  for (const auto& [seconds, status] : {std::pair(59.0, 0), std::pair(61.0, 3)}) {
    service_.errors.set_disconnected_seconds(seconds);
    const Outcome outcome = Run("get-error vm1");
    EXPECT_EQ(outcome.exit_status, status);
    EXPECT_THAT(outcome.out, StartsWith("vm1: no errors, stage RUNNING, but the other end is not "
                                        "there: not connected for "));
    EXPECT_THAT(Run("--json get-error vm1").out, HasSubstr("\"disconnected_seconds\": "));
  }
}

TEST_F(ProgramTest, GetErrorOfWhoHasHandedOverEndsWithThree) {
  service_.errors.set_handed_over(true);
  const Outcome outcome = Run("get-error vm1");
  EXPECT_EQ(outcome.exit_status, 3);
  EXPECT_THAT(outcome.out, HasSubstr("handed over: its VM's writes are refused"));
  EXPECT_THAT(Run("--json get-error vm1").out, HasSubstr("\"handed_over\": true"));
}

TEST_F(ProgramTest, ARefusedCallEndsWithOneAndShowsCodeMessageAndReason) {
  service_.status = WithReason(absl::FailedPreconditionError("term 3 is over"), kReasonFenced);
  for (const char* flags : {"", "--json "}) {
    const Outcome outcome = Run(std::string(flags) + "checkpoint vm1");
    EXPECT_EQ(outcome.exit_status, 1);
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(outcome.error, "error: FAILED_PRECONDITION: term 3 is over (FENCED)\n");
  }
  service_.status = WithReason(absl::FailedPreconditionError("in use"), kReasonInUse);
  EXPECT_THAT(Run("stop vm1 --failover --epoch 3").error,
              AllOf(HasSubstr("(IN_USE)\nhint: "), HasSubstr("understudyctl status vm1")));
  service_.status = absl::NotFoundError("no such group");
  EXPECT_EQ(Run("get-error vm1").exit_status, 1);
  EXPECT_EQ(Run("status vm1").error, "error: NOT_FOUND: no such group\n");
  service_.status = absl::UnavailableError("the standby cannot be reached");
  EXPECT_EQ(Run("--timeout 1s checkpoint vm1").error,
            "error: UNAVAILABLE: the standby cannot be reached\n");
}

TEST_F(ProgramTest, AHintIsGivenWhereItHelps) {
  service_.status = WithReason(absl::FailedPreconditionError("another's"), kReasonFenced);
  const std::string takeover =
      "hint: to take the primaryship on purpose: understudyctl start vm1 --mode primary --takeover";
  EXPECT_THAT(Run("start vm1 --mode primary").error, HasSubstr(takeover));
  for (const char* words :
       {"start vm1 --mode secondary", "start vm1 --mode primary --takeover",
        "start vm1 --mode primary --expected-term 3", "remove vm1 --expected-term 3",
        "checkpoint vm1 --expected-term 3", "stop vm1 --expected-term 3"}) {
    EXPECT_THAT(Run(words).error, Not(HasSubstr("hint: "))) << words;
  }
  service_.status = WithReason(absl::FailedPreconditionError("not running"), kReasonNotRunning);
  for (const char* part :
       {"understudyctl status vm1", "NONE: begin with understudyctl start vm1",
        "FAILOVER_FAILED: go on with understudyctl stop vm1 --failover", "DONE: it has ended"}) {
    EXPECT_THAT(Run("checkpoint vm1").error, HasSubstr(part));
  }
}

TEST_F(ProgramTest, HintsRepeatTheServerThatWasGiven) {
  service_.status = WithReason(absl::FailedPreconditionError("in use"), kReasonInUse);
  const std::string server = "--server " + host_->address();
  EXPECT_THAT(RunAt("127.0.0.1:1", server + " stop vm1 --failover --epoch 3").error,
              HasSubstr("understudyctl " + server + " status vm1"));
  EXPECT_THAT(Run("stop vm1 --failover --epoch 3").error, HasSubstr("understudyctl status vm1"));
  service_.status = absl::OkStatus();
  EXPECT_THAT(RunAt("127.0.0.1:1", server + " history vm1").out,
              HasSubstr("understudyctl " + server + " clone vm1"));
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
  for (const char* words : {"", "frob", "start", "stop vm1 --received", "list vm1", "history",
                            "clone vm1", "clone vm1 --name a --list", "stop vm1 --failover --force",
                            "open vm1", "checkpoint vm1 --commit", "status --server"}) {
    EXPECT_EQ(Run(words).exit_status, 2) << words;
  }
}

TEST_F(ProgramTest, AMisspeltWordIsToldWithTheNearest) {
  EXPECT_THAT(Run("stauts vm1").error, StartsWith("error: stauts: unknown command; did you mean "
                                                  "status?\n"));
  EXPECT_THAT(Run("stop vm1 --failvoer").error, HasSubstr("--failvoer: unknown flag; did you mean "
                                                          "--failover?\n"));
  EXPECT_THAT(Run("frob").error, StartsWith("error: frob: unknown command\n"));
  const Outcome url = Run("--server http://standby:7410 status");
  EXPECT_EQ(url.exit_status, 2);
  EXPECT_THAT(url.error, HasSubstr("\"http://standby:7410\" is not host:port or unix:/path"));
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
  for (const char* part : {"open", "start", "checkpoint", "get-error", "stop", "remove", "status",
                           "list", "history", "scrub", "clone", "clear-error", "watch", "--server",
                           "--json", "--timeout", "Exit status", "127.0.0.1:7410"}) {
    EXPECT_THAT(outcome.out, HasSubstr(part));
  }
  EXPECT_THAT(Run("watch --help").out, AllOf(HasSubstr("--refresh"), HasSubstr("GAP")));
  EXPECT_THAT(Run("stop --help").out, AllOf(HasSubstr("--received"), Not(HasSubstr("--takeover"))));
}

}  // namespace
}  // namespace understudy::ctl::program_test
