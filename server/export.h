// server/export.h
//
// Export is one volume for whatever serves it (NBD): as the secondary VM sees it, from Open to Remove, in every stage (the
// replica says what a request does in which), or as a clone of the group has it. A clone ends when it likes: an export does
// not keep it alive.
//
// Threads  all methods from any thread, without waiting for replication; Connect() waits for a failover to an older epoch.
// Errors   as storage::Replica; kCancelled once the service is shutting down: connect again. A
//          failed write of the VM and a checksum mismatch are latched for GetError; that a clone is
//          full or has ended is not.
#ifndef UNDERSTUDY_SERVER_EXPORT_H_
#define UNDERSTUDY_SERVER_EXPORT_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "server/group.h"
#include "storage/base/block_write.h"
#include "storage/base/io_gate.h"
#include "storage/replica.h"

namespace understudy::server {

class Export {
 public:
  // `gate` outlives the export.
  Export(std::shared_ptr<Group> group, const storage::VolumeInfo& volume, base::IoGate& gate);
  // Of the clone with this name.
  Export(std::shared_ptr<Group> group, const storage::VolumeInfo& volume, base::IoGate& gate,
         const std::string& clone, std::weak_ptr<storage::BlockView> view);

  const std::string& name() const { return name_; }  // GROUP/VOLUME, GROUP@CLONE/VOLUME
  const std::string& group_name() const { return group_->name(); }
  uint64_t size_bytes() const { return volume_.size_bytes; }

  // A client has it open, and no longer: while one has, the disk of the group does not go back to an older epoch unforced.
  void Connect();
  void Disconnect();

  absl::Status Read(uint64_t offset, std::span<char> out);
  // In any order. `results`, as many as `writes`, are OK before.
  void WriteAll(std::span<const BlockWrite> writes, std::span<absl::Status> results);
  absl::Status WriteZeroes(ByteRange range, ZeroedSpace space, bool fua);
  // Zeroes, too, so that both sides read the same after it.
  absl::Status Discard(ByteRange range, bool fua);
  absl::Status Flush();
  absl::StatusOr<std::vector<BlockRun>> Map(ByteRange range, size_t runs_max);

 private:
  // Calls with what is served; the caller of Shutdown() waits for it.
  template <typename Call>
  auto InView(Call call) -> decltype(call(std::declval<storage::BlockView&>()));
  template <typename Call>
  absl::Status Count(IoKind kind, ByteRange range, Call call);
  // Of a request that was counted.
  void CountEnd(IoKind kind, ByteRange range, const absl::Status& status);
  void OnFailure(IoKind kind, ByteRange range, const absl::Status& status);

  const std::shared_ptr<Group> group_;
  const storage::VolumeInfo volume_;
  const std::string name_;
  const bool is_clone_;
  const std::weak_ptr<storage::BlockView> view_;
  base::IoGate& gate_;
  IoStats& stats_;
};

// GROUP@CLONE/VOLUME of each volume.
std::vector<std::string> CloneExportNames(const std::string& group, const std::string& clone,
                                          const std::vector<storage::VolumeInfo>& volumes);

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_EXPORT_H_
