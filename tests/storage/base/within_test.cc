#include "storage/base/within.h"

#include <gtest/gtest.h>

namespace understudy::base::within_test {
namespace {

TEST(WithinTest, SaysWhetherTheTaskHasEndedAndLetsItGoOn) {
  std::promise<void> go_on;
  std::promise<void> ended;
  std::shared_future<void> signal = go_on.get_future().share();
  EXPECT_FALSE(EndsWithin(std::chrono::milliseconds(1), [&ended, signal] {
    signal.wait();
    ended.set_value();
  }));
  go_on.set_value();
  ended.get_future().wait();
  bool done = false;
  EXPECT_TRUE(EndsWithin(std::chrono::minutes(1), [&done] { done = true; }));
  EXPECT_TRUE(done);
}

}  // namespace
}  // namespace understudy::base::within_test
