// server/export.h
//
// Export is one volume as the secondary VM sees it, for whatever serves it (NBD). It is there from Open to Remove, in every
// stage; the replica says what a request does in which.
//
// Threads  all methods from any thread, without waiting for replication.
// Errors   as storage::Replica; kUnavailable once the service is shutting down. A failed write of the VM and a checksum mismatch
//          are latched for GetError. IoErrno() says what the VM is told.
#ifndef UNDERSTUDY_SERVER_EXPORT_H_
#define UNDERSTUDY_SERVER_EXPORT_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "server/group.h"
#include "storage/base/io_gate.h"
#include "storage/replica.h"

namespace understudy::server {

class Export {
 public:
  // `gate` outlives the export.
  Export(std::shared_ptr<Group> group, const storage::VolumeInfo& volume, base::IoGate& gate);

  const std::string& name() const { return name_; }  // GROUP/VOLUME
  const std::string& group_name() const { return group_->name(); }
  uint64_t size_bytes() const { return volume_.size_bytes; }

  absl::Status Read(uint64_t offset, std::span<char> out);
  absl::Status Write(uint64_t offset, std::span<const char> data, bool fua);
  absl::Status WriteZeroes(ByteRange range, bool fua);
  // As WriteZeroes: both sides read zeroes after it.
  absl::Status Discard(ByteRange range, bool fua);
  absl::Status Flush();
  absl::StatusOr<std::vector<storage::MapRun>> Map(ByteRange range);

 private:
  template <typename Call>
  absl::Status Count(IoKind kind, ByteRange range, Call call);
  void OnFailure(IoKind kind, ByteRange range, const absl::Status& status);

  const std::shared_ptr<Group> group_;
  const storage::VolumeInfo volume_;
  const std::string name_;
  base::IoGate& gate_;
  IoStats& stats_;
};

// EIO for anything that has no better number: a wrong stage, a checksum mismatch, a dead disk.
int IoErrno(const absl::Status& status);

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_EXPORT_H_
