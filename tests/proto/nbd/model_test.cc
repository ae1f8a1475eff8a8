// Random requests on random connections against a plain byte array. Each thread has a part of the
// disk and some connections of its own, in any style; what is in flight at once does not overlap,
// so that every answer is known. UNDERSTUDY_SEED replays what is asked for, not how threads meet.
#include <array>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/proto/nbd/peer.h"
#include "tests/testing/seed.h"

namespace understudy::nbd::script::model_test {
namespace {

using understudy::testing::Random;

constexpr int kThreads = 3;
constexpr uint64_t kPartBytes = 1 << 20;
constexpr size_t kDepthMax = 16;
// Of a connection: it neither reads while it sends, nor sends more than the sockets hold.
constexpr uint64_t kInFlightBytesMax = 96 << 10;
constexpr int kSteps = 4000;  // of a thread

class Thread {
 public:
  Thread(const std::string& socket_path, uint64_t part, uint64_t seed)
      : socket_path_(socket_path), start_(part * kPartBytes), random_(seed) {}

  void Run() {
    for (int i = 0; i < kSteps && !::testing::Test::HasFailure(); ++i) {
      std::unique_ptr<Client>& client = clients_[random_() % clients_.size()];
      if (client == nullptr) {
        client = std::make_unique<Client>(socket_path_, static_cast<Style>(random_() % 3));
      } else if (random_() % 200 == 0) {
        End(client);
      } else if (client->in_flight() == kDepthMax ||
                 (client->in_flight() > 0 && random_() % 5 < 2)) {
        Receive(*client);
      } else {
        Send(*client);
      }
    }
    for (std::unique_ptr<Client>& client : clients_) End(client);
  }

  const std::string& bytes() const { return bytes_; }

 private:
  struct Expected {
    Request request;
    std::string data;  // of the range, when it was sent
  };

  void End(std::unique_ptr<Client>& client) {
    if (client == nullptr) return;
    while (client->in_flight() > 0) Receive(*client);
    client->Disconnect();
    client = nullptr;
  }

  // Within the thread's part, offsets from its start; most are small.
  ByteRange RandomRange() {
    const uint64_t sectors_max = random_() % 8 == 0 ? 600 : 16;
    const uint64_t length = (1 + random_() % sectors_max) * 512;
    return ByteRange::OfLength(random_() % ((kPartBytes - length) / 512 + 1) * 512, length);
  }

  bool Meets(ByteRange range, bool changes) const {
    for (const auto& [client, all] : expected_) {
      for (const auto& [cookie, other] : all) {
        const auto& request = other.request;
        const auto taken = ByteRange::OfLength(request.offset - start_, request.length);
        if (taken.Overlaps(range) && (changes || Changes(request.command))) return true;
      }
    }
    return false;
  }

  uint64_t InFlightBytes(const Client& client) {
    uint64_t bytes = 0;
    for (const auto& [cookie, one] : expected_[&client]) bytes += one.request.length;
    return bytes;
  }

  static bool Changes(uint16_t command) {
    return command == kWrite || command == kTrim || command == kWriteZeroes;
  }

  void Send(Client& client) {
    constexpr uint16_t kCommands[] = {kRead, kRead,  kWrite, kWrite,       kWrite,
                                      kTrim, kFlush, kCache, kWriteZeroes, kBlockStatus};
    Request request{.command = kCommands[random_() % std::size(kCommands)]};
    if (request.command == kBlockStatus && client.style() == Style::kSimple) return;
    const ByteRange range = RandomRange();
    if (random_() % 4 == 0) request.flags |= kFua;
    if (InFlightBytes(client) + range.size() > kInFlightBytesMax && client.in_flight() > 0) return;
    if (request.command != kFlush) {
      if (Meets(range, Changes(request.command))) return;
      request.offset = start_ + range.start;
      request.length = range.size();
    }
    if (request.command == kRead && client.style() != Style::kSimple && random_() % 2 == 0) {
      request.flags |= kDf;
    }
    if (request.command == kWriteZeroes && random_() % 2 == 0) request.flags |= kNoHole;
    if (request.command == kBlockStatus && random_() % 2 == 0) request.flags |= kReqOne;
    if (request.command == kWrite) request.payload = random_.Bytes(range.size());
    if (Changes(request.command)) {
      bytes_.replace(range.start, range.size(),
                     request.command == kWrite ? request.payload : std::string(range.size(), '\0'));
    }
    const uint64_t cookie = client.Send(request);
    expected_[&client][cookie] = {request, bytes_.substr(range.start, range.size())};
  }

