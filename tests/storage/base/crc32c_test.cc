#include "storage/base/crc32c.h"

#include <random>
#include <string>

#include <gtest/gtest.h>

namespace understudy::base::crc32c_test {
namespace {

uint32_t Of(const std::string& data) { return Crc32c(data.data(), data.size()); }

TEST(Crc32cTest, MatchesTheVectorsOfRfc3720) {
  std::string ascending;
  std::string descending;
  for (int i = 0; i < 32; ++i) {
    ascending.push_back(static_cast<char>(i));
    descending.push_back(static_cast<char>(31 - i));
  }
  EXPECT_EQ(Of(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Of(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(Of(ascending), 0x46dd794eu);
  EXPECT_EQ(Of(descending), 0x113fdb5cu);
  EXPECT_EQ(Of("123456789"), 0xe3069283u);
  EXPECT_EQ(Of(""), 0u);
}

TEST(Crc32cTest, ExtendingAtEveryPointGivesTheWhole) {
  std::mt19937 random(1);
  std::string data(257, '\0');
  for (char& c : data) c = static_cast<char>(random());
  const uint32_t whole = Of(data);
  for (size_t cut = 0; cut <= data.size(); ++cut) {
    const uint32_t first = Crc32c(data.data(), cut);
    ASSERT_EQ(ExtendCrc32c(first, data.data() + cut, data.size() - cut), whole) << "cut at " << cut;
  }
}

TEST(Crc32cTest, EverySingleBitFlipIsSeen) {
  std::string block(4096, 'x');
  const uint32_t good = Of(block);
  for (size_t bit = 0; bit < block.size() * 8; bit += 7) {
    block[bit / 8] = static_cast<char>(block[bit / 8] ^ (1 << (bit % 8)));
    ASSERT_NE(Of(block), good) << "bit " << bit;
    block[bit / 8] = static_cast<char>(block[bit / 8] ^ (1 << (bit % 8)));
  }
}

}  // namespace
}  // namespace understudy::base::crc32c_test
