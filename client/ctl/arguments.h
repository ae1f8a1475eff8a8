// client/ctl/arguments.h
//
// From the words of a command line to the request it stands for. The words come as typed: every check is here, so that all
// that is wrong is told at once.
#ifndef UNDERSTUDY_CLIENT_CTL_ARGUMENTS_H_
#define UNDERSTUDY_CLIENT_CTL_ARGUMENTS_H_

#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"

#include "understudy/v1/replication.pb.h"

namespace understudy::ctl {

// As typed; an option that was not given is empty.
struct Arguments {
  std::string server;
  std::string timeout = "10s";
  bool json = false;
  std::string command;  // "start"; empty: none
  std::string group;
  std::string mode;
  std::vector<std::string> volumes;
  bool takeover = false;
  bool prepare = false;
  bool commit_given = false;
  std::string commit;
  bool abandon = false;
  bool failover = false;
  bool received = false;
  bool epoch_given = false;
  std::string epoch;
  bool force = false;
  std::vector<std::string> unknown;  // words that no command or flag took
};

// `list`: the same question as `status` about all groups, another view.
struct ListRequest {};

using Request =
    std::variant<v1::OpenRequest, v1::StartRequest, v1::CheckpointRequest, v1::GetErrorRequest,
                 v1::StopRequest, v1::GetStatusRequest, v1::RemoveRequest, ListRequest>;

struct Invocation {
  std::string server;
  absl::Duration timeout;
  bool json = false;
  Request request;
};

// Either an invocation or what is wrong with the words, one problem each.
std::variant<Invocation, std::vector<std::string>> Interpret(const Arguments& arguments);

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_ARGUMENTS_H_
