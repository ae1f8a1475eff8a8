#include "server/service.h"

#include <fstream>
#include <string>
#include <sys/resource.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include <gtest/gtest.h>

#include "storage/base/file_limit.h"
#include "storage/base/reason.h"
#include "tests/server/harness.h"

namespace understudy::server::service_test {
namespace {

using testing::FakeStore;
using testing::Harness;
using testing::OneVolume;
using testing::Soon;
using testing::TestAgent;
using testing::WriteStartOf;

std::string Refusal(const absl::Status& status) {
  return absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message());
}

TEST(ServiceTest, ModeAndTopIdAreCheckedInOrder) {
  FakeStore store;
  Service service(store, base::Clock::Real());
  storage::GroupSpec spec = OneVolume("BAD NAME");
  const auto open = [&](Mode mode) { return Refusal(service.Open(mode, spec, Soon()).status()); };
  EXPECT_EQ(open(Mode::kMissing), "INVALID_ARGUMENT: Missing the option mode");
  EXPECT_EQ(open(Mode::kUnknown),
            "INVALID_ARGUMENT: The option mode's value should be primary or secondary");
  EXPECT_EQ(open(Mode::kPrimary),
            "INVALID_ARGUMENT: The primary side does not support option top-id");
  spec.volumes[0].top_id.clear();
  EXPECT_EQ(open(Mode::kPrimary),
            "INVALID_ARGUMENT: The parameter mode's value is invalid, needs 1, but got 0");
  EXPECT_EQ(open(Mode::kSecondary), "INVALID_ARGUMENT: Missing the option top-id");
  spec.volumes[0].top_id = "ok";
  EXPECT_NE(open(Mode::kSecondary).find("INVALID_ARGUMENT: group name \"BAD NAME\""),
            std::string::npos);
  EXPECT_TRUE(service.groups().empty());
  EXPECT_TRUE(store.replicas.empty());
}

TEST(ServiceTest, ATopIdBelongsToOneVolume) {
  Harness harness;
  const std::string taken = "FAILED_PRECONDITION: No top_bs or it is invalid";
  storage::GroupSpec other = OneVolume("vm2");
  other.volumes[0].top_id = "vm1/disk0";
  EXPECT_EQ(Refusal(harness.service.Open(Mode::kSecondary, other, Soon()).status()), taken);
  other.volumes.push_back(other.volumes[0]);
  other.volumes[0].top_id = other.volumes[1].top_id = "twice";
  other.volumes[1].name = "disk1";
  EXPECT_EQ(Refusal(harness.service.Open(Mode::kSecondary, other, Soon()).status()), taken);
  EXPECT_EQ(harness.service.groups().size(), 1u);
  const auto again = harness.service.Open(Mode::kSecondary, OneVolume("vm1"), Soon());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->ignored);
}

TEST(ServiceTest, AStartAsPrimaryIsAnsweredByTheStageWithVolumesToo) {
  Harness harness;
  storage::GroupSpec spec = OneVolume("vm1");
  const auto start = [&] { return harness.service.Start(Mode::kPrimary, spec, {}, Soon()); };
  EXPECT_EQ(Refusal(start().status()),
            "INVALID_ARGUMENT: The primary side does not support option top-id");
  spec.volumes[0].top_id.clear();
  EXPECT_TRUE(HasReason(start().status(), kReasonWrongMode));
  harness.Start();
  EXPECT_EQ(
      Refusal(start().status()),
      "FAILED_PRECONDITION: Block replication is running or done: group vm1 is in stage RUNNING; "
      "remedy: none is needed, it runs already: understudyctl status vm1");
  ASSERT_TRUE(harness.group->Stop({}, Soon()).ok());
  const auto done = start();
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_TRUE(done->ignored);
}

// A thin image that is larger than its file system: the agent would connect, and no frame be taken.
TEST(ServiceTest, AStartWithoutRoomToReceiveAnythingWarnsOfIt) {
  FakeStore store;
  Service service(store, base::Clock::Real());
  EXPECT_EQ(service.Start(Mode::kSecondary, OneVolume("vm1"), {}, Soon())->warning, "");
  store.room = absl::ResourceExhaustedError("5 bytes are free; make room");
  const auto started = service.Start(Mode::kSecondary, OneVolume("vm2"), {}, Soon());
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_EQ(started->stage, Stage::kRunning);
  EXPECT_EQ(started->warning, "nothing can be received: 5 bytes are free; make room");
}

