#include "storage/base/event_journal.h"

#include <atomic>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include <gtest/gtest.h>

namespace understudy::base::event_journal_test {
namespace {

using Position = EventJournal::Position;

Event Checkpoint(const std::string& group, uint64_t epoch) {
  return {.kind = EventKind::kCheckpoint, .group = group, .epoch = Epoch(epoch)};
}

// The epochs of everything that can be read from `position` on; moves it.
std::vector<uint64_t> ReadAll(const EventJournal& journal, Position& position,
                              const std::string& group = "") {
  std::vector<uint64_t> epochs;
  while (true) {
    const EventJournal::Reading reading = journal.Read(position, group);
    EXPECT_FALSE(reading.gap);
    position = reading.position;
    if (!reading.event) return epochs;
    EXPECT_EQ(reading.event->number, position.number);
    epochs.push_back(reading.event->epoch.value());
  }
}

TEST(EventJournalTest, WhoComesBackGetsExactlyWhatWasMissed) {
  EventJournal journal(7, Clock::Real());
  Position position = journal.End();
  EXPECT_EQ(position, (Position{7, 0}));
  for (uint64_t epoch = 1; epoch <= 3; ++epoch) journal.Append(Checkpoint("vm1", epoch));
  EXPECT_EQ(ReadAll(journal, position), (std::vector<uint64_t>{1, 2, 3}));
  EXPECT_EQ(ReadAll(journal, position), std::vector<uint64_t>{});
  for (uint64_t epoch = 4; epoch <= 5; ++epoch) journal.Append(Checkpoint("vm1", epoch));
  Position again = position;
  EXPECT_EQ(ReadAll(journal, position), (std::vector<uint64_t>{4, 5}));
  EXPECT_EQ(ReadAll(journal, again), (std::vector<uint64_t>{4, 5}));
  EXPECT_EQ(again, (Position{7, 5}));
  EXPECT_EQ(again, journal.End());
}

TEST(EventJournalTest, OtherGroupsArePassedOverAndDoNotHoldThePositionBack) {
  EventJournal journal(7, Clock::Real());
  Position position = journal.End();
  journal.Append(Checkpoint("vm1", 1));
  journal.Append(Checkpoint("vm2", 50));
  journal.Append(Checkpoint("vm1", 2));
  journal.Append(Checkpoint("vm2", 51));
  EXPECT_EQ(ReadAll(journal, position, "vm1"), (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(position, (Position{7, 4}));
}

TEST(EventJournalTest, APositionBeforeTheRingIsAGapAndTheNextOneIsNot) {
  EventJournal journal(7, Clock::Real(), 10 * sizeof(Event));
  for (uint64_t epoch = 1; epoch <= 100; ++epoch) journal.Append(Checkpoint("g", epoch));
  // Whichever the oldest one is: a position from just before it on misses nothing.
  uint64_t oldest = 1;
  while (journal.Read({7, oldest - 1}, "").gap) ++oldest;
  EXPECT_GT(oldest, 90u) << "the bound is one of bytes";
  EXPECT_LT(oldest, 100u);
  EXPECT_EQ(journal.Read({7, oldest - 1}, "").event->epoch, Epoch(oldest));
  const EventJournal::Reading lost = journal.Read({7, oldest - 2}, "");
  EXPECT_TRUE(lost.gap);
  EXPECT_FALSE(lost.event.has_value());
  EXPECT_EQ(lost.position, (Position{7, 100}));
}

TEST(EventJournalTest, LongTextsCountTowardsTheBound) {
  EventJournal journal(7, Clock::Real(), 100'000);
  for (int i = 0; i < 100; ++i) {
    Event event{.kind = EventKind::kError, .group = "g"};
    event.error.message = std::string(10'000, 'x');
    journal.Append(event);
  }
  EXPECT_TRUE(journal.Read({7, 89}, "").gap);
  EXPECT_FALSE(journal.Read({7, 95}, "").gap);
}

TEST(EventJournalTest, APositionOfAnotherRunOrOfTheFutureIsAGap) {
  EventJournal journal(7, Clock::Real());
  journal.Append(Checkpoint("g", 1));
  EXPECT_TRUE(journal.Read({8, 1}, "").gap);
  EXPECT_TRUE(journal.Read({8, 0}, "").gap);
  EXPECT_TRUE(journal.Read({7, 2}, "").gap);
  EXPECT_TRUE(journal.Read({7, ~0ULL}, "").gap);
  EXPECT_FALSE(journal.Read({7, 1}, "").gap);
  EXPECT_NE(EventJournal::NewRun(), EventJournal::NewRun());
}

TEST(EventJournalTest, TokensAreSixteenBytesAndReadBack) {
  const Position position{0x0102030405060708, 0xf00000000000000f};
  const std::string token = EncodePosition(position);
  EXPECT_EQ(token, std::string("\x01\x02\x03\x04\x05\x06\x07\x08\xf0\0\0\0\0\0\0\x0f", 16));
  EXPECT_EQ(*DecodePosition(token), position);
  EXPECT_EQ(DecodePosition("short").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DecodePosition(token + "x").status().code(), absl::StatusCode::kInvalidArgument);
}

// Readers at their own pace, one with a filter, while several threads append: nothing is left out, doubled or out of order.
TEST(EventJournalTest, ConcurrentReadersMissNothing) {
  constexpr uint64_t kEach = 2000;
  EventJournal journal(7, Clock::Real());
  std::vector<std::thread> threads;
  for (int writer = 0; writer < 3; ++writer) {
    threads.emplace_back([&journal, writer] {
      for (uint64_t epoch = 1; epoch <= kEach; ++epoch) {
        journal.Append(Checkpoint(absl::StrCat("vm", writer), epoch));
      }
    });
  }
  for (const char* group : {"vm0", "vm2"}) {
    threads.emplace_back([&journal, group] {
      Position position{7, 0};
      uint64_t next = 1;
      while (next <= kEach) {
        for (const uint64_t epoch : ReadAll(journal, position, group)) ASSERT_EQ(epoch, next++);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Position position{7, 0};
  EXPECT_EQ(ReadAll(journal, position).size(), 3 * kEach);
}

TEST(EventJournalTest, TheListenerIsToldOfEachAndNeverAfterItWasTakenAway) {
  class Counter : public EventListener {
   public:
    void OnEvent() override {
      EXPECT_TRUE(listening);
      ++calls;
    }
    std::atomic<bool> listening{true};
    std::atomic<int> calls{0};
  } counter;
  EventJournal journal(7, Clock::Real());
  journal.Append(Checkpoint("g", 1));
  journal.SetListener(&counter);
  std::thread writer([&journal] {
    for (uint64_t epoch = 2; epoch <= 500; ++epoch) journal.Append(Checkpoint("g", epoch));
  });
  while (counter.calls < 10) std::this_thread::yield();
  journal.SetListener(nullptr);
  counter.listening = false;
  writer.join();
  const int calls = counter.calls;
  journal.Append(Checkpoint("g", 501));
  EXPECT_EQ(counter.calls, calls);
}

}  // namespace
}  // namespace understudy::base::event_journal_test
