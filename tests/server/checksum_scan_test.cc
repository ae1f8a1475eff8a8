// What Checksums says of a range, slice by slice, and when it stops saying anything.
#include "server/checksum_scan.h"

#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/block_hash.h"
#include "storage/base/reason.h"
#include "tests/server/harness.h"

namespace understudy::server::checksum_scan_test {
namespace {

using Content = ChecksumSlice::Content;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

class ChecksumScanTest : public ::testing::Test {
 protected:
  explicit ChecksumScanTest(uint64_t size_bytes = 200 * kMiB + 512)
      : service_(store_, base::Clock::Real()) {
    group_ = service_.Open(Mode::kSecondary, testing::OneVolume("vm1", size_bytes), testing::Soon())
                 .value()
                 .group;
    const StartOutcome started = group_->Start(true, {}, testing::Soon()).value();
    query_ = {.group = "vm1",
              .incarnation = started.incarnation,
              .term = started.term,
              .volume = "disk0",
              .offset = 0,
              .length = size_bytes};
  }
  testing::FakeReplica& replica() { return *store_.replicas.at("vm1"); }

  absl::StatusOr<std::vector<ChecksumSlice>> Scan() {
    auto scan = ChecksumScan::Begin(service_, query_);
    if (!scan.ok()) return scan.status();
    std::vector<ChecksumSlice> slices;
    while (true) {
      auto slice = (*scan)->Next();
      if (!slice.ok()) return slice.status();
      if (!slice->has_value()) return slices;
      slices.push_back(**std::move(slice));
    }
  }
  absl::Status Refusal() { return Scan().status(); }
  static std::string HashesOf(const std::string& data) {
    std::string hashes;
    base::AppendBlockHashes(data, &hashes);
    return hashes;
  }

