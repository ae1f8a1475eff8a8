// understudy-checkpointer ADDRESS GROUP: takes a checkpoint for every line it reads, and answers with a line: the epoch, or
// "error: ...". For tests that take more of them than a process for each would allow.
#include <iostream>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "client/rpc/control_client.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: understudy-checkpointer ADDRESS GROUP\n";
    return 2;
  }
  const auto client = understudy::client::ControlClient::Create(argv[1]);
  if (!client.ok()) {
    std::cerr << client.status() << "\n";
    return 2;
  }
  understudy::v1::CheckpointRequest request;
  request.set_group(argv[2]);
  for (std::string line; std::getline(std::cin, line);) {
    const auto answer = (*client)->Checkpoint(request, absl::Minutes(1));
    if (answer.ok()) {
      std::cout << answer->epoch() << std::endl;
    } else {
      std::cout << "error: " << answer.status() << std::endl;
    }
  }
  return 0;
}
