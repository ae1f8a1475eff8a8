// proto/replication_codec.h
//
// What both daemons' Replication services say the same way: stages, latched errors, events.
#ifndef UNDERSTUDY_PROTO_REPLICATION_CODEC_H_
#define UNDERSTUDY_PROTO_REPLICATION_CODEC_H_

#include "storage/base/error_log.h"
#include "storage/base/event_journal.h"
#include "storage/base/ids.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::proto {

v1::Stage ToProto(Stage stage);
v1::ReplicationError ToProto(const base::LatchedError& error);
v1::WatchEvent ToProto(const base::Event& event);  // without token and status

}  // namespace understudy::proto

#endif  // UNDERSTUDY_PROTO_REPLICATION_CODEC_H_
