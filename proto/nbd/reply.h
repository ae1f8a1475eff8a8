// proto/nbd/reply.h
//
// How an answer lies in bytes, in the style of reply that was negotiated.
#ifndef UNDERSTUDY_PROTO_NBD_REPLY_H_
#define UNDERSTUDY_PROTO_NBD_REPLY_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

#include "proto/nbd/device.h"
#include "proto/nbd/outbox.h"
#include "proto/nbd/wire.h"

namespace understudy::nbd {

// What a client is told of a device's error; device.h has the table. Never kNone.
Error ErrorOf(const absl::Status& status);

// A request that is done, or refused. `message`, for people, goes along where the style has room.
void AppendDone(Replies& replies, ReplyStyle style, const RequestHeader& request,
                Error error = Error::kNone, absl::string_view message = "");

// What a READ has read into `data`, which the replies keep. Structured, longer runs of zeroes are
// sent as holes, unless the client wants one piece.
void AppendRead(Replies& replies, ReplyStyle style, const RequestHeader& request, Buffer data);

// REQUIRES: not kSimple; `runs` is not empty, and lies in the request's range.
void AppendRuns(Replies& replies, ReplyStyle style, const RequestHeader& request,
                const std::vector<BlockRun>& runs);

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_REPLY_H_
