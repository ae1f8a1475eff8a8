// Block status: what Map() says of the secondary VM's view, against what was written.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/storage/store_fixture.h"
#include "tests/testing/seed.h"

namespace understudy::storage::map_test {
namespace {

constexpr uint64_t kVolumeBytes = 4 << 20;  // four regions
constexpr uint64_t kUnit = 4096;

using Zeroes = std::vector<bool>;  // of each unit: it was last made to read as zeroes

class MapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    f_.options().history_epochs = 4;  // the disk, which is all data, stays as it is
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  }

  uint64_t Pick(uint64_t end) { return random_() % end; }
  ByteRange PickRange() {
    const uint64_t units = Pick(4) == 0 ? 1 + Pick(200) : 1 + Pick(4);
    const uint64_t start = Pick(kVolumeBytes / kUnit - units);
    return {start * kUnit, (start + units) * kUnit};
  }
  void Set(Zeroes& of, ByteRange range, bool zero) {
    for (uint64_t at = range.start; at < range.end; at += kUnit) of[at / kUnit] = zero;
  }
  void WriteOfVm() {
    const ByteRange range = PickRange();
    const bool zero = Pick(2) == 0;
    ASSERT_TRUE((zero ? f_.replica().WriteZeroes(VolumeId(0), range, ZeroedSpace::kGivenBack, false)
                      : f_.replica().Write(VolumeId(0), range.start, f_.Bytes(range.size()), false))
                    .ok());
    Set(shown_, range, zero);
  }
  void WriteOfPrimary() {
    const ByteRange range = PickRange();
    const bool zero = Pick(2) == 0;
    ASSERT_TRUE((zero ? f_.PrimaryZero(0, range.start, range.size())
                      : f_.PrimaryWrite(0, range.start, f_.Bytes(range.size())))
                    .ok());
    Set(primary_, range, zero);
  }

  // Asks on from where the last answer has ended, as a client does.
  Zeroes Ask(uint64_t start, size_t runs_max) {
    Zeroes found;
    while (start < kVolumeBytes) {
      const auto runs = f_.replica().Map(VolumeId(0), {start, kVolumeBytes}, runs_max);
      EXPECT_TRUE(runs.ok() && !runs->empty() && runs->size() <= runs_max) << runs.status();
      if (!runs.ok() || runs->empty()) break;
      for (size_t i = 0; i < runs->size(); ++i) {
        const BlockRun& run = (*runs)[i];
        EXPECT_EQ(run.range.start, start);
        EXPECT_GT(run.range.end, start);
        EXPECT_EQ(run.zero, run.hole);
        if (i > 0) {
          EXPECT_NE((*runs)[i - 1].zero, run.zero) << "neighbours are joined";
        }
        found.insert(found.end(), run.range.size() / kUnit, run.zero);
        start = run.range.end;
      }
    }
    return found;
  }
  void ExpectTold() {
    for (const size_t runs_max : {1, 2, 7, 512}) {
      const uint64_t first = Pick(kVolumeBytes / kUnit);
      const Zeroes expected(shown_.begin() + static_cast<ptrdiff_t>(first), shown_.end());
      EXPECT_TRUE(Ask(first * kUnit, runs_max) == expected) << "from " << first * kUnit;
    }
  }

  std::mt19937_64 random_{testing::TestSeed()};
  StoreFixture f_{random_(), 1, kVolumeBytes};
  Zeroes shown_ = Zeroes(kVolumeBytes / kUnit);
  Zeroes primary_ = Zeroes(kVolumeBytes / kUnit);
};

TEST_F(MapTest, AnswersOfAnyLengthSayWhatWasWritten) {
  for (int epoch = 0; epoch < 4; ++epoch) {
    for (int i = 0; i < 60; ++i) WriteOfPrimary();
    for (int i = 0; i < 60; ++i) WriteOfVm();
    ExpectTold();
    ASSERT_TRUE(f_.Checkpoint().ok());
    shown_ = primary_;
    ExpectTold();
  }
}

TEST_F(MapTest, ARunThatManyExtentsMakeIsOneRun) {
  for (uint64_t at = 0; at < kVolumeBytes; at += 2 * kUnit) {
    ASSERT_TRUE(f_.replica().Write(VolumeId(0), at, f_.Bytes(kUnit), false).ok());
  }
  const auto runs = f_.replica().Map(VolumeId(0), {0, kVolumeBytes}, 512);
  ASSERT_TRUE(runs.ok());
  EXPECT_EQ(*runs, (std::vector<BlockRun>{{.range = {0, kVolumeBytes}}}));
}

// Each look at the disk is followed by a checkpoint that makes other units read as zeroes.
TEST_F(MapTest, AnAnswerEndsWhereACheckpointOvertakesIt) {
  constexpr uint64_t kRegion = 1 << 20;
  const std::string block = f_.Bytes(kUnit);
  int checkpoints = 0;
  const auto checkpoint = [&] {
    for (uint64_t region = 0; region < kVolumeBytes; region += kRegion) {
      for (const uint64_t unit : {0, 10}) {
        const ByteRange range = ByteRange::OfLength(region + unit * kUnit, kUnit);
        const bool zero = checkpoints % 2 == 0;
        ASSERT_TRUE(
            (zero ? f_.PrimaryZero(0, range.start, kUnit) : f_.PrimaryWrite(0, range.start, block))
                .ok());
        Set(primary_, range, zero);
      }
    }
    ASSERT_TRUE(f_.Checkpoint().ok());
    ++checkpoints;
  };
  checkpoint();
  std::vector<Zeroes> states = {primary_};
  f_.files().SetHook([&](testing::FileOperation operation, const std::string&) {
    if (operation == testing::FileOperation::kNextData && states.size() < 40) {
      checkpoint();
      states.push_back(primary_);
    }
    return absl::OkStatus();
  });
  for (uint64_t start = 0; start < kVolumeBytes;) {
    const size_t before = states.size();
    const auto runs = f_.replica().Map(VolumeId(0), {start, kVolumeBytes}, 512);
    ASSERT_TRUE(runs.ok() && !runs->empty()) << runs.status();
    EXPECT_LE(states.size(), before + 2) << "it went on, or began anew";
    Zeroes found;
    for (const BlockRun& run : *runs) {
      found.insert(found.end(), run.range.size() / kUnit, run.zero);
    }
    bool true_once = false;
    for (size_t i = before - 1; i < states.size(); ++i) {
      const auto then = states[i].begin() + static_cast<ptrdiff_t>(start / kUnit);
      true_once = true_once || std::equal(found.begin(), found.end(), then);
    }
    EXPECT_TRUE(true_once) << "from " << start;
    start = runs->back().range.end;
  }
  EXPECT_GT(states.size(), 4u);
  f_.files().SetHook(nullptr);
}

}  // namespace
}  // namespace understudy::storage::map_test
