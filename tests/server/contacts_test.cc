// How long an agent has been silent and how old the newest checkpoint is: by the steady clock, and
// over a restart of the service.
#include "server/contacts.h"

#include <fstream>
#include <memory>
#include <optional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/harness.h"
#include "tests/testing/scripted_clock.h"
#include "tests/testing/temp_dir.h"

namespace understudy::server::contacts_test {
namespace {

using testing::FakeReplica;
using testing::FakeStore;
using ::testing::IsEmpty;
using testing::OneVolume;
using ::testing::Optional;
using testing::Soon;
using testing::TestAgent;
using testing::TestFrame;

constexpr absl::Duration kHour = absl::Hours(1);

// A service whose replicas outlive it, as a data directory does.
class ContactsTest : public ::testing::Test {
 protected:
  ContactsTest() {
    Restart();
    service_->Open(Mode::kSecondary, OneVolume("vm1"), Soon()).value();
    service_->FindGroup("vm1").value()->Start(true, {}, Soon()).value();
  }

  void Restart() {
    service_.reset();
    service_ = std::make_unique<Service>(store_, clock_, base::FileSystem::Posix(), dir_.path());
  }
  // As kill -9 less than a minute after the start.
  void Kill() {
    service_->Shutdown();
    ASSERT_TRUE(base::FileSystem::Posix().Remove(file()).ok());
  }
  void Checkpoint() {
    TestAgent agent(*service_);
    ASSERT_TRUE(agent.Greet(TestAgent::Hello("vm1")));
    agent.Send(TestFrame().Add(OperationKind::kCheckpoint));
    ASSERT_TRUE(agent.sink.AckThat([](const Ack& ack) { return ack.committed_sequence == 1; }));
    const absl::Time now = clock_.Now();
    replica().Mutate([now](storage::ReplicaState& state) { state.committed_time = now; });
  }
  GroupStatus Status() { return service_->FindGroup("vm1").value()->Status(); }
  FakeReplica& replica() { return *store_.replicas.at("vm1"); }
  std::string file() const { return dir_.path() + "/contacts"; }

