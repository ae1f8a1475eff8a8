// attach and detach against a QEMU and an agent of the test's own: what is asked of whom, in which order, and what is taken back.
#include "client/ctl/attach.h"

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/ctl/invocation.h"
#include "tests/client/ctl/fake_qmp.h"
#include "tests/testing/temp_dir.h"

namespace understudy::ctl::attach_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kJob[] = "understudy-vda";

// A QEMU with mirror jobs; `ready` after a few looks at them.
class FakeQemu {
 public:
  explicit FakeQemu(const std::string& path)
      : qmp_(path, [this](const std::string& command, const JsonObject& arguments) {
          return Answer(command, arguments);
        }) {}

  // Commands that change something, with what they name.
  std::vector<std::string> changes() const {
    base::MutexLock lock(mutex_);
    return changes_;
  }
  void Refuse(const std::string& command) {
    base::MutexLock lock(mutex_);
    refused_ = command;
  }
  void FailJobs() {
    base::MutexLock lock(mutex_);
    jobs_fail_ = true;
  }
  void AddAttachment(const std::string& name, bool job) {
    base::MutexLock lock(mutex_);
    nodes_.push_back(name);
    if (job) jobs_.push_back(name);
  }

 private:
  std::string Answer(const std::string& command, const JsonObject& arguments) {
    base::MutexLock lock(mutex_);
    if (command == "query-block-jobs") return Jobs();
    if (command == "query-named-block-nodes") {
      std::string list = R"({"node-name": "disk0"})";
      for (const std::string& node : nodes_) {
        absl::StrAppend(&list, R"(, {"node-name": ")", node, "\"}");
      }
      return FakeQmp::Return("[" + list + "]");
    }
    std::string name = TextOf(arguments, "node-name");
    if (command == "blockdev-mirror") name = TextOf(arguments, "job-id");
    if (command == "block-job-cancel") name = TextOf(arguments, "device");
    changes_.push_back(command + " " + name);
    if (command == refused_) return FakeQmp::Refuse("GenericError", "not today");
    if (command == "blockdev-add") nodes_.push_back(name);
    if (command == "blockdev-del") std::erase(nodes_, name);
    if (command == "blockdev-mirror") jobs_.push_back(name);
    if (command == "block-job-cancel" && std::erase(jobs_, name) == 0) {
      return FakeQmp::Refuse("DeviceNotActive", "no such job");
    }
    return FakeQmp::Return();
  }

  std::string Jobs() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::string list;
    for (const std::string& job : jobs_) {
      absl::StrAppend(&list, list.empty() ? "" : ", ", R"({"device": ")", job,
                      R"(", "type": "mirror", "len": 1048576, "offset": 524288, "ready": )",
                      looks_ > 1 ? "true" : "false", "}");
    }
    if (!jobs_.empty() && ++looks_ > 1 && jobs_fail_) {
      jobs_.clear();
      return FakeQmp::Event("BLOCK_JOB_COMPLETED",
                            absl::StrCat(R"({"device": ")", kJob, R"(", "error": "disk full"})")) +
             FakeQmp::Return("[]");
    }
    return FakeQmp::Return("[" + list + "]") +
           FakeQmp::Event("BLOCK_JOB_READY", R"({"device": "x"})");
  }

  mutable base::Mutex mutex_;
  std::vector<std::string> changes_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> nodes_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> jobs_ ABSL_GUARDED_BY(mutex_);
  std::string refused_ ABSL_GUARDED_BY(mutex_);
  bool jobs_fail_ ABSL_GUARDED_BY(mutex_) = false;
  int looks_ ABSL_GUARDED_BY(mutex_) = 0;
  FakeQmp qmp_;
};

class AttachTest : public ::testing::Test {
 protected:
  AttachTest() : qemu_(path_) { AddVolume("vda"); }

  void AddVolume(const std::string& name) { group().add_volumes()->set_name(name); }
  v1::GroupStatus& group() {
    if (status_.groups_size() == 0) {
      status_.add_groups()->set_group("vm1");
      status_.mutable_groups(0)->set_mode(v1::MODE_PRIMARY);
      status_.mutable_groups(0)->set_nbd_socket("/run/agent.nbd");
    }
    return *status_.mutable_groups(0);
  }

