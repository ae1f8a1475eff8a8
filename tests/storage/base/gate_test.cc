#include "storage/base/gate.h"

#include <atomic>
#include <thread>

#include <gtest/gtest.h>

namespace understudy::base::gate_test {
namespace {

TEST(GateTest, ACallThatHadToWaitPastItsDeadlineDoesNotGetIn) {
  Gate gate;
  auto first = gate.Enter(Deadline::Never());
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(gate.Enter(Deadline::After(absl::Milliseconds(5))).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(
      gate.Enter(Deadline::After(absl::InfiniteDuration(), [] { return true; })).status().code(),
      absl::StatusCode::kCancelled);
}

TEST(GateTest, AFreeGateAsksNobodyForTheTime) {
  Gate gate;
  EXPECT_TRUE(gate.Enter(Deadline::After(-absl::Seconds(1))).ok());
  EXPECT_TRUE(gate.Enter(Deadline::After(-absl::Seconds(1))).ok());  // and the first one has left
}

// However their deadlines fall, nobody sleeps on beside an open gate, and nobody is inside together.
TEST(GateTest, WhoeverGivesUpLetsTheNextOneIn) {
  Gate gate;
  std::atomic<int> inside = 0;
  const auto call = [&](bool patient) {
    for (int i = 0; i < 500; ++i) {
      const auto pass =
          gate.Enter(patient ? Deadline::Never() : Deadline::After(absl::Microseconds(i)));
      if (patient) {
        ASSERT_TRUE(pass.ok());
      }
      if (!pass.ok()) continue;
      ASSERT_EQ(inside.fetch_add(1), 0);
      if (i % 8 == 0) absl::SleepFor(absl::Microseconds(50));
      inside.fetch_sub(1);
    }
  };
  std::thread one([&] { call(true); });
  std::thread two([&] { call(false); });
  std::thread three([&] { call(false); });
  call(true);
  one.join();
  two.join();
  three.join();
}

}  // namespace
}  // namespace understudy::base::gate_test
