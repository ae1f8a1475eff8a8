// A request that its device holds back delays neither another client nor what need not wait for it.
#include <future>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "tests/proto/nbd/peer.h"

namespace understudy::nbd::script::blocking_test {
namespace {

constexpr uint64_t kHeldBytes = 64
                                << 10;  // requests that begin in the first of the disk may be held
constexpr int kMany = 40;               // more than a connection has threads

class BlockingTest : public ::testing::Test {
 protected:
  ~BlockingTest() override { Release(); }

  // From now on requests of this command wait for Release(): flushes, and others at the front.
  void Hold(Kind kind) { held_ = static_cast<int>(kind); }
  void Release() {
    if (!std::exchange(released_, true)) release_.set_value();
  }

  static Request At(uint64_t offset, uint16_t command) {
    return {.command = command,
            .offset = command == kFlush ? 0 : offset,
            .length = command == kFlush ? 0u : 512u,
            .payload = std::string(command == kWrite ? 512 : 0, 'x')};
  }

  // `client` sends many that are held.
  void SendHeld(Client& client, uint16_t command) {
    for (int i = 0; i < kMany; ++i) client.Send(At(i * 512, command));
  }

  void ReceiveAll(Client& client) {
    while (client.in_flight() > 0) EXPECT_EQ(client.Receive().second.error, 0u);
  }

 private:
  std::promise<void> release_;
  bool released_ = false;
  std::atomic<int> held_{-1};

 protected:
  MemoryDisk disk_{
      {.before = [this, released = release_.get_future().share()](Kind kind, ByteRange range) {
        if (static_cast<int>(kind) == held_ && range.start < kHeldBytes) released.wait();
        return absl::OkStatus();
      }}};
  Rig rig_{{&disk_}};
};

struct Held {
  Kind kind;
  uint16_t command;
};
constexpr Held kChanges[] = {{Kind::kWrite, kWrite},
                             {Kind::kFlush, kFlush},
                             {Kind::kTrim, kTrim},
                             {Kind::kWriteZeroes, kWriteZeroes}};
constexpr Held kLooks[] = {{Kind::kRead, kRead}, {Kind::kBlockStatus, kBlockStatus}};

class HeldTest : public BlockingTest, public ::testing::WithParamInterface<Held> {};

TEST_P(HeldTest, AnotherClientGoesOn) {
  Hold(GetParam().kind);
  Client held(rig_.socket_path(), Style::kStructured);
  SendHeld(held, GetParam().command);
  Client other(rig_.socket_path(), Style::kExtended);
  for (const uint16_t command : {kRead, kWrite, kFlush, kTrim, kWriteZeroes, kBlockStatus}) {
    if (command == kFlush && GetParam().command == kFlush) continue;
    EXPECT_EQ(other.Do(At(kHeldBytes, command)).error, 0u) << command;
  }
  other.Disconnect();
  EXPECT_EQ(held.in_flight(), kMany);
  Release();
  ReceiveAll(held);
  held.Disconnect();
}

TEST_P(HeldTest, WhatNeedNotWaitForItGoesOn) {
  Hold(GetParam().kind);
  const bool looks = GetParam().command == kRead || GetParam().command == kBlockStatus;
  Client client(rig_.socket_path(), Style::kStructured);
  SendHeld(client, GetParam().command);
  const uint64_t cookie = client.Send(At(kHeldBytes, looks ? kWrite : kRead));
  EXPECT_EQ(client.Receive().first, cookie);
  Release();
  ReceiveAll(client);
  client.Disconnect();
}

// One alone is worked on by the thread that reads the socket, until that takes long.
TEST_P(HeldTest, BehindOneThatIsHeldAloneTheSocketIsRead) {
  Hold(GetParam().kind);
  const bool looks = GetParam().command == kRead || GetParam().command == kBlockStatus;
  Client client(rig_.socket_path(), Style::kExtended);
  client.Send(At(0, GetParam().command));
  while (disk_.calls(GetParam().kind) == 0) std::this_thread::yield();
  const uint64_t cookie = client.Send(At(kHeldBytes, looks ? kWrite : kRead));
  EXPECT_EQ(client.Receive().first, cookie);
  Release();
  ReceiveAll(client);
  client.Disconnect();
}

TEST_P(HeldTest, AClientThatGoesLeavesNothingBehind) {
  Hold(GetParam().kind);
  {
    Client client(rig_.socket_path(), Style::kStructured);
    SendHeld(client, GetParam().command);
    while (disk_.calls(GetParam().kind) == 0) std::this_thread::yield();
  }
  EXPECT_EQ(disk_.devices(), 1u);
  Release();
  while (rig_.figures().ends[static_cast<size_t>(End::kVanished)] == 0) std::this_thread::yield();
  EXPECT_EQ(disk_.devices(), 0u);
  EXPECT_EQ(rig_.figures().connections, 0u);
  EXPECT_EQ(rig_.figures().bytes_held, 0u);
}

INSTANTIATE_TEST_SUITE_P(Changes, HeldTest, ::testing::ValuesIn(kChanges));
INSTANTIATE_TEST_SUITE_P(Looks, HeldTest, ::testing::ValuesIn(kLooks));

// The end waits, and says nothing of its own.
TEST_F(BlockingTest, DisconnectIsAnsweredAfterWhatCameBefore) {
  Hold(Kind::kFlush);
  Peer peer(rig_.socket_path());
  peer.Send(U32(kFixedNewstyle | kNoZeroes) + Option(kExportName, "disk") +
            Request{.command = kFlush, .cookie = 1}.In(Style::kSimple) +
            Request{.command = kDisc}.In(Style::kSimple));
  EXPECT_EQ(peer.Receive(18), Greeting());
  EXPECT_EQ(peer.Receive(10).size(), 10u);
  Release();
  EXPECT_EQ(peer.ReceiveAll(), U32(kSimpleReplyMagic) + U32(0) + U64(1));
}

}  // namespace
}  // namespace understudy::nbd::script::blocking_test
