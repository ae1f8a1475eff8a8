// client/rpc/standby_checksums.h
//
// StandbyChecksums is the ChecksumSource over gRPC: PrimaryWrites.Checksums on a connection of its own, so that hashes and the
// write stream do not wait for each other.
//
// Connection  one for all calls; after one that found the standby unavailable another one, as the old one may be dead without
//          knowing.
// Time     a call may take as long as it makes progress: the next slice must come within `slice_timeout`, which is more than a slow
//          disk needs for 1 MiB. The time that `take` needs does not count.
// Errors   as client/checksum_source.h; kInternal names group and volume.
#ifndef UNDERSTUDY_CLIENT_RPC_STANDBY_CHECKSUMS_H_
#define UNDERSTUDY_CLIENT_RPC_STANDBY_CHECKSUMS_H_

#include <memory>
#include <set>
#include <string>

#include "absl/time/time.h"
#include <grpcpp/grpcpp.h>

#include "client/checksum_source.h"
#include "storage/base/mutex.h"
#include "understudy/v1/primary_writes.grpc.pb.h"

namespace understudy::client {

class StandbyChecksums : public ChecksumSource {
 public:
  // `server` is host:port or unix:/path of an understudyd.
  explicit StandbyChecksums(const std::string& server,
                            absl::Duration slice_timeout = absl::Seconds(10));
  ~StandbyChecksums() override;  // REQUIRES: no Fetch() is under way

  absl::Status Fetch(const std::string& group, const Grant& grant, const std::string& volume,
                     ByteRange range, absl::FunctionRef<absl::Status(ChecksumSlice)> take) override;
  void Cancel() override;

 private:
  class Call;

  absl::Status Read(Call& call, const std::string& what, ByteRange range,
                    absl::FunctionRef<absl::Status(ChecksumSlice)> take) const;

  const std::string server_;
  const absl::Duration slice_timeout_;
  base::Mutex mutex_;
  std::shared_ptr<v1::PrimaryWrites::Stub> stub_ ABSL_GUARDED_BY(mutex_);  // nullptr: to be made
  std::set<Call*> calls_ ABSL_GUARDED_BY(mutex_);                          // under way
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_RPC_STANDBY_CHECKSUMS_H_
