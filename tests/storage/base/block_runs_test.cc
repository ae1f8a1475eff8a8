#include "storage/base/block_runs.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace understudy::block_runs_test {
namespace {

using ::testing::ElementsAre;

constexpr uint64_t kMiB = 1 << 20;

BlockRun Data(uint64_t start, uint64_t end) { return {.range = {start, end}}; }
BlockRun Hole(uint64_t start, uint64_t end) {
  return {.range = {start, end}, .zero = true, .hole = true};
}

TEST(BlockRunsTest, NeighboursThatAreAlikeAreJoined) {
  BlockRuns runs(10);
  for (const BlockRun& piece : {Data(0, 1), Data(1, 2), Hole(2, 3), Hole(3, 5), Data(5, 6)}) {
    EXPECT_TRUE(runs.Add(piece));
  }
  EXPECT_THAT(std::move(runs).Take(), ElementsAre(Data(0, 2), Hole(2, 5), Data(5, 6)));
}

TEST(BlockRunsTest, TheLastRunIsWholeBeforeItIsEnough) {
  BlockRuns runs(1);
  EXPECT_TRUE(runs.Add(Data(0, 1)));
  EXPECT_TRUE(runs.Add(Data(1, 2)));
  EXPECT_FALSE(runs.Add(Hole(2, 3)));
  EXPECT_THAT(std::move(runs).Take(), ElementsAre(Data(0, 2)));
}

TEST(BlockRunsTest, ARunOfVeryManyPiecesEndsEarly) {
  BlockRuns runs(1);
  for (uint64_t i = 0; i < BlockRuns::kPiecesMax; ++i) EXPECT_TRUE(runs.Add(Data(i, i + 1)));
  EXPECT_FALSE(runs.Add(Data(BlockRuns::kPiecesMax, BlockRuns::kPiecesMax + 1)));
  EXPECT_THAT(std::move(runs).Take(), ElementsAre(Data(0, BlockRuns::kPiecesMax)));
}

TEST(BlockRunsTest, OfAFileItIsItsDataAndHoles) {
  testing::TempDir dir;
  auto created = base::FileSystem::Posix().Open(dir.File("f"), {.create = true});
  ASSERT_TRUE(created.ok()) << created.status();
  base::File& file = **created;
  ASSERT_TRUE(file.Truncate(8 * kMiB).ok());
  const std::string data(kMiB, 'x');
  const iovec piece = {.iov_base = const_cast<char*>(data.data()), .iov_len = data.size()};
  for (const uint64_t at : {kMiB, 5 * kMiB}) ASSERT_TRUE(file.Write(at, {&piece, 1}).ok());
  BlockRuns all(10);
  EXPECT_TRUE(all.AddFile(file, {kMiB / 2, 8 * kMiB}).value());
  EXPECT_THAT(std::move(all).Take(),
              ElementsAre(Hole(kMiB / 2, kMiB), Data(kMiB, 2 * kMiB), Hole(2 * kMiB, 5 * kMiB),
                          Data(5 * kMiB, 6 * kMiB), Hole(6 * kMiB, 8 * kMiB)));
  BlockRuns first(1);
  EXPECT_FALSE(first.AddFile(file, {kMiB / 2, 8 * kMiB}).value());
  EXPECT_THAT(std::move(first).Take(), ElementsAre(Hole(kMiB / 2, kMiB)));
}

}  // namespace
}  // namespace understudy::block_runs_test
