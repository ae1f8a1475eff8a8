#include "storage/base/request_log.h"

#include <atomic>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/scripted_clock.h"
#include "tests/testing/temp_dir.h"

namespace understudy::base::request_log_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct TestWaiter : RequestLog::Waiter {
  void OnAnswer(const std::string& answer) override { answers.push_back(answer); }
  void OnPermit(const RequestLog::Permit& permit) override { permits.push_back(permit); }
  std::vector<std::string> answers;
  std::vector<RequestLog::Permit> permits;
};

class RequestLogTest : public ::testing::Test {
 protected:
  RequestLogTest() { Restart(); }
  // As kill -9: what was written is in the file, synced or not.
  void Restart() {
    log_.reset();
    log_ = std::make_unique<RequestLog>(FileSystem::Posix(), path_, clock_, pool_);
  }
  // The permit when it is this call's turn.
  std::optional<RequestLog::Permit> Enter(const std::string& id,
                                          const std::string& call = "Start a",
                                          const std::string& before = "", bool durable = true) {
    waiter_ = std::make_shared<TestWaiter>();
    return log_->Enter({.id = id, .call = call, .before = before, .durable = durable}, waiter_)
        .value();
  }
  void Answer(const std::string& id, const std::string& answer) {
    log_->Leave(id, absl::OkStatus(), answer);
  }

  testing::TempDir dir_;
  const std::string path_ = dir_.path() + "/requests";
  testing::ScriptedClock clock_;
  WorkerPool pool_{"sync", 1};
  std::unique_ptr<RequestLog> log_;
  std::shared_ptr<TestWaiter> waiter_;
};

TEST_F(RequestLogTest, ARepeatedCallGetsTheFirstAnswerOverARestartToo) {
  ASSERT_TRUE(Enter("r1"));
  Answer("r1", std::string("ep\0och\n1", 8));
  for (const bool restarted : {false, true}) {
    if (restarted) Restart();
    EXPECT_FALSE(Enter("r1"));
    EXPECT_THAT(waiter_->answers, ElementsAre(std::string("ep\0och\n1", 8))) << restarted;
  }
}

TEST_F(RequestLogTest, WhoComesWhileTheFirstRunsGetsItsAnswer) {
  ASSERT_TRUE(Enter("r1"));
  EXPECT_FALSE(Enter("r1"));
  const auto second = waiter_;
  EXPECT_FALSE(Enter("r1"));
  const auto third = waiter_;
  EXPECT_THAT(second->answers, IsEmpty());
  EXPECT_TRUE(log_->GiveUp("r1", second.get()));
  EXPECT_FALSE(log_->GiveUp("r1", second.get()));
  Answer("r1", "7");
  EXPECT_THAT(second->answers, IsEmpty());
  EXPECT_THAT(third->answers, ElementsAre("7"));
}

TEST_F(RequestLogTest, AnErrorIsNotRememberedAndHandsOverToWhoWaits) {
  ASSERT_TRUE(Enter("r1", "Start a", "was NONE"));
  EXPECT_FALSE(Enter("r1"));
  const auto second = waiter_;
  log_->Leave("r1", absl::DeadlineExceededError("slow"), "");
  ASSERT_EQ(second->permits.size(), 1u);
  EXPECT_TRUE(second->permits[0].repeated);
  EXPECT_EQ(second->permits[0].before, "was NONE");
  Answer("r1", "7");
  EXPECT_FALSE(Enter("r1"));
  EXPECT_THAT(waiter_->answers, ElementsAre("7"));
}

TEST_F(RequestLogTest, AnErrorThatChangedNothingForgetsTheId) {
  ASSERT_TRUE(Enter("r1", "Start a", "first"));
  log_->Leave("r1", absl::NotFoundError("no disk"), "");
  Restart();
  const auto permit = Enter("r1", "Start b", "second");
  ASSERT_TRUE(permit);
  EXPECT_FALSE(permit->repeated);
  EXPECT_EQ(permit->before, "second");
}

TEST_F(RequestLogTest, ARunWithoutAnOutcomeIsToldToTheNextOverARestartToo) {
  ASSERT_TRUE(Enter("killed", "Start a", "was\tNONE"));
  ASSERT_TRUE(Enter("late", "Stop a", "was RUNNING"));
  log_->Leave("late", absl::CancelledError("gone"), "");
  const auto late = Enter("late", "Stop a", "is DONE");
  ASSERT_TRUE(late);
  EXPECT_TRUE(late->repeated);
  EXPECT_EQ(late->before, "was RUNNING");
  Restart();
  const auto killed = Enter("killed", "Start a", "is RUNNING");
  ASSERT_TRUE(killed);
  EXPECT_TRUE(killed->repeated);
  EXPECT_EQ(killed->before, "was\tNONE");
}

