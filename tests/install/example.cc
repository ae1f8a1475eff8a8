// A consumer of the install tree: forwards one write of 4 KiB to the standby at argv[1] and takes a checkpoint.
// Exit status: 0 committed, 1 an error, named on standard error.
#include <iostream>
#include <string>

#include "client/forwarder.h"
#include "client/rpc/write_stream.h"

int main(int, char** argv) {
  using namespace understudy::client;  // NOLINT(google-build-using-namespace): ten lines
  WriteStream stream(argv[1]);
  Forwarder forwarder({.group = "vm1",
                       .volumes = {{.name = "disk0", .size_bytes = 1 << 20}},
                       .agent_id = "example"},
                      &stream);
  absl::Status status = forwarder.Start();
  if (status.ok()) status = forwarder.Write(0, 4096, std::string(4096, 'u'));
  const auto checkpoint = forwarder.Checkpoint(understudy::base::Deadline::After(absl::Seconds(2)));
  if (status.ok()) status = checkpoint.status();
  if (status.ok()) std::cout << "committed epoch " << checkpoint->epoch.value() << std::endl;
  std::cerr << status << std::endl;
  return status.ok() ? 0 : 1;
}
