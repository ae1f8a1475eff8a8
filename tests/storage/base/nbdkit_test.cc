#include "storage/base/nbdkit.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <signal.h>
#include <string>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"
#include "tests/testing/unix_socket.h"

namespace understudy::base::nbdkit_test {
namespace {

using ::understudy::testing::TempDir;
using ::understudy::testing::UnixListener;

bool Mentions(const absl::Status& status, const std::string& text) {
  return std::string(status.message()).find(text) != std::string::npos;
}

TEST(ClaimUnixSocketTest, NothingThereIsFree) {
  TempDir dir;
  EXPECT_TRUE(ClaimUnixSocket(dir.File("s")).ok());
}

TEST(ClaimUnixSocketTest, ASocketNobodyListensOnIsRemoved) {
  TempDir dir;
  UnixListener(dir.File("s")).Abandon();
  ASSERT_TRUE(std::filesystem::exists(dir.File("s")));
  const absl::Status status = ClaimUnixSocket(dir.File("s"));
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_FALSE(std::filesystem::exists(dir.File("s")));
}

TEST(ClaimUnixSocketTest, ASocketSomebodyListensOnIsRefusedAndStays) {
  TempDir dir;
  UnixListener live(dir.File("s"));
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
  UnixListener live(dir.File("s"));
  chmod(dir.File("s").c_str(), 0755);  // as nbdkit leaves it
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

TEST(FindPluginTest, AMissingPluginNamesThePlacesLookedAt) {
  const absl::StatusOr<std::string> path = FindPlugin("no-such-plugin.so");
  EXPECT_EQ(path.status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Mentions(path.status(), "/../lib/no-such-plugin.so")) << path.status();
}

class ExecNbdkitTest : public ::testing::Test {
 protected:
  void SetUp() override { std::ofstream(plugin()) << "x"; }
  std::string plugin() const { return dir_.File("plugin.so"); }
  // A stand-in for nbdkit that writes down what it was given.
  void InstallFake() {
    const std::string fake = dir_.File("nbdkit");
    std::ofstream(fake)
        << "#!/bin/sh\n{ echo \"$$\"; echo \"$*\"; echo \"$UNDERSTUDY_TEST_SEEN\"; } > "
        << dir_.File("seen") << "\nexit 7\n";
    chmod(fake.c_str(), 0755);
  }
  // Runs ExecNbdkit in a child; 100 plus the code when it returns.
  pid_t Fork(const NbdkitOptions& options, int* exit_status) {
    const pid_t child = fork();
    if (child == 0) {
      setenv("PATH", (dir_.path() + ":/usr/bin:/bin").c_str(), 1);
      if (without_path_) setenv("PATH", dir_.path().c_str(), 1);
      const absl::Status status = ExecNbdkit(options);
      std::ofstream(dir_.File("message")) << std::string(status.message());
      _exit(100 + static_cast<int>(status.code()));
    }
    int raw = 0;
    waitpid(child, &raw, 0);
    *exit_status = WIFEXITED(raw) ? WEXITSTATUS(raw) : -1;
    return child;
  }
  std::string Read(const std::string& name) {
    std::ifstream file(dir_.File(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }

  TempDir dir_;
  bool without_path_ = false;
};

TEST_F(ExecNbdkitTest, ReplacesTheProcessAndHandsTheParametersOver) {
  InstallFake();
  int exit_status = 0;
  const pid_t child = Fork({.program = "understudyd",
                            .plugin_path = plugin(),
                            .socket_path = dir_.File("s"),
                            .threads = 6,
                            .parameters = {{"group", "vm1"}, {"volume", "a,disk=/x y"}}},
                           &exit_status);
  EXPECT_EQ(exit_status, 7);
  EXPECT_EQ(Read("seen"), std::to_string(child) + "\n-f -U " + dir_.File("s") + " -t 6 " +
                              plugin() + " group=vm1 volume=a,disk=/x y\n\n");
}

TEST_F(ExecNbdkitTest, AMissingNbdkitNamesThePackage) {
  without_path_ = true;
  int exit_status = 0;
  Fork({.program = "understudyd", .plugin_path = plugin(), .socket_path = dir_.File("s")},
       &exit_status);
  EXPECT_EQ(exit_status, 100 + static_cast<int>(absl::StatusCode::kNotFound));
  EXPECT_EQ(Read("message"),
            "nbdkit is not installed: apt-get install nbdkit, or leave out --nbd-socket");
}

TEST_F(ExecNbdkitTest, AMissingPluginIsNamed) {
  InstallFake();
  int exit_status = 0;
  Fork({.program = "understudyd",
        .plugin_path = dir_.File("gone.so"),
        .socket_path = dir_.File("s")},
       &exit_status);
  EXPECT_EQ(exit_status, 100 + static_cast<int>(absl::StatusCode::kNotFound));
  EXPECT_NE(Read("message").find("gone.so"), std::string::npos);
}

TEST_F(ExecNbdkitTest, ALiveSocketIsNotTakenAway) {
  InstallFake();
  UnixListener live(dir_.File("s"));
  int exit_status = 0;
  Fork({.program = "understudyd", .plugin_path = plugin(), .socket_path = dir_.File("s")},
       &exit_status);
  EXPECT_EQ(exit_status, 100 + static_cast<int>(absl::StatusCode::kFailedPrecondition));
}

// A child that shuts down by `shutdown` (which may tell the parent through the pipe) after the signals it gets.
int ExitStatusAfter(int signals, const std::function<void(int)>& shutdown) {
  int ready[2];
  if (pipe(ready) != 0) return -1;
  const pid_t child = fork();
  if (child == 0) {
    HandleShutdownSignals([&] { shutdown(ready[1]); });
    (void)!write(ready[1], "r", 1);
    for (;;) pause();
  }
  char byte = 0;
  for (int i = 0; i < signals; ++i) {
    if (read(ready[0], &byte, 1) != 1) break;  // told that it is ready for the next one
    kill(child, SIGTERM);
  }
  int raw = 0;
  waitpid(child, &raw, 0);
  close(ready[0]);
  close(ready[1]);
  return WIFEXITED(raw) ? WEXITSTATUS(raw) : -1;
}

TEST(HandleShutdownSignalsTest, ASignalRunsTheShutdownAndEndsWithZero) {
  TempDir dir;
  EXPECT_EQ(ExitStatusAfter(1, [&](int) { std::ofstream(dir.File("done")) << "x"; }), 0);
  EXPECT_TRUE(std::filesystem::exists(dir.File("done")));
}

TEST(HandleShutdownSignalsTest, ASecondSignalEndsAStuckShutdownWithOne) {
  EXPECT_EQ(ExitStatusAfter(2,
                            [](int ready) {
                              (void)!write(ready, "r", 1);
                              for (;;) pause();
                            }),
            1);
}

}  // namespace
}  // namespace understudy::base::nbdkit_test
