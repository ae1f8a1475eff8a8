// client/comparison.h
//
// Compares a range of a volume's local disk with what the standby holds of it, by hashes of 4 KiB blocks, while both are written.
//
// What it says is true of a block that nobody wrote meanwhile. A block that is written may be called different though it is not.
// Never the reverse: equal means that the standby's block, with the operations that have their place in the stream by now applied to
// it, is the local one; for those it had when it was read are a prefix of these, and what they do not touch was compared.
//
// Threads  any. Blocks on the network and on the local disk.
#ifndef UNDERSTUDY_CLIENT_COMPARISON_H_
#define UNDERSTUDY_CLIENT_COMPARISON_H_

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

#include "client/checksum_source.h"
#include "client/client_types.h"
#include "storage/base/byte_range.h"

namespace understudy::client {

class Volume;

struct Comparison {
  ChecksumSource* source = nullptr;
  std::string group;
  Grant grant;
  Volume* volume = nullptr;  // tee
};

// `range` as ChecksumSource::Fetch(). `differs` gets runs of blocks, in order. `step` gets every slice when it has been compared, and
// ends the comparison with its error; it may wait, to keep to a rate.
absl::Status Compare(const Comparison& comparison, ByteRange range,
                     absl::FunctionRef<void(ByteRange)> differs,
                     absl::FunctionRef<absl::Status(ByteRange)> step);

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_COMPARISON_H_
