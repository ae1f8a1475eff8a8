#include "storage/base/signals.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <signal.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace understudy::base::signals_test {
namespace {

using ::understudy::testing::TempDir;

// A child that shuts down by `shutdown` (which may tell the parent through the pipe) after the
// signals it gets.
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

TEST(IgnoreStraySignalsTest, NoneOfThemEndsTheProcess) {
  for (const int number : {SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE}) {
    const pid_t child = fork();
    if (child == 0) {
      IgnoreStraySignals();
      raise(number);
      _exit(7);
    }
    int raw = 0;
    waitpid(child, &raw, 0);
    EXPECT_TRUE(WIFEXITED(raw) && WEXITSTATUS(raw) == 7) << strsignal(number);
  }
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
}  // namespace understudy::base::signals_test
