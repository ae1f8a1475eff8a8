// proto/nbd/device.h
//
// What an NBD server exports, as it asks for it: a Catalog of names, and the Device behind each.
//
// Ranges   the server checks them first: not empty, inside the device, multiples of 512 bytes.
// Errors   what a client is told: kInvalidArgument, kOutOfRange EINVAL; kResourceExhausted ENOSPC;
//          kPermissionDenied EPERM; kUnimplemented ENOTSUP; anything else EIO. kCancelled: nothing
//          at all. The process is about to end, and a client that connects again sends it again.
// Threads  all methods from any thread, several at a time.
#ifndef UNDERSTUDY_PROTO_NBD_DEVICE_H_
#define UNDERSTUDY_PROTO_NBD_DEVICE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "storage/base/block_runs.h"
#include "storage/base/block_write.h"
#include "storage/base/byte_range.h"

namespace understudy::nbd {

using Write = BlockWrite;

// One client's connection to one export; destroyed when that ends.
class Device {
 public:
  virtual ~Device() = default;

  virtual const std::string& name() const = 0;  // what it is called, whatever name found it
  virtual std::string description() const = 0;  // for people
  virtual uint64_t size_bytes() const = 0;
  virtual bool has_map() const = 0;  // Map() says something
  // A small write alone takes no longer than to wake a thread for it.
  virtual bool has_short_writes() const { return true; }

  // A client begins to use it. Once, before the first request; not for one that only looks.
  virtual void Connect() {}

  // Takes as many of the first writes as can be taken without waiting for anything or anybody: no
  // disk, no full window. Returns how many; these are done, as WriteAll() would have. Called from
  // the thread that reads the socket.
  virtual size_t TryWrite(std::span<const Write> /*writes*/) { return 0; }

  // The rest may block.
  virtual absl::Status Read(uint64_t offset, std::span<char> out) = 0;
  // In any order, or at once. `results`, as many as `writes`, are OK before.
  virtual void WriteAll(std::span<const Write> writes, std::span<absl::Status> results) = 0;
  virtual absl::Status WriteZeroes(ByteRange range, ZeroedSpace space, bool fua) = 0;
  virtual absl::Status Trim(ByteRange range, bool fua) = 0;
  // All that was answered before, on any connection, is as safe as the export promises.
  virtual absl::Status Flush() = 0;
  // The first `runs_max` runs of `range`, without gaps, at least one. Its cost is bounded,
  // too: a run may end before it has to.
  // REQUIRES: has_map().
  virtual absl::StatusOr<std::vector<BlockRun>> Map(ByteRange range, size_t runs_max) = 0;
};

class Catalog {
 public:
  virtual ~Catalog() = default;
  // For a client that asks what there is.
  virtual std::vector<std::string> Names() = 0;
  // `name` empty: the default one, if there is one. kNotFound, with the remedy, for a name that
  // nobody has.
  virtual absl::StatusOr<std::unique_ptr<Device>> Open(const std::string& name) = 0;
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_DEVICE_H_
