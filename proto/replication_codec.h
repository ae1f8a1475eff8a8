// proto/replication_codec.h
//
// What both daemons' Replication services say the same way: stages, latched errors, events.
#ifndef UNDERSTUDY_PROTO_REPLICATION_CODEC_H_
#define UNDERSTUDY_PROTO_REPLICATION_CODEC_H_

#include <vector>

#include "absl/status/statusor.h"

#include "storage/base/byte_range.h"
#include "storage/base/error_log.h"
#include "storage/base/event_journal.h"
#include "storage/base/ids.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::proto {

v1::Stage ToProto(Stage stage);
v1::ReplicationError ToProto(const base::LatchedError& error);
v1::WatchEvent ToProto(const base::Event& event);  // without token and status

// The ranges of each volume, in order; outward to whole blocks. Runs that lie near each other become one where the message would
// else be larger than any client takes: more is compared then, never less.
void PutRuns(const std::vector<std::vector<ByteRange>>& ranges, v1::FailbackMap* map);
// As it was put. kDataLoss unless it lies within the volume.
absl::StatusOr<std::vector<ByteRange>> RangesOf(const v1::FailbackVolume& volume);

}  // namespace understudy::proto

#endif  // UNDERSTUDY_PROTO_REPLICATION_CODEC_H_
