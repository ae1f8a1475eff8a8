// storage/inspect/inspector.h
//
// Looks at a data directory that no service has open, and verifies it: nothing in it is ever written.
//
// Verified  always: every record decodes and fits the others, every extent lies inside its volume, overlaps none and names a
//           segment that is there, the frames behind the indexed positions follow each other. With `verify` also: the checksum of
//           every block that an extent names.
// Errors    kFailedPrecondition when a service has the directory open or it is too new; kNotFound when it is none; kDataLoss when
//           it is damaged as a whole (VERSION, RocksDB's own files). Damage of a part is in the report.
#ifndef UNDERSTUDY_STORAGE_INSPECT_INSPECTOR_H_
#define UNDERSTUDY_STORAGE_INSPECT_INSPECTOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "storage/base/file_system.h"
#include "storage/data_version.h"
#include "storage/index.h"
#include "storage/segment_log.h"

namespace understudy::storage {

struct InspectOptions {
  std::string data_dir;
  std::string group;     // empty: all
  bool extents = false;  // list them
  bool verify = false;   // read and check all data
};

struct DamageReport {
  std::string group;  // empty: of the directory
  std::string volume;
  Epoch epoch;
  ByteRange range;
  std::string message;
};

struct OverlayReport {
  OverlayId id;
  OverlayRecord record;
  bool open = false;
  uint64_t extents = 0;
  uint64_t bytes = 0;               // of the volumes
  std::vector<FoundExtent> listed;  // with `extents`
};

struct LogReport {
  LogRole role = LogRole::kHidden;
  IndexedPosition indexed;
  RolledForward behind;  // the frames that the index does not know yet
};

struct SegmentReport {
  std::string file;
  LogRole role = LogRole::kHidden;
  uint32_t ordinal = 0;
  uint64_t written_bytes = 0;  // up to the end of the last frame
  uint64_t live_bytes = 0;     // data that an extent names
};

struct GroupReport {
  std::string name;
  bool damaged = false;  // the record does not decode: the rest is unknown
  GroupRecord record;
  std::vector<OverlayReport> overlays;
  std::vector<LogReport> logs;
  std::vector<SegmentReport> segments;
};

struct InspectReport {
  DataVersion version;
  std::vector<GroupReport> groups;
  uint64_t free_segments = 0;
  uint64_t free_segment_bytes = 0;  // allocated
  std::vector<DamageReport> damages;
};

absl::StatusOr<InspectReport> Inspect(const InspectOptions& options, base::FileSystem& file_system);

}  // namespace understudy::storage

#endif  // UNDERSTUDY_STORAGE_INSPECT_INSPECTOR_H_
