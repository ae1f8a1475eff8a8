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
  bool wait = false;
  bool rate_given = false;
  std::string rate;
  std::string name;
  std::string bytes_max;
  std::string ttl;
  bool list = false;
  bool remove_given = false;
  std::string remove;
  std::string expected_term;         // empty: not checked
  std::string expected_incarnation;  // likewise; 32 hexadecimal digits, as status prints it
  std::string refresh = "1s";
  std::string resume;
  std::string failback_map;
  bool failback_map_given = false;
  bool qmp_given = false;
  std::string qmp;
  std::string device;
  std::string nbd_socket;
  bool no_wait = false;
  bool full = false;
  bool declare_complete = false;
  bool terminal = false;  // standard output is one that can be drawn on
  bool request_id_given = false;
  std::string request_id;
  std::vector<std::string> unknown;  // words that no command or flag took
};

// `list`: the same question as `status` about all groups, another view.
struct ListRequest {};

// `scrub`: begin it, and with `wait` follow it to its end.
struct ScrubCommand {
  v1::ScrubRequest request;
  bool wait = false;
  const std::string& group() const { return request.group(); }
};

// `sync` and `verify` at an agent: begin it, and with `wait` follow it to its end. `live`: the progress is drawn in place.
struct SyncCommand {
  v1::SyncRequest request;
  bool wait = false;
  bool live = false;
  const std::string& group() const { return request.group(); }
};
struct VerifyCommand {
  v1::VerifyRequest request;
  bool wait = false;
  bool live = false;
  const std::string& group() const { return request.group(); }
};

// `watch`: with `live` drawn in place, else a line for each message.
struct WatchCommand {
  v1::WatchRequest request;
  bool live = false;
  const std::string& group() const { return request.group(); }
};

// `attach`: a running VM's disk to a volume of an agent. `wait`: until the copy is ready and the group complete.
struct AttachCommand {
  std::string group;   // empty: the agent's only one
  std::string volume;  // likewise
  std::string qmp;
  std::string device;
  std::string nbd_socket;  // empty: as the agent says
  bool wait = true;
  bool live = false;  // draw the progress in place
};

// `detach`. `force`: without what is not copied yet.
struct DetachCommand {
  std::string volume;  // empty: the only one attached
  std::string qmp;
  bool force = false;
};

using Request =
    std::variant<v1::OpenRequest, v1::StartRequest, v1::CheckpointRequest, v1::GetErrorRequest,
                 v1::StopRequest, v1::GetStatusRequest, v1::RemoveRequest, v1::HistoryRequest,
                 v1::CloneRequest, v1::ListClonesRequest, v1::RemoveCloneRequest, ListRequest,
                 ScrubCommand, WatchCommand, AttachCommand, DetachCommand, SyncCommand,
                 VerifyCommand>;

struct Invocation {
  std::string server;
  std::string request_id;  // empty: one is made up
  absl::Duration timeout;
  bool json = false;
  std::string qmp;           // checkpoint: of the VM to pause meanwhile; empty: none
  std::string failback_map;  // remove: file to write it to; empty: it goes with the group
  Request request;
};

// Either an invocation or what is wrong with the words, one problem each.
std::variant<Invocation, std::vector<std::string>> Interpret(const Arguments& arguments);

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_ARGUMENTS_H_
