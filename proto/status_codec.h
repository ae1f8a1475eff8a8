// proto/status_codec.h
//
// absl::Status <-> grpc::Status. Codes are the same numbers; a reason (storage/base/reason.h) travels as google.rpc.ErrorInfo
// with domain "understudy" in the binary status details.
#ifndef UNDERSTUDY_PROTO_STATUS_CODEC_H_
#define UNDERSTUDY_PROTO_STATUS_CODEC_H_

#include "absl/status/status.h"
#include <grpcpp/support/status.h>

namespace understudy::proto {

grpc::Status ToGrpcStatus(const absl::Status& status);

// Details that are not an ErrorInfo of ours are dropped; so is a malformed one.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace understudy::proto

#endif  // UNDERSTUDY_PROTO_STATUS_CODEC_H_