  absl::Status Attach(AttachCommand command = {}) {
    command.qmp = path_;
    command.device = "disk0";
    const auto status = [&](const std::string&) -> absl::StatusOr<v1::GetStatusResponse> {
      return status_;
    };
    const auto sync = [&](const std::string&,
                          v1::SyncMode mode) -> absl::StatusOr<v1::SyncResponse> {
      syncs_.push_back(mode);
      if (mode == v1::SYNC_MODE_DECLARE_COMPLETE && !declare_.ok()) return declare_;
      v1::SyncResponse answer;
      if (mode == v1::SYNC_MODE_DECLARE_COMPLETE) answer.set_epoch(7);
      return answer;
    };
    return ctl::Attach(command, invocation_, {.status = status, .sync = sync}, out_, progress_);
  }
  absl::Status Detach(DetachCommand command = {}) {
    command.qmp = path_;
    return ctl::Detach(command, invocation_, out_);
  }

  testing::TempDir directory_;
  const std::string path_ = directory_.File("qmp");
  FakeQemu qemu_;
  Invocation invocation_ = {.timeout = absl::Seconds(20)};
  v1::GetStatusResponse status_;
  absl::Status declare_;
  std::vector<v1::SyncMode> syncs_;
  std::ostringstream out_;
  std::ostringstream progress_;
};

TEST_F(AttachTest, BeginsTheMirrorWaitsAndDeclares) {
  ASSERT_EQ(Attach(), absl::OkStatus());
  EXPECT_THAT(qemu_.changes(),
              ElementsAre("blockdev-add understudy-vda", "blockdev-mirror understudy-vda"));
  EXPECT_THAT(syncs_, ElementsAre(v1::SYNC_MODE_FULL, v1::SYNC_MODE_DECLARE_COMPLETE));
  EXPECT_EQ(out_.str(), "vm1/vda: complete at the standby with epoch 7\n");
  EXPECT_THAT(progress_.str(), HasSubstr("vm1/vda: copy [###############...............] 50 %"));
}

TEST_F(AttachTest, FailedMirrorLeavesNoNode) {
  qemu_.Refuse("blockdev-mirror");
  EXPECT_THAT(Attach().message(), HasSubstr("blockdev-mirror: GenericError: not today"));
  EXPECT_THAT(qemu_.changes(),
              ElementsAre("blockdev-add understudy-vda", "blockdev-mirror understudy-vda",
                          "blockdev-del understudy-vda"));
  EXPECT_THAT(progress_.str(), HasSubstr("undone"));
  EXPECT_THAT(syncs_, Not(::testing::Contains(v1::SYNC_MODE_DECLARE_COMPLETE)));
}

TEST_F(AttachTest, FailedCopyIsUndoneAndItsCauseTold) {
  qemu_.FailJobs();
  EXPECT_THAT(Attach().message(), HasSubstr("the mirror job understudy-vda has ended: disk full"));
  EXPECT_EQ(qemu_.changes().back(), "blockdev-del understudy-vda");
}

TEST_F(AttachTest, ReadyCopyStaysWhenTheDeclarationFailsAndCanBeDeclaredLater) {
  declare_ = absl::UnavailableError("the agent is gone");
  EXPECT_TRUE(absl::IsUnavailable(Attach()));
  EXPECT_THAT(progress_.str(), HasSubstr("run attach again"));
  const size_t changes = qemu_.changes().size();
  declare_ = absl::OkStatus();
  ASSERT_EQ(Attach(), absl::OkStatus());
  EXPECT_EQ(qemu_.changes().size(), changes) << "a second mirror";
  EXPECT_THAT(syncs_, ElementsAre(v1::SYNC_MODE_FULL, v1::SYNC_MODE_DECLARE_COMPLETE,
                                  v1::SYNC_MODE_DECLARE_COMPLETE));
}

TEST_F(AttachTest, CopyThatLacksWritesIsToBeMadeAnew) {
  declare_ = absl::AbortedError("writes were missed");
  EXPECT_TRUE(absl::IsAborted(Attach()));
  EXPECT_THAT(progress_.str(), AllOf(HasSubstr("to copy anew, detach all volumes"),
                                     HasSubstr("understudyctl detach vm1/vda --qmp ")));
}