TEST(ServiceTest, AStartThatFailsLeavesNoGroupBehind) {
  FakeStore store;
  store.start_error = WithReason(absl::FailedPreconditionError("another disk"), kReasonWrongDisk);
  Service service(store, base::Clock::Real());
  const auto failed = service.Start(Mode::kSecondary, OneVolume("vm1"), {}, Soon());
  EXPECT_TRUE(HasReason(failed.status(), kReasonWrongDisk));
  EXPECT_TRUE(service.groups().empty());
  EXPECT_TRUE(store.replicas.empty());
  store.start_error = absl::OkStatus();
  EXPECT_EQ(service.Start(Mode::kSecondary, OneVolume("vm1"), {}, Soon())->stage, Stage::kRunning);
}

TEST(ServiceTest, AStartThatFailsDeletesTheDisksItMadeAndNoOthers) {
  const std::string directory = ::testing::TempDir() + "/service_test." + std::to_string(getpid());
  ASSERT_EQ(mkdir(directory.c_str(), 0700), 0);
  const auto path = [&](const char* name) { return directory + "/" + name; };
  const auto exists = [&](const char* name) { return access(path(name).c_str(), F_OK) == 0; };
  std::ofstream(path("old")) << "a disk";
  FakeStore store;
  store.start_error = absl::InternalError("dead disk");
  store.on_open = [&](const storage::GroupSpec& spec) {
    for (const auto& volume : spec.volumes) std::ofstream(volume.disk_path, std::ios::app).flush();
    std::ofstream(path("raced")) << "put there by somebody else";
  };
  Service service(store, base::Clock::Real());
  storage::GroupSpec spec{.name = "vm1"};
  for (const char* const name : {"old", "new", "raced"}) {
    spec.volumes.push_back({.name = name,
                            .top_id = absl::StrCat("vm1/", name),
                            .disk_path = path(name),
                            .size_bytes = 1 << 20,
                            .create = true});
  }
  // Not even a deadline that has passed meanwhile leaves the group behind.
  EXPECT_EQ(service.Start(Mode::kSecondary, spec, {}, Soon()).status().message(), "dead disk");
  EXPECT_TRUE(service.groups().empty());
  EXPECT_TRUE(exists("old"));
  EXPECT_FALSE(exists("new"));
  EXPECT_TRUE(exists("raced"));
  // Opened by an earlier call: a failed start undoes nothing of it.
  ASSERT_TRUE(service.Open(Mode::kSecondary, spec, Soon()).ok());
  EXPECT_FALSE(service.Start(Mode::kSecondary, spec, {}, Soon()).ok());
  EXPECT_EQ(service.groups().size(), 1u);
  EXPECT_TRUE(exists("new"));
  for (const char* const name : {"old", "new", "raced"}) unlink(path(name).c_str());
  rmdir(directory.c_str());
}

TEST(ServiceTest, AStartWhoseTimeIsUpLeavesNoGroupBehind) {
  FakeStore store;
  Service service(store, base::Clock::Real());
  const auto past = base::Deadline::After(-absl::Seconds(1));
  store.start_error = absl::DeadlineExceededError("slow disk");
  const auto failed = service.Start(Mode::kSecondary, OneVolume("vm1"), {}, past);
  EXPECT_FALSE(failed.ok());
  EXPECT_TRUE(service.groups().empty());
}

TEST(ServiceTest, ShutdownSaysWhenAStopIsStillAtWork) {
  Harness harness;
  harness.Start();
  using Place = testing::FakeReplica::Place;
  harness.replica().Stick(true, Place::kStop);
  EXPECT_FALSE(harness.group->Stop({}, base::Deadline::After(absl::Milliseconds(10))).ok());
  harness.replica().AwaitStuck(Place::kStop);
  EXPECT_FALSE(harness.service.Shutdown());
  harness.replica().Stick(false, Place::kStop);
}

constexpr char kInUse[] =
    "FAILED_PRECONDITION: Block device is in use by internal backup job: group vm1 is in stage "
    "RUNNING; remedy: understudyctl stop vm1 ends it, with --failover as a failover";

