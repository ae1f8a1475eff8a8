#include "client/agent/exports.h"

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/agent_state.h"
#include "client/primary.h"
#include "tests/client/fake_transport.h"
#include "tests/testing/temp_dir.h"

namespace understudy::client::exports_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kDiskBytes = 1 << 20;

class ExportsTest : public ::testing::Test {
 protected:
  Exports& Make(const std::vector<PrimaryVolumeOptions>& volumes) {
    PrimaryOptions options{.forwarder = {.group = "vm1"}, .volumes = volumes};
    auto state = AgentState::Open(base::FileSystem::Posix(), dir_.File("state"));
    EXPECT_TRUE(state.ok()) << state.status();
    auto primary =
        Primary::Create(options, base::FileSystem::Posix(), *std::move(state), &transport_);
    EXPECT_TRUE(primary.ok()) << primary.status();
    primary_ = *std::move(primary);
    exports_ = std::make_unique<Exports>(primary_.get());
    return *exports_;
  }
  // One that is read and written, with a hole behind its first 64 KiB.
  PrimaryVolumeOptions Disk() {
    std::ofstream(dir_.File("disk")) << std::string(64 << 10, 'd');
    std::filesystem::resize_file(dir_.File("disk"), kDiskBytes);
    return {.name = "vda", .disk_path = dir_.File("disk"), .size_bytes = kDiskBytes};
  }
  static PrimaryVolumeOptions Forwarded(const std::string& name) {
    return {.name = name, .size_bytes = kDiskBytes};
  }

  testing::TempDir dir_;
  FakeTransport transport_{{kDiskBytes, kDiskBytes}};
  std::unique_ptr<Primary> primary_;
  std::unique_ptr<Exports> exports_;
};

TEST_F(ExportsTest, EachNameOpensItsVolumeAndOfTwoNoneIsTheDefault) {
  Exports& exports = Make({Forwarded("vda"), Forwarded("vdb")});
  EXPECT_THAT(exports.Names(), ElementsAre("vm1/vda", "vm1/vdb"));
  const auto device = exports.Open("vm1/vdb").value();
  EXPECT_EQ(device->name(), "vm1/vdb");
  EXPECT_EQ(device->size_bytes(), kDiskBytes);
  EXPECT_EQ(device->description(), "takes the primary VM's writes only");
  EXPECT_FALSE(device->has_map()) << "without a disk nothing is known of it";
  for (const char* const unknown : {"", "vdb", "vm2/vdb"}) {
    const auto opened = exports.Open(unknown);
    EXPECT_TRUE(absl::IsNotFound(opened.status())) << unknown;
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr("GROUP/VOLUME"));
  }
}

TEST_F(ExportsTest, TheOnlyVolumeIsTheDefaultAndItsDiskIsMapped) {
  const auto device = Make({Disk()}).Open("").value();
  EXPECT_EQ(device->name(), "vm1/vda");
  ASSERT_TRUE(device->has_map());
  const std::vector<BlockRun> runs = device->Map({0, kDiskBytes}, 100).value();
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].range.size(), 64u << 10);
  EXPECT_FALSE(runs[0].hole || runs[0].zero);
  EXPECT_EQ(runs[1].range.size(), kDiskBytes - (64 << 10));
  EXPECT_TRUE(runs[1].hole && runs[1].zero);
  const std::vector<BlockRun> first = device->Map({4096, kDiskBytes}, 1).value();
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].range.size(), (64u << 10) - 4096);
}

TEST_F(ExportsTest, RequestsReachTheVolumeUntilTheAgentShutsDown) {
  const auto device = Make({Disk()}).Open("vm1/vda").value();
  const std::string a(4096, 'a');
  const std::string b(4096, 'b');
  const std::vector<nbd::Write> writes = {{.offset = 0, .data = a},
                                          {.offset = kDiskBytes, .data = a},
                                          {.offset = 4096, .data = b, .fua = true}};
  std::vector<absl::Status> results(writes.size());
  device->WriteAll(writes, results);
  EXPECT_TRUE(results[0].ok()) << results[0];
  EXPECT_FALSE(results[1].ok()) << "beyond the end: the others are done all the same";
  EXPECT_TRUE(results[2].ok()) << results[2];
  ASSERT_TRUE(device->Trim({0, 2048}, false).ok());
  ASSERT_TRUE(device->WriteZeroes({4096, 6144}, ZeroedSpace::kKept, true).ok());
  ASSERT_TRUE(device->Flush().ok());
  std::string read(8192, 'x');
  ASSERT_TRUE(device->Read(0, read).ok());
  EXPECT_EQ(read, std::string(2048, '\0') + std::string(2048, 'a') + std::string(2048, '\0') +
                      std::string(2048, 'b'));

  primary_->Shutdown(absl::ZeroDuration());
  EXPECT_TRUE(absl::IsCancelled(device->Read(0, read)));
  device->WriteAll({writes.data(), 1}, {results.data(), 1});
  EXPECT_TRUE(absl::IsCancelled(results[0]));
  EXPECT_TRUE(absl::IsCancelled(device->Flush()));
}

}  // namespace
}  // namespace understudy::client::exports_test