  void Receive(Client& client) {
    const auto [cookie, reply] = client.Receive();
    const auto found = expected_[&client].find(cookie);
    ASSERT_NE(found, expected_[&client].end());
    const auto& [request, data] = found->second;
    EXPECT_EQ(reply.error, 0u) << "command " << request.command;
    if (request.command == kRead) {
      EXPECT_TRUE(reply.data == data) << request.length << " bytes at " << request.offset;
    }
    if (request.command == kBlockStatus) CheckStatus(request, reply, data);
    expected_[&client].erase(found);
  }

  static void CheckStatus(const Request& request, const Reply& reply, const std::string& data) {
    uint64_t at = 0;
    for (const auto& [length, flags] : reply.status) {
      ASSERT_LE(length, request.length - at);
      const bool zeroes = data.substr(at, length) == std::string(length, '\0');
      EXPECT_TRUE(zeroes || (flags & 2) == 0) << length << " bytes at " << request.offset + at;
      at += length;
    }
    EXPECT_GT(at, 0u);
    EXPECT_TRUE((request.flags & kReqOne) == 0 || reply.status.size() == 1);
  }

  const std::string socket_path_;
  const uint64_t start_;
  Random random_;
  std::string bytes_ = std::string(kPartBytes, '\0');
  std::array<std::unique_ptr<Client>, 3> clients_;
  std::map<const Client*, std::map<uint64_t, Expected>> expected_;
};

void RunModel(MemoryDisk::Options options, uint64_t seed) {
  options.size_bytes = kThreads * kPartBytes;
  MemoryDisk disk(options);
  {
    const Rig rig({&disk});
    std::vector<Thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back(rig.socket_path(), i, seed * kThreads + static_cast<uint64_t>(i));
    }
    std::vector<std::thread> running;
    for (Thread& thread : threads) running.emplace_back([&thread] { thread.Run(); });
    for (std::thread& thread : running) thread.join();
    for (uint64_t i = 0; i < kThreads; ++i) {
      EXPECT_TRUE(disk.Bytes(ByteRange::OfLength(i * kPartBytes, kPartBytes)) ==
                  threads[i].bytes());
    }
    const Figures& figures = rig.figures();
    for (const Figures::OfKind& kind : figures.kinds) {
      EXPECT_GT(kind.requests, 0u);
      EXPECT_EQ(kind.errors, 0u);
    }
    EXPECT_EQ(figures.ends[static_cast<size_t>(End::kVanished)], 0u);
  }
  EXPECT_EQ(disk.devices(), 0u);
}

TEST(ModelTest, WritesThatAreTakenAtOnce) { RunModel({}, understudy::testing::TestSeed()); }

TEST(ModelTest, WritesOfWhichSomeAreTakenAtOnce) {
  RunModel({.try_write_max = 1}, understudy::testing::TestSeed());
}

// Every request lets others go first.
TEST(ModelTest, RequestsThatWait) {
  RunModel({.before =
                [](Kind, ByteRange range) {
                  if (range.start % 1024 == 0) {
                    std::this_thread::sleep_for(std::chrono::microseconds(100));
                  }
                  return absl::OkStatus();
                }},
           understudy::testing::TestSeed());
}

}  // namespace
}  // namespace understudy::nbd::script::model_test
