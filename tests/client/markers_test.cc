#include "client/markers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace understudy::client::markers_test {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::Duration kNow = absl::Seconds(7);

CheckpointResult At(uint64_t sequence, uint64_t epoch) {
  return {.epoch = Epoch(epoch), .sequence = sequence, .bytes = 4096};
}

uint64_t EpochOf(Markers& markers, uint64_t id) {
  const auto outcome = markers.Take(id);
  return outcome.has_value() && outcome->ok() ? (*outcome)->epoch.value() : 0;
}

TEST(MarkersTest, AMarkerIsPendingUntilItIsDecidedAndTakenOnce) {
  Markers markers;
  const uint64_t id = markers.Add(5, MarkerOwner::kCaller, kNow);
  EXPECT_FALSE(markers.Take(id).has_value());
  EXPECT_THAT(markers.Committed(At(4, 1)), IsEmpty());
  const auto finished = markers.Committed(At(5, 2));
  ASSERT_THAT(finished, SizeIs(1));
  EXPECT_EQ(finished[0].queued_at, kNow);
  const auto outcome = markers.Take(id);
  ASSERT_TRUE(outcome.has_value() && outcome->ok());
  EXPECT_EQ((*outcome)->epoch, Epoch(2));
  EXPECT_EQ((*outcome)->bytes, 4096u);
  EXPECT_EQ(markers.Take(id)->status().code(), absl::StatusCode::kAborted);
}

TEST(MarkersTest, ACommitDecidesEveryMarkerBeforeItToo) {
  Markers markers;
  const uint64_t first = markers.Add(5, MarkerOwner::kCaller, kNow);
  const uint64_t second = markers.Add(9, MarkerOwner::kCaller, kNow);
  const uint64_t third = markers.Add(12, MarkerOwner::kCaller, kNow);
  EXPECT_THAT(markers.Committed(At(9, 8)), SizeIs(2));
  EXPECT_EQ(EpochOf(markers, first), 8u);
  EXPECT_EQ(EpochOf(markers, second), 8u);
  EXPECT_FALSE(markers.Take(third).has_value());
}

TEST(MarkersTest, AnAbandonedMarkerIsAdoptedAlsoWhenItHasFinishedMeanwhile) {
  Markers markers;
  const uint64_t id = markers.Add(5, MarkerOwner::kCaller, kNow);
  EXPECT_EQ(markers.Adopt(6), std::nullopt);
  markers.Abandon(id);
  EXPECT_EQ(markers.Adopt(20), id);
  markers.Abandon(id);
  markers.Committed(At(5, 3));
  EXPECT_EQ(markers.Adopt(7),
            std::nullopt);  // something was queued since: that epoch is not the caller's
  EXPECT_EQ(markers.Adopt(6), id);
  EXPECT_EQ(EpochOf(markers, id), 3u);
}

TEST(MarkersTest, RepeatedMarkersShareOneOperation) {
  Markers markers;
  const uint64_t first = markers.Add(5, MarkerOwner::kCaller, kNow);
  const uint64_t second = markers.Add(6, MarkerOwner::kCaller, kNow);
  const uint64_t later = markers.Add(8, MarkerOwner::kCaller, kNow);
  EXPECT_TRUE(markers.ForgetUnwanted(6));
  markers.Repeat(6, 11);
  markers.Committed(At(8, 1));
  EXPECT_EQ(EpochOf(markers, later), 1u);
  EXPECT_FALSE(markers.Take(first).has_value());
  markers.Committed(At(11, 2));
  EXPECT_EQ(EpochOf(markers, first), 2u);
  EXPECT_EQ(EpochOf(markers, second), 2u);
}

TEST(MarkersTest, AnUnansweredMarkerThatNobodyWaitsForIsForgotten) {
  Markers markers;
  markers.Add(5, MarkerOwner::kSecondary, kNow);
  markers.Abandon(markers.Add(6, MarkerOwner::kCaller, kNow));
  const uint64_t later = markers.Add(9, MarkerOwner::kCaller, kNow);
  markers.Abandon(later);
  EXPECT_FALSE(markers.ForgetUnwanted(8));
  EXPECT_EQ(markers.Adopt(10), later);
  EXPECT_THAT(markers.Committed(At(9, 1)), SizeIs(1));
}

TEST(MarkersTest, AnAbortFailsTheMarkersAfterTheLastCommit) {
  Markers markers;
  const uint64_t committed = markers.Add(2, MarkerOwner::kCaller, kNow);
  const uint64_t passed = markers.Add(5, MarkerOwner::kCaller, kNow);
  const uint64_t named = markers.Add(7, MarkerOwner::kCaller, kNow);
  EXPECT_THAT(markers.Aborted(7, 2, absl::AbortedError("incomplete")), SizeIs(2));
  EXPECT_FALSE(markers.Take(committed).has_value());
  EXPECT_FALSE(markers.Take(passed)->ok());
  EXPECT_FALSE(markers.Take(named)->ok());
}

}  // namespace
}  // namespace understudy::client::markers_test