TEST_F(AttachTest, GroupIsDeclaredWhenAllItsVolumesAreReady) {
  AddVolume("vdb");
  ASSERT_EQ(Attach({.group = "vm1", .volume = "vda"}), absl::OkStatus());
  EXPECT_THAT(out_.str(), HasSubstr("when these are attached, too: vdb"));
  EXPECT_THAT(syncs_, ElementsAre(v1::SYNC_MODE_FULL));
  group().set_incomplete(true);
  ASSERT_EQ(Attach({.group = "vm1", .volume = "vdb"}), absl::OkStatus());
  EXPECT_THAT(syncs_, ElementsAre(v1::SYNC_MODE_FULL, v1::SYNC_MODE_DECLARE_COMPLETE))
      << "the first volume's missed writes would have been forgotten";
}

TEST_F(AttachTest, VolumesWithALocalDiskNeedNoCopy) {
  AddVolume("tee");
  group().mutable_volumes(1)->set_disk_path("/disk");
  ASSERT_TRUE(Attach().ok()) << "the only one without a disk is meant";
  EXPECT_THAT(syncs_, ElementsAre(v1::SYNC_MODE_FULL, v1::SYNC_MODE_DECLARE_COMPLETE));
  const absl::Status refused = Attach({.group = "vm1", .volume = "tee"});
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("vm1/tee has a local disk"));
}

TEST_F(AttachTest, AsksWhichVolumeWhenThereAreMore) {
  AddVolume("vdb");
  EXPECT_THAT(Attach().message(), AllOf(HasSubstr("vm1/vda"), HasSubstr("vm1/vdb")));
  EXPECT_THAT(Attach({.volume = "vdc"}).message(), HasSubstr("no such volume"));
  EXPECT_THAT(qemu_.changes(), IsEmpty());
}

TEST_F(AttachTest, RefusesAServiceAndAnAgentWithoutNbdSocket) {
  group().clear_nbd_socket();
  EXPECT_THAT(Attach().message(), HasSubstr("--nbd-socket"));
  group().set_mode(v1::MODE_SECONDARY);
  EXPECT_THAT(Attach({.nbd_socket = "/x"}).message(), HasSubstr("on its own host"));
}

TEST_F(AttachTest, NodeThatAnEarlierFailureLeftIsReplaced) {
  qemu_.AddAttachment(kJob, /*job=*/false);
  ASSERT_EQ(Attach(), absl::OkStatus());
  EXPECT_EQ(qemu_.changes().front(), "blockdev-del understudy-vda");
}

TEST_F(AttachTest, DetachEndsJobAndNodeOfTheOnlyOne) {
  qemu_.AddAttachment(kJob, /*job=*/true);
  ASSERT_EQ(Detach(), absl::OkStatus());
  EXPECT_THAT(qemu_.changes(),
              ElementsAre("block-job-cancel understudy-vda", "blockdev-del understudy-vda"));
  EXPECT_TRUE(absl::IsNotFound(Detach()));
}

TEST_F(AttachTest, DetachTakesAwayTheNodeOfAJobThatHasFailed) {
  qemu_.AddAttachment(kJob, /*job=*/false);
  qemu_.AddAttachment("understudy-vdb", /*job=*/true);
  EXPECT_THAT(Detach().message(), AllOf(HasSubstr("which"), HasSubstr("understudy-vdb")));
  ASSERT_EQ(Detach({.volume = "vda"}), absl::OkStatus());
  EXPECT_EQ(qemu_.changes().back(), "blockdev-del understudy-vda");
}

TEST(AttachmentNameTest, FitsQemuAndTellsLongNamesApart) {
  EXPECT_EQ(AttachmentName("vda"), "understudy-vda");
  const std::string a = AttachmentName(std::string(62, 'x') + "a");
  const std::string b = AttachmentName(std::string(62, 'x') + "b");
  EXPECT_EQ(a.size(), 31U);
  EXPECT_NE(a, b);
}

}  // namespace
}  // namespace understudy::ctl::attach_test
