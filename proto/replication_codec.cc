#include "proto/replication_codec.h"

namespace understudy::proto {

v1::Stage ToProto(Stage stage) {
  switch (stage) {
    case Stage::kNone:
      return v1::STAGE_NONE;
    case Stage::kRunning:
      return v1::STAGE_RUNNING;
    case Stage::kFailover:
      return v1::STAGE_FAILOVER;
    case Stage::kFailoverFailed:
      return v1::STAGE_FAILOVER_FAILED;
    case Stage::kDone:
      return v1::STAGE_DONE;
  }
  return v1::STAGE_UNSPECIFIED;
}

v1::ReplicationError ToProto(const base::LatchedError& error) {
  v1::ReplicationError to;
  to.set_volume(error.volume);
  to.set_operation(error.operation);
  to.set_code(absl::StatusCodeToString(error.code));
  to.set_message(error.message);
  if (!error.range.empty()) {
    to.set_offset(error.range.start);
    to.set_length(error.range.size());
  }
  to.set_first_unix_micros(absl::ToUnixMicros(error.first));
  to.set_last_unix_micros(absl::ToUnixMicros(error.last));
  to.set_count(error.count);
  to.set_reason(error.reason);
  return to;
}

}  // namespace understudy::proto
