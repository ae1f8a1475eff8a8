// client/ctl/invocation.h
//
// What a command line stands for: one request, where it goes, and how its answer is shown. The only
// header of understudyctl that reads the generated messages, since it is made of them; the others
// name Invocation and read this in their .cc.
#ifndef UNDERSTUDY_CLIENT_CTL_INVOCATION_H_
#define UNDERSTUDY_CLIENT_CTL_INVOCATION_H_

#include <string>
#include <variant>

#include "absl/time/time.h"

#include "understudy/v1/replication.pb.h"

namespace understudy::ctl {

// `list`: the same question as `status` about all groups, another view.
struct ListRequest {};

// `scrub`: begin it, and with `wait` follow it to its end.
struct ScrubCommand {
  v1::ScrubRequest request;
  bool wait = false;
  const std::string& group() const { return request.group(); }
};

// `sync` and `verify` at an agent: begin it, and with `wait` follow it to its end. `live`: the
// progress is drawn in place.
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

// `attach`: a running VM's disk to a volume of an agent. `wait`: until the copy is ready and the
// group complete.
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
                 v1::ClearErrorRequest, v1::StopRequest, v1::GetStatusRequest, v1::RemoveRequest,
                 v1::HistoryRequest, v1::CloneRequest, v1::ListClonesRequest,
                 v1::RemoveCloneRequest, ListRequest, ScrubCommand, WatchCommand, AttachCommand,
                 DetachCommand, SyncCommand, VerifyCommand>;

struct Invocation {
  std::string server;
  // What a hint begins with: also the --server that was given.
  std::string ctl = "understudyctl";
  std::string request_id;  // empty: one is made up
  absl::Duration timeout;
  bool json = false;
  std::string qmp;           // checkpoint: of the VM to pause meanwhile; empty: none
  std::string failback_map;  // remove: file to write it to; empty: it goes with the group
  Request request;
};

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_INVOCATION_H_
