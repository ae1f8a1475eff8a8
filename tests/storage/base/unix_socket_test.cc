#include "storage/base/unix_socket.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <utility>

#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"
#include "tests/testing/unix_socket.h"

namespace understudy::base::unix_socket_test {
namespace {

using ::understudy::testing::TempDir;

bool Mentions(const absl::Status& status, const std::string& text) {
  return std::string(status.message()).find(text) != std::string::npos;
}

TEST(ClaimUnixSocketTest, NothingThereIsFree) {
  TempDir dir;
  EXPECT_TRUE(ClaimUnixSocket(dir.File("s")).ok());
}

TEST(ClaimUnixSocketTest, ASocketNobodyListensOnIsRemoved) {
  TempDir dir;
  testing::UnixListener(dir.File("s")).Abandon();
  ASSERT_TRUE(std::filesystem::exists(dir.File("s")));
  const absl::Status status = ClaimUnixSocket(dir.File("s"));
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_FALSE(std::filesystem::exists(dir.File("s")));
}

TEST(ClaimUnixSocketTest, ASocketSomebodyListensOnIsRefusedAndStays) {
  TempDir dir;
  testing::UnixListener live(dir.File("s"));
  // The backlog of one fills up with our probes; a full one must still count as alive.
  for (int i = 0; i < 5; ++i) {
    const absl::Status status = ClaimUnixSocket(dir.File("s"));
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_TRUE(Mentions(status, dir.File("s"))) << status;
  }
  EXPECT_TRUE(std::filesystem::is_socket(dir.File("s")));
}

TEST(ClaimUnixSocketTest, AFileThatIsNoSocketIsRefusedAndStays) {
  TempDir dir;
  std::ofstream(dir.File("s")) << "precious";
  EXPECT_EQ(ClaimUnixSocket(dir.File("s")).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(std::filesystem::file_size(dir.File("s")), 8u);
}

TEST(ClaimUnixSocketTest, APathTooLongForASocketIsRefused) {
  EXPECT_EQ(ClaimUnixSocket("/tmp/" + std::string(200, 'x')).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ClaimUnixSocket("").code(), absl::StatusCode::kInvalidArgument);
}

TEST(SocketAccessTest, TheGroupMayConnectUnlessToldOtherwise) {
  TempDir dir;
  testing::UnixListener live(dir.File("s"));
  chmod(dir.File("s").c_str(), 0755);
  struct stat info;
  for (const auto& [access, mode] : {std::pair<SocketAccess, mode_t>{{}, 0660},
                                     {{.mode = "0600"}, 0600},
                                     {{.mode = "666", .group = std::to_string(getegid())}, 0666}}) {
    ASSERT_TRUE(SetSocketAccess(dir.File("s"), access).ok());
    ASSERT_EQ(stat(dir.File("s").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, mode);
    EXPECT_EQ(info.st_gid, getegid());
  }
  EXPECT_FALSE(SetSocketAccess(dir.File("none"), {}).ok());
}

TEST(SocketAccessTest, WhatIsNoModeOrGroupIsRefused) {
  for (const char* const mode : {"", "rw", "678", "1660", "00660", "-1"}) {
    EXPECT_EQ(CheckSocketAccess({.mode = mode}).code(), absl::StatusCode::kInvalidArgument) << mode;
  }
  EXPECT_TRUE(Mentions(CheckSocketAccess({.group = "no-such-group"}), "no-such-group"));
  EXPECT_TRUE(CheckSocketAccess({.group = "root"}).ok());
}

int Connected(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

TEST(UnixListenerTest, ClientsWaitUntilSomebodyAcceptsAndTheFileGoesWithTheListener) {
  TempDir dir;
  testing::UnixListener(dir.File("s")).Abandon();  // what kill -9 leaves behind
  {
    absl::StatusOr<UnixListener> listening = UnixListener::Listen(dir.File("s"), {.mode = "600"});
    ASSERT_TRUE(listening.ok()) << listening.status();
    struct stat info;
    ASSERT_EQ(stat(dir.File("s").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0600u);
    EXPECT_EQ(accept(listening->fd(), nullptr, nullptr), -1) << "nobody has come, and it says so";
    const int early = Connected(dir.File("s"));
    const UnixListener moved = *std::move(listening);
    const int accepted = accept(moved.fd(), nullptr, nullptr);
    EXPECT_GE(accepted, 0);
    close(accepted);
    close(early);
    EXPECT_EQ(UnixListener::Listen(dir.File("s"), {}).status().code(),
              absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(std::filesystem::exists(dir.File("s"))) << "the live one's, not the refused one's";
  }
  EXPECT_FALSE(std::filesystem::exists(dir.File("s")));
}

}  // namespace
}  // namespace understudy::base::unix_socket_test