// It used to wait for the stop, or the start, with the door shut to every other group.
TEST(ServiceTest, ARemoveDuringALongCallHoldsNoOtherGroupUp) {
  using Place = testing::FakeReplica::Place;
  Harness harness;
  Service& service = harness.service;
  const auto briefly = [] { return base::Deadline::After(absl::Milliseconds(200)); };
  harness.replica().Stick(true, Place::kStart);
  std::thread start([&] { harness.Start(); });
  harness.replica().AwaitStuck(Place::kStart);
  std::thread remove([&] { EXPECT_EQ(Refusal(service.Remove("vm1", false, {}, Soon())), kInUse); });
  absl::SleepFor(absl::Milliseconds(100));  // it waits for the start, whose outcome decides
  EXPECT_TRUE(service.Start(Mode::kSecondary, OneVolume("vm2"), {}, briefly()).ok());
  harness.replica().Stick(false, Place::kStart);
  start.join();
  remove.join();

  harness.replica().Stick(true, Place::kStop);
  EXPECT_FALSE(harness.group->Stop({}, base::Deadline::After(absl::Milliseconds(10))).ok());
  EXPECT_EQ(Refusal(service.Remove("vm1", false, {}, Soon())), kInUse);
  EXPECT_TRUE(service.Open(Mode::kSecondary, OneVolume("vm3"), briefly()).ok());
  EXPECT_TRUE(service.Remove("vm3", false, {}, briefly()).ok());
  harness.replica().Stick(false, Place::kStop);
}

// So many files beside those that are open now, until it goes.
class FreeFiles {
 public:
  explicit FreeFiles(uint64_t files) {
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
    rlimit few = before_;
    few.rlim_cur = base::OpenFiles() + files;
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  }
  ~FreeFiles() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_ = {};
};

constexpr uint64_t kToStart = 7;  // a group of one volume
constexpr uint64_t kToCome = 6;   // of them beside its disk, which a fake has not
constexpr uint64_t kOfClone = 3;

// Two at once each saw the files that the other was about to take.
TEST(ServiceTest, AStartAtWorkKeepsItsFilesFromTheNextOne) {
  using Place = testing::FakeReplica::Place;
  Harness harness;
  Service& service = harness.service;
  ASSERT_TRUE(service.Open(Mode::kSecondary, OneVolume("vm2"), Soon()).ok());
  const auto start = [&](const char* group) {
    return service.Start(Mode::kSecondary, {.name = group}, {}, Soon()).status();
  };
  harness.replica().Stick(true, Place::kStart);
  std::thread first([&] { EXPECT_EQ(start("vm1"), absl::OkStatus()); });
  harness.replica().AwaitStuck(Place::kStart);
  {
    const FreeFiles enough_for_one(2 * kToStart - 1);
    EXPECT_TRUE(absl::IsResourceExhausted(start("vm2")));
    harness.replica().Stick(false, Place::kStart);
    first.join();
  }
  const FreeFiles enough(kToCome + kToStart);
  EXPECT_EQ(start("vm2"), absl::OkStatus()) << "what was kept is free again";
}

TEST(ServiceTest, AStartLeavesTheFilesOfClonesAndACloneThoseOfGroups) {
  Harness harness;
  harness.Start();
  Service& service = harness.service;
  ASSERT_TRUE(harness.group->Checkpoint({}, Soon()).ok());
  const auto clone = [&] { return service.CreateClone(*harness.group, {.name = "look"}, {}); };
  {
    const FreeFiles enough_for_the_group(kToCome + kOfClone - 1);
    EXPECT_TRUE(absl::IsResourceExhausted(clone().status()));
  }
  const FreeFiles enough_for_two(kToCome + kToStart + kOfClone - 1);
  ASSERT_TRUE(clone().ok());
  const auto start = [&] { return service.Start(Mode::kSecondary, OneVolume("vm2"), {}, Soon()); };
  EXPECT_TRUE(absl::IsResourceExhausted(start().status()));
  ASSERT_TRUE(harness.group->RemoveClone("look", {}).ok());
  EXPECT_TRUE(start().ok());
}