  testing::FakeStore store_;
  Service service_;
  std::shared_ptr<Group> group_;
  ChecksumQuery query_;
};

TEST_F(ChecksumScanTest, ZeroesAreMergedAndDataIsHashedByTheMiB) {
  const std::string data(3 * 4096, 'x');
  replica().SetReceived(0, 130 * kMiB + 8192, data);
  const auto slices = Scan();
  ASSERT_TRUE(slices.ok()) << slices.status();
  std::vector<ByteRange> ranges;
  for (const ChecksumSlice& slice : *slices) {
    ranges.push_back(slice.range);
    const bool has_data = slice.range.start == 130 * kMiB;
    EXPECT_EQ(slice.content, has_data ? Content::kHashes : Content::kZero);
    if (!has_data) continue;
    std::string whole(kMiB, '\0');
    whole.replace(8192, data.size(), data);
    EXPECT_EQ(slice.hashes, HashesOf(whole));
  }
  const uint64_t end = query_.length;
  EXPECT_THAT(ranges,
              ElementsAre(ByteRange{0, 64 * kMiB}, ByteRange{64 * kMiB, 128 * kMiB},
                          ByteRange{128 * kMiB, 130 * kMiB}, ByteRange{130 * kMiB, 131 * kMiB},
                          ByteRange{131 * kMiB, 195 * kMiB}, ByteRange{195 * kMiB, end}));
}

TEST_F(ChecksumScanTest, TheLastBlockMayBeShort) {
  replica().SetReceived(0, 200 * kMiB, std::string(512, 'x'));
  query_.offset = 200 * kMiB - 4096;
  query_.length = 4096 + 512;
  const auto slices = Scan();
  ASSERT_TRUE(slices.ok()) << slices.status();
  ASSERT_EQ(slices->size(), 2u);
  EXPECT_EQ(slices->at(0).content, Content::kZero);
  EXPECT_EQ(slices->at(1).range, (ByteRange{200 * kMiB, 200 * kMiB + 512}));
  EXPECT_EQ(slices->at(1).hashes, HashesOf(std::string(512, 'x')));
}

TEST_F(ChecksumScanTest, AFragmentedDiskIsReadOnceAndInWholeSlices) {
  for (uint64_t at = 0; at < 20 * kMiB; at += 8192) replica().SetReceived(0, at, "data");
  query_.length = 20 * kMiB;
  const auto slices = Scan();
  ASSERT_TRUE(slices.ok()) << slices.status();
  EXPECT_EQ(slices->size(), 20u);
  EXPECT_EQ(replica().received_reads().size(), 20u);
}

TEST_F(ChecksumScanTest, WhatCannotBeReadIsASliceAndLatched) {
  for (uint64_t at = 0; at < 4 * kMiB; at += kMiB) replica().SetReceived(0, at, "data");
  replica().SetUnreadable({kMiB + 4096, kMiB + 8192});
  query_.length = 4 * kMiB;
  const auto slices = Scan();
  ASSERT_TRUE(slices.ok()) << slices.status();
  ASSERT_EQ(slices->size(), 4u);
  EXPECT_EQ(slices->at(0).content, Content::kHashes);
  EXPECT_EQ(slices->at(1).content, Content::kUnreadable);
  EXPECT_EQ(slices->at(1).range, (ByteRange{kMiB, 2 * kMiB}));
  EXPECT_EQ(slices->at(2).content, Content::kHashes);
  const auto report = group_->GetError();
  ASSERT_TRUE(report.ok());
  ASSERT_EQ(report->errors.size(), 1u);
  EXPECT_EQ(report->errors[0].operation, "read");
  EXPECT_EQ(report->errors[0].volume, "disk0");
}

TEST_F(ChecksumScanTest, AnEmptyRangeHasNoSlices) {
  query_.length = 0;
  EXPECT_EQ(Scan().value().size(), 0u);
}

TEST_F(ChecksumScanTest, RefusesWhatIsNotThere) {
  query_.volume = "disk7";
  EXPECT_EQ(Refusal().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(Refusal().message()), HasSubstr("group vm1 has no volume \"disk7\""));
  query_.group = "vm7";
  EXPECT_EQ(Refusal().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(HasReason(Refusal(), kReasonUnknownGroup));
}

TEST_F(ChecksumScanTest, RefusesRangesThatAreNoBlocksOfTheVolume) {
  const uint64_t size_bytes = query_.length;
  const auto refusal = [&](uint64_t offset, uint64_t length) {
    query_.offset = offset;
    query_.length = length;
    return Refusal().code();
  };
  EXPECT_EQ(refusal(512, 4096), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal(0, 512), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal(0, size_bytes + 512), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(refusal(4096, ~uint64_t{0}), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(refusal(size_bytes + 3584, 0), absl::StatusCode::kOutOfRange);
}

TEST_F(ChecksumScanTest, AnotherIncarnationOrTermIsFenced) {
  const ChecksumQuery good = query_;
  query_.term = good.term.Next();
  EXPECT_TRUE(HasReason(Refusal(), kReasonFenced)) << Refusal();
  query_.term = Term();
  EXPECT_TRUE(HasReason(Refusal(), kReasonFenced)) << Refusal();
  query_ = good;
  query_.incarnation.low ^= 1;
  EXPECT_TRUE(HasReason(Refusal(), kReasonFenced)) << Refusal();
  query_ = good;
  EXPECT_EQ(Refusal(), absl::OkStatus());
}

TEST_F(ChecksumScanTest, AStageThatTakesNoWritesRefusesAsAHandshake) {
  replica().Mutate([](storage::ReplicaState& state) { state.stage = Stage::kNone; });
  EXPECT_TRUE(HasReason(Refusal(), kReasonNotRunning)) << Refusal();
  for (const Stage stage : {Stage::kFailover, Stage::kFailoverFailed, Stage::kDone}) {
    replica().Mutate([&](storage::ReplicaState& state) { state.stage = stage; });
    EXPECT_TRUE(HasReason(Refusal(), kReasonFenced)) << Refusal();
  }
}

TEST_F(ChecksumScanTest, AfterAFailoverThereAreNoMoreSlices) {
  auto scan = ChecksumScan::Begin(service_, query_);
  ASSERT_TRUE(scan.ok()) << scan.status();
  ASSERT_TRUE((*scan)->Next().ok());
  ASSERT_TRUE(group_->Stop({.failover = true}, testing::Soon()).ok());
  const absl::Status ended = (*scan)->Next().status();
  EXPECT_TRUE(HasReason(ended, kReasonFenced)) << ended;
  const auto reason = ReasonOf(ended);
  EXPECT_EQ(reason->metadata.at("term"), "2");
}

TEST_F(ChecksumScanTest, AtShutdownThereAreNoMoreSlices) {
  auto scan = ChecksumScan::Begin(service_, query_);
  ASSERT_TRUE(scan.ok()) << scan.status();
  ASSERT_TRUE(service_.Shutdown());
  EXPECT_EQ((*scan)->Next().status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace understudy::server::checksum_scan_test
