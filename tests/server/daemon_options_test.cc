#include "server/daemon_options.h"

#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace understudy::server::daemon_options_test {
namespace {

using ::testing::HasSubstr;

TEST(DaemonOptionsTest, BytesTakeBinaryUnits) {
  EXPECT_EQ(ParseBytes("0").value(), 0u);
  EXPECT_EQ(ParseBytes("64M").value(), 64u << 20);
  EXPECT_EQ(ParseBytes("2T").value(), 2ULL << 40);
  for (const char* const bad :
       {"", "M", "-1", "1.5G", "12Q", "99999999999999999999", "99999999999T"}) {
    EXPECT_EQ(ParseBytes(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(DaemonOptionsTest, EveryProblemIsNamedAtOnce) {
  DaemonOptions options;
  options.listen = "nonsense";
  options.metrics_listen = "unix:/not/allowed";
  options.nbd_socket = std::string(200, 'x');
  options.store.segment_bytes = 12;
  options.store.history_bytes = 16 << 20;
  options.store.overlay_bytes_max = 12 << 20;
  options.store.overlay_bytes_total = 11 << 20;
  const absl::Status status = options.Validate();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  for (const char* const flag :
       {"--data-dir", "--listen", "--metrics-listen", "--nbd-socket", "--segment-bytes",
        "--overlay-bytes-max 12582912 of one group is more",
        "--history-bytes 16777216 leaves nothing"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(flag));
  }
}

TEST(DaemonOptionsTest, EachKeySetsWhatItNames) {
  DaemonOptions options;
  ASSERT_TRUE(options.Set("data-dir", "/srv/data").ok());
  ASSERT_TRUE(options.Set("disk-dir", "/srv/a").ok());
  ASSERT_TRUE(options.Set("disk-dir", "/srv/b").ok());
  ASSERT_TRUE(options.Set("durability", "none").ok());
  ASSERT_TRUE(options.Set("apply-bytes-per-second", "10M").ok());
  ASSERT_TRUE(options.Set("nbd-socket", "/run/nbd.sock").ok());
  ASSERT_TRUE(options.Set("nbd-socket-mode", "606").ok());
  ASSERT_TRUE(options.Set("nbd-socket-group", "0").ok());
  ASSERT_TRUE(options.Set("history-epochs", "24").ok());
  ASSERT_TRUE(options.Set("history-bytes", "1G").ok());
  ASSERT_TRUE(options.Set("overlay-bytes-max", "4G").ok());
  ASSERT_TRUE(options.Set("overlay-bytes-total", "1T").ok());
  ASSERT_TRUE(options.Set("reserve-disk-space", "false").ok());
  EXPECT_EQ(options.store.data_dir, "/srv/data");
  EXPECT_EQ(options.nbd_socket, "/run/nbd.sock");
  EXPECT_EQ(options.store.disk_dirs, (std::vector<std::string>{"/srv/a", "/srv/b"}));
  EXPECT_EQ(options.nbd_access.mode, "606");
  EXPECT_EQ(options.nbd_access.group, "0");
  EXPECT_FALSE(options.store.checkpoint_durable);
  EXPECT_EQ(options.store.apply_bytes_per_second, 10u << 20);
  EXPECT_EQ(options.store.history_epochs, 24u);
  EXPECT_EQ(options.store.history_bytes, 1u << 30);
  EXPECT_EQ(options.store.overlay_bytes_max, 4ULL << 30);
  EXPECT_EQ(options.store.overlay_bytes_total, 1ULL << 40);
  EXPECT_FALSE(options.store.reserve_disk_space);
}

TEST(DaemonOptionsTest, PathsBecomeAbsolute) {
  const std::string here = std::filesystem::current_path().string();
  DaemonOptions options;
  for (const char* const key : {"data-dir", "disk-dir", "nbd-socket"}) {
    ASSERT_TRUE(options.Set(key, "./a//b").ok()) << key;
  }
  EXPECT_EQ(options.store.data_dir, here + "/a/b");
  EXPECT_EQ(options.store.disk_dirs, std::vector<std::string>{here + "/a/b"});
  EXPECT_EQ(options.nbd_socket, here + "/a/b");
}

TEST(DaemonOptionsTest, AnUnknownKeyIsRefused) {
  DaemonOptions options;
  EXPECT_EQ(options.Set("colour", "blue").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(options.Set("durability", "maybe").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(options.Set("reserve-disk-space", "1").code(), absl::StatusCode::kInvalidArgument);
  for (const char* const bad : {"", "-1", "+1", "10K", "ten"}) {
    EXPECT_EQ(options.Set("history-epochs", bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace understudy::server::daemon_options_test
