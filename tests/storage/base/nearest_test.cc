#include "storage/base/nearest.h"

#include <gtest/gtest.h>

namespace understudy::base::nearest_test {
namespace {

TEST(NearestTest, FindsWhatSomebodyMeant) {
  const std::vector<std::string> commands = {"open", "start", "stop", "status", "--epoch", "scrub"};
  EXPECT_EQ(Nearest("stauts", commands), "status");
  EXPECT_EQ(Nearest("Status", commands), "status");
  EXPECT_EQ(Nearest("staus", commands), "status");
  EXPECT_EQ(Nearest("sart", commands), "start");
  EXPECT_EQ(Nearest("--epcoh", commands), "--epoch");
}

TEST(NearestTest, NothingIsLikeSomethingElse) {
  const std::vector<std::string> commands = {"open", "stop", "status"};
  for (const char* word : {"", "x", "frob", "checkpoint", "opened-by-nobody"}) {
    EXPECT_EQ(Nearest(word, commands), "") << word;
  }
  EXPECT_EQ(Nearest("open", {}), "");
  EXPECT_EQ(Nearest(std::string(1 << 20, 'a'), commands), "");
}

}  // namespace
}  // namespace understudy::base::nearest_test
