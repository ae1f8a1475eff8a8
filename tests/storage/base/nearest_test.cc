#include "storage/base/nearest.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace understudy::base::nearest_test {
namespace {

TEST(NearestTest, AMisspellingIsNear) {
  const std::vector<std::string> names = {"data-dir", "history-epochs", "history-bytes", "listen"};
  EXPECT_EQ(Nearest("history-epochs", names), "history-epochs");
  EXPECT_EQ(Nearest("histroy-epoch", names), "history-epochs");
  EXPECT_EQ(Nearest("DATA_DIR", names), "data-dir");
  EXPECT_EQ(Nearest("datadir", names), "data-dir");
  EXPECT_EQ(Nearest("lisen", names), "listen");
  EXPECT_EQ(Nearest("history", names), "history-epochs");  // the beginning of two
  EXPECT_EQ(DidYouMean("histroy-bytes", names), ", did you mean history-bytes?");
}

TEST(NearestTest, ACommandIsFound) {
  const std::vector<std::string> commands = {"open", "start", "stop", "status", "--epoch", "scrub"};
  EXPECT_EQ(Nearest("stauts", commands), "status");
  EXPECT_EQ(Nearest("Status", commands), "status");
  EXPECT_EQ(Nearest("staus", commands), "status");
  EXPECT_EQ(Nearest("sart", commands), "start");
  EXPECT_EQ(Nearest("--epcoh", commands), "--epoch");
  for (const char* word : {"", "x", "frob", "checkpoint", "opened-by-nobody"}) {
    EXPECT_EQ(Nearest(word, commands), "") << word;
  }
  EXPECT_EQ(Nearest("open", {}), "");
  EXPECT_EQ(Nearest(std::string(1 << 20, 'a'), commands), "");
}

TEST(NearestTest, AnotherWordIsNot) {
  const std::vector<std::string> names = {"data-dir", "history-epochs", "listen", "ack"};
  for (const char* word : {"", "a", "hist", "seed", "agent", "service-host", "port-7410-tcp"}) {
    EXPECT_EQ(Nearest(word, names), "") << word;
  }
  EXPECT_EQ(DidYouMean("seed", names), "");
}

}  // namespace
}  // namespace understudy::base::nearest_test
