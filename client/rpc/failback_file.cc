#include "client/rpc/failback_file.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "client/rpc/frame_encoder.h"
#include "proto/replication_codec.h"
#include "proto/sealed_message.h"
#include "storage/base/status_macros.h"

namespace understudy::client {

v1::FailbackMap ToProto(const FailbackMap& map) {
  v1::FailbackMap to;
  to.set_group(map.group);
  to.set_mode(map.of_primary ? v1::MODE_PRIMARY : v1::MODE_SECONDARY);
  to.set_incarnation(EncodeIncarnation(map.incarnation));
  to.set_agent_id(map.agent_id);
  to.set_taken_unix_micros(absl::ToUnixMicros(map.taken));
  std::vector<std::vector<ByteRange>> ranges;
  for (const FailbackMap::Volume& from : map.volumes) {
    v1::FailbackVolume& volume = *to.add_volumes();
    volume.set_name(from.spec.name);
    volume.set_size_bytes(from.spec.size_bytes);
    ranges.push_back(from.ranges);
  }
  proto::PutRuns(ranges, &to);
  return to;
}

absl::StatusOr<FailbackMap> ReadFailbackFile(base::FileSystem& file_system,
                                             const std::string& path) {
  ASSIGN_OR_RETURN(const std::string bytes, file_system.ReadWholeFile(path));
  v1::FailbackMap from;
  if (!from.ParseFromString(bytes) || from.crc32c() == 0 ||
      !proto::CheckSeal(bytes, from.crc32c()).ok()) {
    return absl::DataLossError(absl::StrCat(
        path,
        ": this is no whole failback map: take it again, or start without --failback-map, and "
        "everything is compared"));
  }
  FailbackMap map{.group = from.group(),
                  .of_primary = from.mode() == v1::MODE_PRIMARY,
                  .incarnation = DecodeIncarnation(from.incarnation()),
                  .agent_id = from.agent_id(),
                  .taken = absl::FromUnixMicros(from.taken_unix_micros())};
  for (const v1::FailbackVolume& volume : from.volumes()) {
    ASSIGN_OR_RETURN(std::vector<ByteRange> ranges, proto::RangesOf(volume));
    map.volumes.push_back({.spec = {.name = volume.name(), .size_bytes = volume.size_bytes()},
                           .ranges = std::move(ranges)});
  }
  return map;
}

}  // namespace understudy::client
