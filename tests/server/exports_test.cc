#include "server/nbd/exports.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/harness.h"

namespace understudy::server::exports_test {
namespace {

using ::testing::ElementsAre;
using testing::Harness;
using ::testing::HasSubstr;
using testing::OneVolume;
using testing::Soon;

std::string WhyNot(Exports& exports, const std::string& name) {
  const auto opened = exports.Open(name);
  EXPECT_TRUE(absl::IsNotFound(opened.status())) << name;
  return std::string(opened.status().message());
}

TEST(ExportsTest, EachNameOfAVolumeOpensItAndTheOnlyOneNeedsNone) {
  Harness harness;
  harness.Start();
  Exports exports(&harness.service);
  EXPECT_THAT(exports.Names(), ElementsAre("vm1/disk0"));
  for (const char* const name : {"vm1/disk0", ""}) {
    const auto device = exports.Open(name).value();
    EXPECT_EQ(device->name(), "vm1/disk0");
    EXPECT_EQ(device->size_bytes(), 1u << 20);
    EXPECT_TRUE(device->has_map());
  }
  EXPECT_EQ(exports.Open("")->get()->description(), "the standby's disk, as its VM sees it");
  EXPECT_THAT(WhyNot(exports, "vm1/none"), HasSubstr("use GROUP/VOLUME"));
  storage::GroupSpec other = OneVolume("vm2");
  other.volumes[0].top_id = "top";
  ASSERT_TRUE(harness.service.Open(Mode::kSecondary, other, Soon()).ok());
  EXPECT_EQ(exports.Open("top").value()->name(), "vm2/disk0");
  EXPECT_THAT(WhyNot(exports, ""), HasSubstr("GROUP/VOLUME"));
}

TEST(ExportsTest, AClientIsConnectedFromConnectUntilItsDeviceGoes) {
  Harness harness;
  harness.Start();
  Exports exports(&harness.service);
  {
    const auto looks = exports.Open("vm1/disk0").value();
    const auto uses = exports.Open("vm1/disk0").value();
    EXPECT_EQ(harness.group->ConnectionFiles(), 0u);
    uses->Connect();
    EXPECT_EQ(harness.group->ConnectionFiles(), 1u);
  }
  EXPECT_EQ(harness.group->ConnectionFiles(), 0u);
}

TEST(ExportsTest, RequestsReachTheVolumeUntilTheServiceShutsDown) {
  Harness harness;
  harness.Start();
  Exports exports(&harness.service);
  const auto device = exports.Open("vm1/disk0").value();
  const std::string a(4096, 'a');
  const std::string b(4096, 'b');
  const std::vector<nbd::Write> writes = {{.offset = 0, .data = a},
                                          {.offset = 4096, .data = b, .fua = true}};
  std::vector<absl::Status> results(writes.size());
  device->WriteAll(writes, results);
  EXPECT_TRUE(results[0].ok() && results[1].ok());
  EXPECT_EQ(harness.replica().disk(0).substr(0, 8192), a + b);
  ASSERT_TRUE(device->Trim({0, 4096}, false).ok());
  ASSERT_TRUE(device->WriteZeroes({4096, 6144}, ZeroedSpace::kKept, true).ok());
  EXPECT_EQ(harness.replica().disk(0).substr(0, 8192),
            std::string(6144, '\0') + std::string(2048, 'b'));
  ASSERT_TRUE(device->Flush().ok());
  std::string read(2048, 'x');
  ASSERT_TRUE(device->Read(6144, read).ok());
  EXPECT_EQ(read, std::string(2048, 'b'));

  harness.replica().FailIo(absl::DataLossError("bad block"));
  device->WriteAll(writes, results);
  EXPECT_TRUE(absl::IsDataLoss(results[0]) && absl::IsDataLoss(results[1]));

  harness.service.Shutdown();
  device->WriteAll(writes, results);
  EXPECT_TRUE(absl::IsCancelled(results[0]) && absl::IsCancelled(results[1]));
  EXPECT_TRUE(absl::IsCancelled(device->Read(0, read)));
  EXPECT_TRUE(absl::IsCancelled(device->Flush()));
  EXPECT_TRUE(absl::IsCancelled(device->Map({0, 4096}, 1).status()));
}

}  // namespace
}  // namespace understudy::server::exports_test
