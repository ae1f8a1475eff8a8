#include "storage/base/unflushed.h"

#include <atomic>
#include <future>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace understudy::base::unflushed_test {
namespace {

class UnflushedTest : public ::testing::Test {
 protected:
  absl::Status Flush() {
    return unflushed_.Flush([&] {
      ++real_;
      return answer_;
    });
  }

  Unflushed unflushed_;
  std::atomic<int> real_ = 0;
  absl::Status answer_;
};

TEST_F(UnflushedTest, OnlyTheFirstOneAndThoseAfterAChangeAreReal) {
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Flush().ok());
  EXPECT_EQ(real_, 1);
  unflushed_.NoteChange();
  unflushed_.NoteChange();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Flush().ok());
  EXPECT_EQ(real_, 2);
}

TEST_F(UnflushedTest, OneThatFailsLeavesAllAfterItReal) {
  EXPECT_TRUE(Flush().ok());
  unflushed_.NoteChange();
  answer_ = absl::InternalError("injected");
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(Flush().ok());
  EXPECT_EQ(real_, 4);
  answer_ = absl::OkStatus();
  EXPECT_TRUE(Flush().ok());
  EXPECT_TRUE(Flush().ok());
  EXPECT_EQ(real_, 5);
}

TEST_F(UnflushedTest, AChangeThatEndsDuringAFlushIsNotCoveredByIt) {
  EXPECT_TRUE(unflushed_
                  .Flush([&] {
                    unflushed_.NoteChange();
                    return absl::OkStatus();
                  })
                  .ok());
  EXPECT_TRUE(Flush().ok());
  EXPECT_EQ(real_, 1);
}

// While one runs, others come: the next real one is for all of them.
TEST_F(UnflushedTest, ThoseThatWaitForOneShareTheNext) {
  std::promise<void> begun;
  std::promise<void> end;
  std::thread first([&] {
    EXPECT_TRUE(unflushed_
                    .Flush([&] {
                      begun.set_value();
                      end.get_future().wait();
                      return absl::OkStatus();
                    })
                    .ok());
  });
  begun.get_future().wait();
  unflushed_.NoteChange();
  std::vector<std::thread> others;
  for (int i = 0; i < 4; ++i) {
    others.emplace_back([&] { EXPECT_TRUE(Flush().ok()); });
  }
  end.set_value();
  first.join();
  for (std::thread& other : others) other.join();
  EXPECT_EQ(real_, 1);
}

// What is answered lies on the medium: of each thread's own change, behind its flush.
TEST_F(UnflushedTest, WhoeverFlushesFindsItsOwnChangeDurable) {
  std::atomic<uint64_t> written = 0;
  std::atomic<uint64_t> durable = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int change = 0; change < 5000; ++change) {
        const uint64_t mine = written.fetch_add(1) + 1;
        unflushed_.NoteChange();
        ASSERT_TRUE(unflushed_
                        .Flush([&] {
                          durable.store(written.load());
                          return absl::OkStatus();
                        })
                        .ok());
        ASSERT_GE(durable.load(), mine);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace understudy::base::unflushed_test
