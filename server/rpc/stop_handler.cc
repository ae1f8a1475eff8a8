#include "server/rpc/stop_handler.h"

#include "proto/repeatable_call.h"
#include "server/rpc/convert.h"
#include "server/rpc/repeats.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

grpc::ServerUnaryReactor* StopHandler::Handle(grpc::CallbackServerContext* context,
                                              const v1::StopRequest* request,
                                              v1::StopResponse* response) {
  StopCommand command{
      .failover = request->failover(), .received = request->received(), .force = request->force()};
  if (request->epoch() != 0) command.epoch = Epoch(request->epoch());
  // A pool of its own: a failover never queues behind calls that wait for disks, as one with `received` may.
  base::WorkerPool& pool = command.failover && !command.received ? failover_pool_ : pool_;
  return proto::RunRepeatable(
      context, pool, service_.requests(), request, response,
      [&service = service_, response, command, name = request->group(),
       expected = ExpectedFrom(request->expected()),
       deadline = DeadlineOf(*context)]() mutable -> absl::Status {
        RETURN_IF_ERROR(expected.status());
        command.expected = *expected;
        ASSIGN_OR_RETURN(const std::shared_ptr<Group> group, service.FindGroup(name));
        ASSIGN_OR_RETURN(const StopOutcome outcome, group->Stop(command, deadline));
        response->set_stage(ToProto(outcome.stage));
        response->set_ignored(outcome.ignored);
        response->set_epoch(outcome.epoch.value());
        response->set_term(outcome.term.value());
        return absl::OkStatus();
      },
      RepeatOf(service_, *request));
}

}  // namespace understudy::server
