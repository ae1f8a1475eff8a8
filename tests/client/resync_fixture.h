// tests/client/resync_fixture.h
//
// A primary with one tee volume, in a state directory of its own, and a standby in memory that can be away, lose things, or be killed.
#ifndef UNDERSTUDY_TESTS_CLIENT_RESYNC_FIXTURE_H_
#define UNDERSTUDY_TESTS_CLIENT_RESYNC_FIXTURE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/agent_state.h"
#include "client/differences.h"
#include "client/primary.h"
#include "client/resync.h"
#include "storage/base/deadline.h"
#include "tests/client/fake_transport.h"
#include "tests/testing/fault_file_system.h"
#include "tests/testing/scripted_clock.h"
#include "tests/testing/temp_dir.h"

namespace understudy::client {

inline constexpr uint64_t kMiB = 1 << 20;
inline constexpr uint64_t kDiskBytes = 32 * kMiB;
inline constexpr uint64_t kWindowBytes = 2 * kMiB;

inline base::Deadline Soon() { return base::Deadline::After(absl::Seconds(10)); }

class ResyncFixture : public ::testing::Test {
 protected:
  ResyncFixture() : transport_({kDiskBytes}) {
    auto file = base::FileSystem::Posix().Open(directory_.File("disk.raw"), {.create = true});
    EXPECT_TRUE((*file)->Truncate(kDiskBytes).ok());
    transport_.Set([](auto& b) { b.strict_streams = true; });
  }
  ~ResyncFixture() override { primary_.reset(); }

  testing::ScriptedClock clock_;  // of the agent's state
  ChecksumSource* source_ = nullptr;
  bool forward_ = false;
  AckMode ack_ = AckMode::kForwarded;
  uint64_t remembered_ranges_max_ = 1 << 18;
  // Both are over on a busy machine sooner than in the field: for tests that want that.
  absl::Duration stall_timeout_ = absl::Milliseconds(20);
  absl::Duration lost_peer_ = absl::Seconds(20);
  Primary& Make() {
    primary_.reset();
    transport_.Allow();
    PrimaryOptions options{
        .forwarder = {.group = "vm1",
                      .window_bytes = kWindowBytes,
                      .stall_timeout = stall_timeout_,
                      .heartbeat = absl::Milliseconds(20),
                      .lost_peer = lost_peer_,
                      .backoff_min = absl::Milliseconds(5),
                      .backoff_max = absl::Milliseconds(20)},
        .volumes = {{.name = "disk0", .disk_path = directory_.File("disk.raw")}}};
    options.forwarder.ack = ack_;
    options.remembered_ranges_max = remembered_ranges_max_;
    if (forward_) options.volumes = {{.name = "disk0", .size_bytes = kDiskBytes}};
    auto state = AgentState::Open(file_system_, directory_.File("state"), clock_);
    EXPECT_TRUE(state.ok()) << state.status();
    auto primary = Primary::Create(options, file_system_, *std::move(state), &transport_,
                                   source_ != nullptr ? source_ : &transport_);
    EXPECT_TRUE(primary.ok()) << primary.status();
    primary_ = *std::move(primary);
    EXPECT_TRUE(primary_->Resume().ok());
    return *primary_;
  }
  Volume& Disk() { return *primary_->volumes()[0]; }
  void Write(uint64_t offset, char c, size_t bytes = 4096) {
    ASSERT_TRUE(Disk().Write(offset, std::string(bytes, c), false).ok());
  }
  std::string Local() {
    return *base::FileSystem::Posix().ReadWholeFile(directory_.File("disk.raw"));
  }
  bool Complete() {
    const ForwarderState state = primary_->forwarder().state();
    return state.connected && !state.incomplete;
  }
  bool Becomes(SyncState state) {
    return Eventually([&] { return primary_->sync_state() == state; });
  }
  // Everything there, in a checkpoint.
  void ExpectEqualAfterCheckpoint() {
    ASSERT_TRUE(Eventually([&] { return Complete(); }));
    const auto checkpoint = primary_->Checkpoint(Soon());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_TRUE(transport_.disk(0) == Local());
    EXPECT_TRUE(primary_->differences().empty());
    EXPECT_THAT(transport_.seen().violations, ::testing::IsEmpty());
  }
  void Outage(bool away) {
    transport_.Set([&](auto& b) { b.reachable = !away; });
    if (away) transport_.Disconnect();
  }
  // Of the standby. Until the agent has seen it nothing is incomplete.
  void PowerCut() {
    const size_t handshakes = transport_.seen().handshakes.size();
    transport_.PowerCut();
    ASSERT_TRUE(Eventually([&] { return transport_.seen().handshakes.size() > handshakes; }));
  }
  // As kill -9: nothing is said or stored any more. The fake forgets the session.
  void Kill() {
    transport_.Set([](auto& b) { b.reachable = false; });
    transport_.Disconnect();
    file_system_.SetHook(
        [](testing::FileOperation, const std::string&) { return absl::InternalError("dead"); });
    primary_.reset();
    file_system_.SetHook(nullptr);
    transport_.Set([](auto& b) { b.reachable = true; });
  }

  testing::TempDir directory_;
  testing::FaultFileSystem file_system_;
  FakeTransport transport_;
  std::unique_ptr<Primary> primary_;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_TESTS_CLIENT_RESYNC_FIXTURE_H_
