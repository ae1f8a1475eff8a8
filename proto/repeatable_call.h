// proto/repeatable_call.h
//
// A unary callback RPC that can be repeated under its request id: RunUnary() with a base::RequestLog around it. A call without
// an id just runs.
#ifndef UNDERSTUDY_PROTO_REPEATABLE_CALL_H_
#define UNDERSTUDY_PROTO_REPEATABLE_CALL_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include <grpcpp/grpcpp.h>

#include "proto/status_codec.h"
#include "proto/unary_call.h"
#include "storage/base/request_log.h"
#include "storage/base/worker_pool.h"

namespace understudy::proto {

// What RunRepeatable() needs to know of a call beside its work.
template <typename Response>
struct Repeat {
  // Notes how things are before the first run; what it returns is given back to `derive`. May be empty.
  std::function<std::string()> before;
  // An earlier run may have had an effect: true, and the answer filled in, when things show that it had. May be empty.
  std::function<bool(const std::string& before, Response& response)> derive;
  bool durable = true;  // false: its answer means nothing after a restart
};

template <typename Request, typename Response>
class RepeatableCall final
    : public base::RequestLog::Waiter,
      public std::enable_shared_from_this<RepeatableCall<Request, Response>> {
 public:
  // The log and the pool outlive the call; context, request and response do until it is finished.
  RepeatableCall(grpc::CallbackServerContext* context, base::WorkerPool& pool,
                 base::RequestLog& log, const Request* request, Response* response,
                 std::function<absl::Status()> handle, Repeat<Response> repeat)
      : context_(context),
        pool_(pool),
        log_(log),
        response_(response),
        id_(request->request_id()),
        call_(CallText(*request)),
        handle_(std::move(handle)),
        repeat_(std::move(repeat)) {}

  grpc::ServerUnaryReactor* Begin() {
    auto* const reactor = new Reactor(this->shared_from_this());
    reactor_ = reactor;
    pool_.Submit([self = this->shared_from_this()] { self->Enter(); });
    return reactor;
  }

 private:
  class Reactor final : public grpc::ServerUnaryReactor {
   public:
    explicit Reactor(std::shared_ptr<RepeatableCall> call) : call_(std::move(call)) {}
    void OnDone() override { delete this; }
    void OnCancel() override { call_->OnCancel(); }

   private:
    const std::shared_ptr<RepeatableCall> call_;
  };

  // The method, told by the type of its request, and its arguments.
  static std::string CallText(const Request& request) {
    Request arguments = request;
    arguments.clear_request_id();
    return absl::StrCat(Request::descriptor()->name(), " ", arguments.SerializeAsString());
  }

  void Enter() {
    if (context_->IsCancelled()) return Finish(absl::CancelledError("the caller has gone"));
    const auto permit = log_.Enter({.id = id_,
                                    .call = call_,
                                    .before = repeat_.before ? repeat_.before() : "",
                                    .durable = repeat_.durable},
                                   this->shared_from_this());
    if (!permit.ok()) return Finish(permit.status());
    if (permit->has_value()) return Run(**permit);
    if (cancelled_)
      GiveUp();  // before there was anything to give up. The context may be gone by now
  }

  void OnCancel() {
    cancelled_ = true;
    GiveUp();
  }

  // Waiting for another call of this id costs no thread; the first one's work goes on.
  void GiveUp() {
    if (log_.GiveUp(id_, this)) Finish(absl::CancelledError("the caller has gone"));
  }

  void OnAnswer(const std::string& answer) override {
    if (response_->ParseFromString(answer)) return Finish(absl::OkStatus());
    response_->Clear();
    Finish(absl::InternalError(
        absl::StrCat("the answer to request_id ", id_, " cannot be read; look with status")));
  }

  void OnPermit(const base::RequestLog::Permit& permit) override {
    pool_.Submit([self = this->shared_from_this(), permit] { self->Run(permit); });
  }

  void Run(const base::RequestLog::Permit& permit) {
    absl::Status status;
    if (context_->IsCancelled()) {
      status = absl::CancelledError("the caller has gone");
    } else if (!permit.repeated || !repeat_.derive || !repeat_.derive(permit.before, *response_)) {
      status = handle_();
    }
    log_.Leave(id_, status, status.ok() ? response_->SerializeAsString() : "");
    Finish(status);
  }

  // Each call comes here exactly once: the log gives an answer or a permit, or says that it will not.
  void Finish(const absl::Status& status) { reactor_->Finish(ToGrpcStatus(status)); }

  grpc::CallbackServerContext* const context_;
  base::WorkerPool& pool_;
  base::RequestLog& log_;
  Response* const response_;
  const std::string id_;
  const std::string call_;
  const std::function<absl::Status()> handle_;
  const Repeat<Response> repeat_;
  std::atomic<bool> cancelled_ = false;
  Reactor* reactor_ = nullptr;  // deletes itself after Finish()
};

// Calls `handle` (returning absl::Status, filling the response) on `pool`, unless the call's request id says that it was done
// already or is at work.
template <typename Request, typename Response>
grpc::ServerUnaryReactor* RunRepeatable(grpc::CallbackServerContext* context,
                                        base::WorkerPool& pool, base::RequestLog& log,
                                        const Request* request, Response* response,
                                        std::function<absl::Status()> handle,
                                        Repeat<Response> repeat = {}) {
  if (request->request_id().empty()) return RunUnary(context, pool, std::move(handle));
  return std::make_shared<RepeatableCall<Request, Response>>(context, pool, log, request, response,
                                                             std::move(handle), std::move(repeat))
      ->Begin();
}

}  // namespace understudy::proto

#endif  // UNDERSTUDY_PROTO_REPEATABLE_CALL_H_