TEST_F(RequestLogTest, AnIdForAnotherCallIsRefusedAndSoIsAMalformedOne) {
  ASSERT_TRUE(Enter("r1", "Start a"));
  const auto enter = [&](const std::string& id, const std::string& call) {
    return log_->Enter({.id = id, .call = call}, waiter_).status();
  };
  EXPECT_THAT(std::string(enter("r1", "Start b").message()), HasSubstr("names another call"));
  Answer("r1", "7");
  Restart();
  EXPECT_EQ(enter("r1", "Stop a").code(), absl::StatusCode::kInvalidArgument);
  for (const std::string& id : {std::string(), std::string("a b"), std::string("\x01"),
                                std::string("\xff"), std::string(129, 'a')}) {
    EXPECT_EQ(enter(id, "Start a").code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(enter(std::string(128, 'a'), "Start a").ok());
  EXPECT_EQ(enter("long", std::string(RequestLog::kCallBytesMax + 1, 'a')).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(RequestLogTest, WhatMeansNothingToAnotherProcessIsForgottenByARestart) {
  ASSERT_TRUE(Enter("r1", "Clone a", "", /*durable=*/false));
  Answer("r1", "7");
  EXPECT_FALSE(Enter("r1", "Clone a"));
  Restart();
  EXPECT_TRUE(Enter("r1", "Clone a"));
}

TEST_F(RequestLogTest, AnswersAreKeptForAnHourAndTheOldestGoFirst) {
  ASSERT_TRUE(Enter("running"));
  ASSERT_TRUE(Enter("old"));
  Answer("old", "1");
  clock_.Advance(absl::Minutes(59));
  EXPECT_FALSE(Enter("old"));
  clock_.Advance(absl::Minutes(2));
  EXPECT_TRUE(Enter("old"));
  Answer("old", "2");
  for (size_t i = 0; i < RequestLog::kRequestsMax; ++i) {
    clock_.Advance(absl::Microseconds(1));
    ASSERT_TRUE(Enter(absl::StrCat("r", i)));
    Answer(absl::StrCat("r", i), "x");
  }
  EXPECT_TRUE(Enter("old"));
  EXPECT_FALSE(Enter("running")) << "what runs is never forgotten";
  EXPECT_FALSE(Enter("r1000"));
  EXPECT_THAT(waiter_->answers, ElementsAre("x"));
}

TEST_F(RequestLogTest, AClockThatIsSetForgetsNoAnswerAndKeepsNoneForLonger) {
  ASSERT_TRUE(Enter("r1"));
  Answer("r1", "7");
  clock_.Jump(absl::Hours(2));
  EXPECT_FALSE(Enter("r1"));
  clock_.Jump(-absl::Hours(4));
  EXPECT_FALSE(Enter("r1"));
  clock_.Advance(absl::Minutes(61));
  EXPECT_TRUE(Enter("r1"));
}

TEST_F(RequestLogTest, TheJournalStaysSmallAndIsReadBackWhenItWasWrittenAnew) {
  const std::string call(10'000, 'c');
  for (int i = 0; i < 400; ++i) {
    ASSERT_TRUE(Enter("same", call));
    log_->Leave("same", absl::NotFoundError("again"), "");
  }
  ASSERT_TRUE(Enter("kept", call));
  Answer("kept", "7");
  EXPECT_LT(FileSystem::Posix().ReadWholeFile(path_).value().size(), 2u << 20);
  Restart();
  EXPECT_FALSE(Enter("kept", call));
  EXPECT_THAT(waiter_->answers, ElementsAre("7"));
}

TEST_F(RequestLogTest, DamageForgetsNoMoreThanItsLine) {
  ASSERT_TRUE(Enter("r1"));
  Answer("r1", "1");
  ASSERT_TRUE(Enter("r2"));
  Answer("r2", "2");
  std::string text = FileSystem::Posix().ReadWholeFile(path_).value();
  text[text.find("end\tr1") + 8] ^= 1;
  std::ofstream(path_) << text << "begin\tr3\t17000";  // and a torn tail
  Restart();
  const auto first = Enter("r1");
  ASSERT_TRUE(first);
  EXPECT_TRUE(first->repeated);
  EXPECT_FALSE(Enter("r2"));
  EXPECT_THAT(waiter_->answers, ElementsAre("2"));
  EXPECT_FALSE(Enter("r3")->repeated);
}

TEST_F(RequestLogTest, AJournalThatCannotBeWrittenFailsNoCall) {
  log_.reset();
  log_ = std::make_unique<RequestLog>(FileSystem::Posix(), dir_.path() + "/none/requests", clock_,
                                      pool_);
  ASSERT_TRUE(Enter("r1"));
  Answer("r1", "1");
  EXPECT_FALSE(Enter("r1"));
  EXPECT_THAT(waiter_->answers, ElementsAre("1"));
}

// Many threads repeat the same calls: each id runs once, everybody gets its answer.
TEST_F(RequestLogTest, OfManyConcurrentRepeatsOneRuns) {
  struct Counting : RequestLog::Waiter {
    explicit Counting(std::atomic<int>& count) : count(count) {}
    void OnAnswer(const std::string&) override { ++count; }
    void OnPermit(const RequestLog::Permit&) override {}
    std::atomic<int>& count;
  };
  std::atomic<int> runs = 0;
  std::atomic<int> answers = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        const std::string id = absl::StrCat("r", i);
        const auto permit =
            log_->Enter({.id = id, .call = "x"}, std::make_shared<Counting>(answers));
        if (!permit.value()) continue;
        ++runs;
        log_->Leave(id, absl::OkStatus(), "x");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(runs, 100);
  EXPECT_EQ(answers, 300);
}

}  // namespace
}  // namespace understudy::base::request_log_test