// What a busy group has open was counted as still to come, too.
TEST(ServiceTest, ABusyGroupTakesNoMoreFilesFromTheNextOneThanAnIdleOne) {
  Harness harness;
  harness.Start();
  TestAgent agent(harness.service);
  ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
  harness.group->OnConnect();
  harness.group->OnConnect();  // qemu-img looks, too
  harness.replica().Mutate([](storage::ReplicaState& state) { state.open_segments = 3; });
  const auto start = [&] {
    return harness.service.Start(Mode::kSecondary, OneVolume("vm2"), {}, Soon()).status();
  };
  {
    const FreeFiles enough_without_the_last_segment(kToStart);
    EXPECT_TRUE(absl::IsResourceExhausted(start()));
  }
  const FreeFiles enough(kToStart + 1);
  EXPECT_EQ(start(), absl::OkStatus());
}

TEST(ServiceTest, ExportsComeWithOpenAndGoWithRemove) {
  FakeStore store;
  Service service(store, base::Clock::Real());
  EXPECT_EQ(service.DefaultExportName(), "");
  storage::GroupSpec spec = OneVolume("vm1");
  spec.volumes[0].top_id = "top";
  ASSERT_TRUE(service.Open(Mode::kSecondary, spec, Soon()).ok());
  EXPECT_EQ(service.DefaultExportName(), "vm1/disk0");
  const auto volume = service.FindExport("vm1/disk0").value();
  EXPECT_EQ(service.FindExport("top").value(), volume);
  EXPECT_EQ(volume->size_bytes(), 1u << 20);
  char byte;
  EXPECT_TRUE(absl::IsFailedPrecondition(volume->Read(0, {&byte, 1}))) << "stage NONE";
  ASSERT_TRUE(service.Open(Mode::kSecondary, OneVolume("vm2"), Soon()).ok());
  EXPECT_EQ(service.DefaultExportName(), "") << "two volumes: none is the default";
  ASSERT_TRUE(service.Remove("vm1", false, {}, Soon()).ok());
  EXPECT_FALSE(service.FindExport("top").ok());
  EXPECT_EQ(service.ExportNames(), std::vector<std::string>{"vm2/disk0"});
  EXPECT_TRUE(HasReason(service.Remove("vm1", false, {}, Soon()), kReasonUnknownGroup));
}

TEST(ServiceTest, IoErrorsOfTheVmAreCountedAndLatched) {
  Harness harness;
  harness.Start();
  const auto volume = harness.service.FindExport("vm1/disk0").value();
  std::string data(512, 'x');
  ASSERT_TRUE(WriteStartOf(*volume, data).ok());
  EXPECT_EQ(harness.replica().disk(0).substr(0, 512), data);
  // As storage does: the request fails, and the background is told.
  harness.replica().FailIo(absl::DataLossError("bad block"));
  harness.replica().Report({.operation = "read",
                            .volume = VolumeId(0),
                            .range = {0, 512},
                            .status = absl::DataLossError("bad block")});
  EXPECT_TRUE(absl::IsDataLoss(volume->Read(0, data)));
  IoStats& stats = harness.group->io_stats(VolumeId(0));
  EXPECT_EQ(stats.kinds[static_cast<size_t>(IoKind::kWrite)].bytes.value(), 512u);
  EXPECT_EQ(stats.kinds[static_cast<size_t>(IoKind::kRead)].errors.value(), 1u);
  EXPECT_EQ(stats.disk_checksum_failures.value(), 1u);
  ASSERT_EQ(harness.group->GetError()->errors.size(), 1u);
  EXPECT_EQ(harness.group->GetError()->errors[0].range, (ByteRange{0, 512}));
  EXPECT_EQ(harness.group->GetError()->errors[0].count, 1u);
}

TEST(ServiceTest, AfterShutdownExportsTouchNothing) {
  Harness harness;
  harness.Start();
  const auto volume = harness.service.FindExport("vm1/disk0").value();
  harness.service.Shutdown();
  EXPECT_TRUE(absl::IsCancelled(WriteStartOf(*volume, std::string(512, 'x'))));
  EXPECT_EQ(harness.replica().disk(0)[0], '\0');
}

}  // namespace
}  // namespace understudy::server::service_test
