// proto/strings.h
//
// Protobuf sends only UTF-8 in a string. Of another it prints a line, sends it all the same, and
// the receiver's gRPC refuses the call with UNIMPLEMENTED and no text.
#ifndef UNDERSTUDY_PROTO_STRINGS_H_
#define UNDERSTUDY_PROTO_STRINGS_H_

#include "absl/status/status.h"
#include <google/protobuf/message.h>

namespace understudy::proto {

// kInvalidArgument, naming the field ("volumes.disk_path"), unless each string of `message` and of
// what it holds is UTF-8.
absl::Status CheckStrings(const google::protobuf::Message& message);

}  // namespace understudy::proto

#endif  // UNDERSTUDY_PROTO_STRINGS_H_
