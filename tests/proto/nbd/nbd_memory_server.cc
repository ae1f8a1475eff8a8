// nbd_memory_server SOCKET BYTES [no-map] [drop-writes] [name=NAME]: an export in
// memory behind our NBD server, until SIGTERM or SIGINT. For tests of clients, and for benchmarks
// of the server alone.
#include <csignal>
#include <iostream>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

#include "proto/nbd/server.h"
#include "storage/base/unix_socket.h"
#include "tests/proto/nbd/memory_disk.h"

namespace {

// Whether `word` means something.
bool ParseOption(absl::string_view word, understudy::nbd::MemoryDisk::Options& options) {
  if (absl::ConsumePrefix(&word, "name=")) {
    options.name = std::string(word);
  } else if (word == "no-map") {
    options.has_map = false;
  } else if (word == "drop-writes") {
    options.drop_writes = true;
  } else {
    return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  understudy::nbd::MemoryDisk::Options options;
  bool good = argc >= 3 && absl::SimpleAtoi(argv[2], &options.size_bytes);
  for (int i = 3; i < argc; ++i) good = good && ParseOption(argv[i], options);
  if (!good) {
    std::cerr << "usage: nbd_memory_server SOCKET BYTES [no-map] [drop-writes] "
                 "[name=NAME]\n";
    return 2;
  }
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);

  understudy::nbd::MemoryDisk disk(options);
  understudy::nbd::MemoryCatalog catalog({&disk});
  auto listener = understudy::base::UnixListener::Listen(argv[1], {});
  if (!listener.ok()) {
    std::cerr << listener.status() << "\n";
    return 1;
  }
  const auto server = understudy::nbd::Server::Start(*std::move(listener), &catalog);
  int signal = 0;
  sigwait(&ends, &signal);
  return 0;
}
