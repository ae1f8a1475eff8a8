// proto/grpc_time.h
//
// Deadlines for gRPC, and what is left until one of its, on the steady clock: a
// std::chrono::system_clock::time_point would be wrong once the host's clock is set.
#ifndef UNDERSTUDY_PROTO_GRPC_TIME_H_
#define UNDERSTUDY_PROTO_GRPC_TIME_H_

#include "absl/time/time.h"
#include <grpc/support/time.h>

namespace understudy::proto {

// So long from now on.
inline gpr_timespec GrpcDeadline(absl::Duration timeout) {
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                      gpr_time_from_nanos(absl::ToInt64Nanoseconds(timeout), GPR_TIMESPAN));
}

// Centuries for one that never comes; negative when it has passed.
inline absl::Duration TimeUntil(gpr_timespec deadline) {
  const gpr_timespec left = gpr_time_sub(gpr_convert_clock_type(deadline, GPR_CLOCK_MONOTONIC),
                                         gpr_now(GPR_CLOCK_MONOTONIC));
  return absl::Seconds(left.tv_sec) + absl::Nanoseconds(left.tv_nsec);
}

}  // namespace understudy::proto

#endif  // UNDERSTUDY_PROTO_GRPC_TIME_H_
