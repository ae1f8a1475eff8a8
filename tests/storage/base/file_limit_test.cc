#include "storage/base/file_limit.h"

#include <string>
#include <sys/resource.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace understudy::base::file_limit_test {
namespace {

using ::testing::HasSubstr;

TEST(FileLimitTest, WhatWouldTakeTheLastFilesIsRefusedWithTheNumbers) {
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit few = before;
  few.rlim_cur = 200;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  EXPECT_TRUE(CheckFileLimit("group vm1", 7, 100).ok());
  const int first = dup(0);
  EXPECT_TRUE(CheckFileLimit("group vm1", 1, 0).ok());
  const absl::Status refused = CheckFileLimit("group vm1", 7, 193);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  for (const char* const text :
       {"group vm1 needs 7 open files", "of the 200", "193 more are kept", "LimitNOFILE="}) {
    EXPECT_THAT(std::string(refused.message()), HasSubstr(text));
  }
  // What is open counts: so many more, so many fewer.
  uint64_t free = 0;
  while (CheckFileLimit("", free + 1).ok()) ++free;
  const int second = dup(0);
  EXPECT_FALSE(CheckFileLimit("", free).ok());
  EXPECT_TRUE(CheckFileLimit("", free - 1).ok());
  close(first);
  close(second);
  setrlimit(RLIMIT_NOFILE, &before);
}

}  // namespace
}  // namespace understudy::base::file_limit_test
