#include "client/window.h"

#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "storage/base/crc32c.h"

namespace understudy::client::window_test {
namespace {

class WindowTest : public ::testing::Test {
 protected:
  WindowTest() : window_(FramePool::Create(), 2) {}
  Window::Slot Append(uint64_t bytes) {
    Window::Slot slot = window_.AppendData(0, 0, bytes, absl::ZeroDuration());
    std::memset(slot.data, 'x', slot.length);
    return slot;
  }
  Window window_;
};

TEST_F(WindowTest, SequencesBeginAtOneAndHaveNoGaps) {
  EXPECT_EQ(Append(4096).sequence, 1u);
  EXPECT_EQ(window_.Append({.kind = OperationKind::kFlush}, {}), 2u);
  EXPECT_EQ(window_.next_sequence(), 3u);
  EXPECT_EQ(window_.bytes(), 4096u + 2 * kOperationBytes);
}

TEST_F(WindowTest, ACheckpointIsTheLastOperationOfItsFrame) {
  Append(4096);
  window_.Append({.kind = OperationKind::kCheckpoint}, {});
  Append(4096);
  EXPECT_EQ(window_.NextToSend()->operations.size(), 2u);
  const auto second = window_.NextToSend();
  EXPECT_EQ(second->first_sequence, 3u);
  EXPECT_EQ(second->operations.size(), 1u);
  EXPECT_EQ(window_.NextToSend(), nullptr);
}

TEST_F(WindowTest, AFrameIsSentOnlyWhenItsCopiesAreDone) {
  const Window::Slot slot = Append(65536);
  ++slot.frame->copies_pending;
  EXPECT_EQ(window_.NextToSend(), nullptr);
  --slot.frame->copies_pending;
  EXPECT_NE(window_.NextToSend(), nullptr);
}

TEST_F(WindowTest, FramesAreKeptUntilDurableAndSentAgainAfterARewind) {
  for (int i = 0; i < 3; ++i) {
    Append(4096);
    ASSERT_NE(window_.NextToSend(), nullptr);
  }
  window_.Received(3);
  EXPECT_EQ(window_.unreceived_bytes(), 0u);
  window_.Durable(1);
  EXPECT_EQ(window_.first_available_sequence(), 2u);
  window_.Rewind(2);
  EXPECT_EQ(window_.NextToSend()->first_sequence, 3u);
  EXPECT_EQ(window_.NextToSend(), nullptr);
  window_.Durable(3);
  EXPECT_TRUE(window_.empty());
  EXPECT_EQ(window_.bytes(), 0u);
  EXPECT_EQ(window_.undurable_bytes(0), 0u);
}

TEST_F(WindowTest, RangesOfWhatWasForgottenAreRememberedUntilTheyAreDurable) {
  for (uint64_t i = 0; i < 4; ++i) {
    Window::Slot slot = window_.AppendData(i % 2, i * 4096, 4096, absl::Seconds(i));
    std::memset(slot.data, 'x', slot.length);
    ASSERT_NE(window_.NextToSend(), nullptr);
  }
  EXPECT_FALSE(window_.ForgetReceived(10)) << "nothing was received";
  window_.Received(3);
  EXPECT_TRUE(window_.ForgetReceived(2));
  EXPECT_EQ(window_.first_available_sequence(), 3u) << "two ranges, and no more";
  EXPECT_EQ(window_.bytes(), 2 * (4096 + kOperationBytes));
  EXPECT_FALSE(window_.ForgetReceived(2));
  EXPECT_EQ(window_.undurable_bytes(0), 8192u);
  std::vector<std::pair<size_t, uint64_t>> ranges;
  const auto visit = [&](size_t volume, ByteRange range) {
    ranges.emplace_back(volume, range.start);
  };
  window_.ForEachRange(visit);
  EXPECT_EQ(ranges,
            (std::vector<std::pair<size_t, uint64_t>>{{0, 0}, {1, 4096}, {0, 8192}, {1, 12288}}));
  EXPECT_EQ(window_.oldest(), absl::ZeroDuration());
  window_.Durable(1);
  EXPECT_EQ(window_.oldest(), absl::Seconds(1));
  EXPECT_EQ(window_.undurable_bytes(0), 4096u);
  window_.Rewind(3);
  EXPECT_EQ(window_.NextToSend()->first_sequence, 4u);
  window_.Durable(4);
  EXPECT_TRUE(window_.empty());
  EXPECT_EQ(window_.oldest(), std::nullopt);
  EXPECT_EQ(window_.undurable_bytes(1), 0u);
}

TEST_F(WindowTest, AFrameNeverExceedsItsLimitsWhateverTheSizes) {
  uint64_t total = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    for (uint64_t rest = 512 * (1 + i * 37 % 700); rest > 0;) {
      const uint64_t took = Append(rest).length;
      ASSERT_GT(took, 0u);
      ASSERT_EQ(took % kSectorBytes, 0u);
      rest -= took;
      total += took;
    }
  }
  uint64_t sent = 0;
  while (const auto frame = window_.NextToSend()) {
    EXPECT_LE(frame->payload_bytes, 256u << 10);
    uint64_t data = 0;
    for (const Operation& operation : frame->operations) data += operation.payload_bytes();
    EXPECT_EQ(data, frame->payload_bytes);
    sent += data;
  }
  EXPECT_EQ(sent, total);
}

TEST_F(WindowTest, VolumesTravelUnderTheSecondarysIds) {
  window_.AppendData(1, 0, 512, {});
  window_.MapVolumes({5, 9});
  window_.AppendData(0, 0, 512, {});
  const auto frame = window_.NextToSend();
  EXPECT_EQ(frame->operations[0].volume, 9u);
  EXPECT_EQ(frame->operations[1].volume, 5u);
  EXPECT_EQ(window_.undurable_bytes(1), 512u);
  window_.Durable(2);
  EXPECT_EQ(window_.undurable_bytes(1), 0u);
}

}  // namespace
}  // namespace understudy::client::window_test
