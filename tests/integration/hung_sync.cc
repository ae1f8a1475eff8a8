// Preloaded into a daemon (Case.hanging_syncs() of lib.py): its syncs hang while the file that
// UNDERSTUDY_HUNG_SYNC names is there.
#include <cstdlib>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

int WaitAndSync(long call, int fd) {
  const char* const file = std::getenv("UNDERSTUDY_HUNG_SYNC");
  while (file != nullptr && access(file, F_OK) == 0) usleep(10'000);
  return static_cast<int>(syscall(call, fd));
}

}  // namespace

extern "C" int fsync(int fd) { return WaitAndSync(SYS_fsync, fd); }
extern "C" int fdatasync(int fd) { return WaitAndSync(SYS_fdatasync, fd); }