  testing::TempDir dir_;
  testing::ScriptedClock clock_;
  FakeStore store_;
  std::unique_ptr<Service> service_;
};

TEST_F(ContactsTest, NobodyIsSilentOrLateWhenNothingIsDue) {
  clock_.Advance(kHour);
  EXPECT_THAT(Status().silence, Optional(kHour)) << "since Start: nobody has called";
  EXPECT_EQ(Status().disconnected(), kHour);
  EXPECT_THAT(Status().checkpoint_age, Optional(kHour)) << "a failover has the disks of the start";
  replica().Mutate([](storage::ReplicaState& state) { state.valid = false; });
  EXPECT_EQ(Status().checkpoint_age, std::nullopt) << "a first sync";
  replica().Mutate([](storage::ReplicaState& state) { state.valid = true; });
  Checkpoint();
  EXPECT_NE(Status().silence, std::nullopt);
  EXPECT_NE(Status().checkpoint_age, std::nullopt);
  replica().Mutate([](storage::ReplicaState& state) { state.handed_over = true; });
  EXPECT_EQ(Status().silence, std::nullopt);
  EXPECT_EQ(Status().checkpoint_age, std::nullopt);
  replica().Mutate([](storage::ReplicaState& state) {
    state.handed_over = false;
    state.stage = Stage::kDone;
  });
  EXPECT_EQ(Status().silence, std::nullopt);
  EXPECT_EQ(Status().disconnected(), absl::ZeroDuration());
  EXPECT_EQ(Status().checkpoint_age, std::nullopt);
}

TEST_F(ContactsTest, WhoSetsTheClockChangesNothing) {
  Checkpoint();
  for (const absl::Duration set : {kHour, -2 * kHour, kHour}) {
    clock_.Jump(set);
    EXPECT_THAT(Status().silence, Optional(absl::ZeroDuration()));
    EXPECT_THAT(Status().checkpoint_age, Optional(absl::ZeroDuration()));
  }
  clock_.Advance(absl::Seconds(40));
  EXPECT_THAT(Status().silence, Optional(absl::Seconds(40)));
  EXPECT_THAT(Status().checkpoint_age, Optional(absl::Seconds(40)));
  EXPECT_EQ(Status().lag, absl::Seconds(40));
}

// An agent that was restarted has not seen the checkpoint, and another clock may say its time.
TEST_F(ContactsTest, AnAgentIsToldTheAgeOfTheNewestCheckpoint) {
  Checkpoint();
  clock_.Advance(absl::Seconds(40));
  clock_.Jump(kHour);
  TestAgent agent(*service_);
  const std::optional<HandshakeReply> reply = agent.Greet(TestAgent::Hello("vm1"));
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->committed_age, absl::Seconds(40));
}

TEST_F(ContactsTest, BothGoOnOverARestart) {
  Checkpoint();
  const absl::Time last = Status().last_contact;
  service_->Shutdown();
  clock_.Advance(kHour);
  for (int restart = 0; restart < 2; ++restart) {
    Restart();
    EXPECT_EQ(Status().last_contact, last);
    EXPECT_THAT(Status().silence, Optional(kHour));
    EXPECT_THAT(Status().checkpoint_age, Optional(kHour));
    EXPECT_EQ(Status().lag, kHour);
  }
}

TEST_F(ContactsTest, OfAnAgentThatWasBoundSilenceIsKnownAtLeastFromTheStartOn) {
  Checkpoint();
  Kill();
  Restart();
  EXPECT_THAT(Status().silence, Optional(absl::ZeroDuration()));
  clock_.Advance(absl::Seconds(31));
  EXPECT_THAT(Status().silence, Optional(absl::Seconds(31)));
}

TEST_F(ContactsTest, AnotherStartOfTheGroupInheritsNothing) {
  Checkpoint();
  service_->Shutdown();
  replica().Mutate([](storage::ReplicaState& state) { state.incarnation.low += 1; });
  clock_.Advance(kHour);
  Restart();
  EXPECT_EQ(Status().last_contact, absl::UnixEpoch());
}

TEST_F(ContactsTest, TheFileIsAsDocumented) {
  const Contacts contacts = {{Incarnation::FromHex("0102030405060708090a0b0c0d0e0f10").value(),
                              absl::FromUnixSeconds(1'700'000'000)}};
  ASSERT_TRUE(StoreContacts(base::FileSystem::Posix(), file(), contacts).ok());
  EXPECT_EQ(base::FileSystem::Posix().ReadWholeFile(file()).value(),
            "understudy contacts 1\n0102030405060708090a0b0c0d0e0f10 1700000000000000\n"
            "crc32c c9838700\n");
}

TEST_F(ContactsTest, AFileThatIsDamagedOrOfAnotherVersionIsReadAsNone) {
  const Contacts contacts = {{{.high = 1, .low = 2}, absl::FromUnixMicros(5)},
                             {{.high = 3, .low = 4}, absl::FromUnixMicros(7)}};
  base::FileSystem& files = base::FileSystem::Posix();
  EXPECT_THAT(LoadContacts(files, file() + ".none"), IsEmpty());
  ASSERT_TRUE(StoreContacts(files, file(), contacts).ok());
  EXPECT_EQ(LoadContacts(files, file()), contacts);
  const std::string text = files.ReadWholeFile(file()).value();
  for (const auto& damage : {text.substr(0, text.size() - 1), text.substr(1), std::string(),
                             std::string(text).replace(text.find(" 5\n") + 1, 1, "6")}) {
    std::ofstream(file()) << damage;
    EXPECT_THAT(LoadContacts(files, file()), IsEmpty()) << damage;
  }
}

}  // namespace
}  // namespace understudy::server::contacts_test
