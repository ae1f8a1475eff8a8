// server/rpc/convert.h
//
// Messages of understudy.v1 to and from the core's own structs.
#ifndef UNDERSTUDY_SERVER_RPC_CONVERT_H_
#define UNDERSTUDY_SERVER_RPC_CONVERT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include <grpcpp/grpcpp.h>

#include "proto/replication_codec.h"
#include "proto/unary_call.h"
#include "server/group.h"
#include "server/service.h"
#include "server/stream_types.h"
#include "storage/base/deadline.h"
#include "storage/store.h"
#include "understudy/v1/primary_writes.pb.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::server {

// 16 bytes, big-endian; "" when there is none.
std::string ToBytes(const Incarnation& incarnation);
// kInvalidArgument unless empty or 16 bytes.
absl::StatusOr<Incarnation> IncarnationFrom(const std::string& bytes);

Mode ModeFrom(v1::Mode mode);
using proto::ToProto;  // stages and latched errors

template <typename Request>  // OpenRequest and StartRequest name a group alike
storage::GroupSpec GroupSpecFrom(const Request& request);
absl::StatusOr<Expected> ExpectedFrom(const v1::Expected& expected);

v1::GroupStatus ToProto(const GroupStatus& status);
v1::FailbackMap ToProto(const storage::FailbackRegions& failback, const std::string& group,
                        const std::vector<storage::VolumeInfo>& volumes);
v1::HistoryEpoch ToProto(const storage::EpochInfo& epoch,
                         const std::vector<storage::VolumeInfo>& volumes);
v1::CloneStatus ToProto(const storage::CloneInfo& clone, const std::string& group,
                        const std::vector<storage::VolumeInfo>& volumes);
// Defaults filled in, but for the epoch; kInvalidArgument for a time that no clock can hold.
absl::StatusOr<storage::CloneSpec> CloneSpecFrom(const v1::CloneRequest& request);

absl::StatusOr<Handshake> HandshakeFrom(const v1::Handshake& handshake);
v1::WriteResponse ToProto(const Answer& answer);

using proto::DeadlineOf;

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_RPC_CONVERT_H_
