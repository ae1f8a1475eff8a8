#include "storage/base/io_gate.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace understudy::base::io_gate_test {
namespace {

TEST(IoGateTest, LetsRequestsThroughUntilItIsClosed) {
  IoGate gate;
  { EXPECT_TRUE(IoGate::Pass(gate).open()); }
  EXPECT_TRUE(gate.Close(absl::ZeroDuration()));
  EXPECT_FALSE(IoGate::Pass(gate).open());
  EXPECT_TRUE(gate.Close(absl::ZeroDuration()));
}

TEST(IoGateTest, ClosingGivesUpOnARequestThatStaysInside) {
  IoGate gate;
  const IoGate::Pass inside(gate);
  EXPECT_FALSE(gate.Close(absl::Milliseconds(20)));
  EXPECT_FALSE(IoGate::Pass(gate).open());
}

TEST(IoGateTest, ClosingWaitsForWhoIsInsideAndNotForWhoIsRefused) {
  IoGate gate;
  std::atomic<int> inside{0};
  std::atomic<int> passed{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      while (!stop) {
        const IoGate::Pass pass(gate);
        if (!pass.open()) continue;  // and tries again at once, as a client that knows no better
        ++inside;
        ++passed;
        std::this_thread::yield();
        --inside;
      }
    });
  }
  while (passed < 1000) std::this_thread::yield();
  EXPECT_TRUE(gate.Close(absl::Seconds(30)));
  EXPECT_EQ(inside.load(), 0);
  const int after = passed.load();
  std::this_thread::yield();
  EXPECT_EQ(passed.load(), after);
  stop = true;
  for (std::thread& client : clients) client.join();
}

}  // namespace
}  // namespace understudy::base::io_gate_test
