// client/rpc/failback_file.h
//
// A failback map in a file: the message understudy.v1.FailbackMap, sealed (proto/sealed_message.h).
//
// Errors   kDataLoss for a damaged file, with the way out; else as FileSystem.
#ifndef UNDERSTUDY_CLIENT_RPC_FAILBACK_FILE_H_
#define UNDERSTUDY_CLIENT_RPC_FAILBACK_FILE_H_

#include <string>

#include "absl/status/statusor.h"

#include "client/failback.h"
#include "storage/base/file_system.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::client {

v1::FailbackMap ToProto(const FailbackMap& map);
absl::StatusOr<FailbackMap> ReadFailbackFile(base::FileSystem& file_system,
                                             const std::string& path);

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_RPC_FAILBACK_FILE_H_
