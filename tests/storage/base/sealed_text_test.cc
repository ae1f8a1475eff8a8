#include "storage/base/sealed_text.h"

#include <string>

#include <gtest/gtest.h>

namespace understudy::base::sealed_text_test {
namespace {

constexpr absl::string_view kHead = "understudy test 1\n";

// Files of earlier releases are read, and theirs read ours.
TEST(SealedTextTest, TheBytesAreThoseThatEarlierReleasesWrote) {
  EXPECT_EQ(
      SealText("understudy contacts 1\n", "0000000000000007000000000000000a 1700000000000000\n"),
      "understudy contacts 1\n0000000000000007000000000000000a 1700000000000000\n"
      "crc32c d404d563\n");
  EXPECT_EQ(SealText("understudy errors 1\n", "era 7\n"),
            "understudy errors 1\nera 7\ncrc32c 7e0328de\n");
}

TEST(SealedTextTest, WhatWasSealedIsReadAgain) {
  for (const absl::string_view body : {"", "a line\n", "crc32c of something\ncrc32c \n"}) {
    const std::string text = SealText(kHead, body);
    EXPECT_EQ(UnsealText(kHead, text).value(), body);
  }
}

TEST(SealedTextTest, EveryDamagedByteAndEveryMissingEndIsSeen) {
  const std::string text = SealText(kHead, "one\ntwo\n");
  for (size_t i = 0; i < text.size(); ++i) {
    std::string damaged = text;
    damaged[i] ^= 1;
    EXPECT_TRUE(absl::IsDataLoss(UnsealText(kHead, damaged).status())) << i;
    EXPECT_TRUE(absl::IsDataLoss(UnsealText(kHead, text.substr(0, i)).status())) << i;
  }
  EXPECT_FALSE(UnsealText(kHead, text + "\n").ok());
  EXPECT_EQ(UnsealText("understudy test 2\n", text).status().message(), "it is of another version");
}

}  // namespace
}  // namespace understudy::base::sealed_text_test
