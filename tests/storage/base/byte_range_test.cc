#include "storage/base/byte_range.h"

#include <gtest/gtest.h>

namespace understudy::byte_range_test {
namespace {

TEST(ByteRangeTest, TouchingRangesDoNotOverlap) {
  EXPECT_FALSE((ByteRange{0, 512}).Overlaps({512, 1024}));
  EXPECT_TRUE((ByteRange{0, 513}).Overlaps({512, 1024}));
}

TEST(ByteRangeTest, IntersectionOfDisjointRangesIsEmpty) {
  EXPECT_TRUE((ByteRange{0, 512}).Intersect({1024, 2048}).empty());
  EXPECT_EQ((ByteRange{0, 1536}).Intersect({1024, 2048}), (ByteRange{1024, 1536}));
}

TEST(ByteRangeTest, RoundingKeepsMultiples) {
  EXPECT_EQ(RoundDown(8191, kBlockBytes), 4096u);
  EXPECT_EQ(RoundUp(4097, kBlockBytes), 8192u);
  EXPECT_EQ(RoundUp(8192, kBlockBytes), 8192u);
}

TEST(ByteRangeTest, AlignmentConcernsBothEnds) {
  EXPECT_TRUE(ByteRange::OfLength(512, 1024).SectorAligned());
  EXPECT_FALSE(ByteRange::OfLength(512, 100).SectorAligned());
  EXPECT_FALSE(ByteRange::OfLength(100, 924).SectorAligned());
}

}  // namespace
}  // namespace understudy::byte_range_test
