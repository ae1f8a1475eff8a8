// proto/grpc_host.h
//
// A gRPC server as both daemons run it: health (names "", "startup", "liveness" and one per service), reflection, message
// limits, keepalive, no port sharing, a unix socket that is replaced only when nobody listens on it.
#ifndef UNDERSTUDY_PROTO_GRPC_HOST_H_
#define UNDERSTUDY_PROTO_GRPC_HOST_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include <grpcpp/grpcpp.h>

namespace understudy::proto {

inline constexpr int kMessageBytesMax = 16 << 20;

class GrpcHost {
 public:
  // `listen` is host:port (port 0: any free one) or unix:/path. `services` outlive the host. kInvalidArgument for a malformed
  // address, kFailedPrecondition when somebody listens there already; both name the address and the flag to change.
  static absl::StatusOr<std::unique_ptr<GrpcHost>> Start(
      const std::string& listen, const std::vector<grpc::Service*>& services);
  ~GrpcHost();  // Shutdown(ZeroDuration())

  const std::string& address() const { return address_; }  // with the port that was chosen
  // What health checks answer; serving from Start() on.
  void SetServing(bool serving);
  // NOT_SERVING at once, no new calls, running calls are cancelled after `grace`; returns when all
  // have ended. False: some are still at work 12 s later, as on a disk that stands still; the
  // services must then stay. Idempotent. After messages of many MiB gRPC itself may take up to 10 s
  // more (its backup poller; seen with 16 MiB, not with 1 MiB).
  bool Shutdown(absl::Duration grace);

 private:
  GrpcHost() = default;
  std::string address_;
  std::string unix_path_;                 // to unlink; empty for TCP
  std::shared_ptr<grpc::Server> server_;  // as long as its calls are at work
};

}  // namespace understudy::proto

#endif  // UNDERSTUDY_PROTO_GRPC_HOST_H_
