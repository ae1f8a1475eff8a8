#include "client/intent_file.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

#include "client/intent_log.h"
#include "client/plain_value.h"
#include "storage/base/crc32c.h"

namespace understudy::client {
namespace {

constexpr char kLogMagic[8] = {'U', 'N', 'D', 'R', 'S', 'T', 'Y', 'I'};
constexpr uint32_t kLogVersion = 1;

struct HeaderStart {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  uint32_t region_bytes;
  uint32_t volumes;
};
static_assert(sizeof(HeaderStart) == 24);

struct SectorStart {
  uint32_t crc32c;
  uint32_t zero;
};
static_assert(sizeof(SectorStart) + kIntentBitmapBytes == kSectorBytes);

// "vda of 1048576 bytes, vdb of 512 bytes": the volumes of an intact header.
std::string VolumesOf(absl::string_view header) {
  HeaderStart start;
  std::memcpy(&start, header.data(), sizeof(start));
  absl::string_view rest = header.substr(sizeof(start));
  std::string text;
  for (uint32_t i = 0; i < start.volumes; ++i) {
    uint64_t size_bytes = 0;
    uint32_t name_bytes = 0;
    if (!Take(rest, size_bytes) || !Take(rest, name_bytes)) break;
    absl::StrAppend(&text, i == 0 ? "" : ", ", rest.substr(0, name_bytes), " of ", size_bytes,
                    " bytes");
    rest.remove_prefix(std::min<size_t>(name_bytes, rest.size()));
  }
  return text;
}

}  // namespace

std::string EncodeIntentHeader(const std::vector<VolumeSpec>& volumes) {
  std::string header(sizeof(HeaderStart), '\0');
  for (const VolumeSpec& volume : volumes) {
    Append(volume.size_bytes, header);
    Append(static_cast<uint32_t>(volume.name.size()), header);
    header += volume.name;
  }
  header.resize(RoundUp(header.size() + sizeof(uint32_t), kSectorBytes) - sizeof(uint32_t));
  HeaderStart start = {.magic = {},
                       .version = kLogVersion,
                       .header_bytes = static_cast<uint32_t>(header.size() + sizeof(uint32_t)),
                       .region_bytes = IntentLog::kRegionBytes,
                       .volumes = static_cast<uint32_t>(volumes.size())};
  std::memcpy(start.magic, kLogMagic, sizeof(kLogMagic));
  std::memcpy(header.data(), &start, sizeof(start));
  Append(base::Crc32c(header.data(), header.size()), header);
  return header;
}

std::string EncodeIntentSector(absl::string_view bitmap) {
  std::string sector(sizeof(SectorStart), '\0');
  sector.append(bitmap.data(), bitmap.size());
  const uint32_t crc = base::Crc32c(sector.data() + sizeof(crc), sector.size() - sizeof(crc));
  std::memcpy(sector.data(), &crc, sizeof(crc));
  return sector;
}

bool IntentSectorIntact(absl::string_view sector) {
  SectorStart start;
  std::memcpy(&start, sector.data(), sizeof(start));
  return start.crc32c ==
         base::Crc32c(sector.data() + sizeof(start.crc32c), sector.size() - sizeof(start.crc32c));
}

std::string EncodeIntentIds(uint64_t id, uint64_t before) {
  std::string ids;
  Append(id, ids);
  Append(before, ids);
  ids.resize(kIntentBitmapBytes);
  return EncodeIntentSector(ids);
}

bool HasIntentId(absl::string_view sector, uint64_t id) {
  if (sector.size() != kSectorBytes || !IntentSectorIntact(sector)) return false;
  uint64_t ids[2];
  std::memcpy(ids, sector.data() + sizeof(SectorStart), sizeof(ids));
  return ids[0] == id || ids[1] == id;
}

absl::Status CheckIntentFile(absl::string_view file, absl::string_view expected, uint64_t size) {
  HeaderStart start;
  if (file.size() < sizeof(start)) return absl::DataLossError("it is cut short");
  std::memcpy(&start, file.data(), sizeof(start));
  if (std::memcmp(start.magic, kLogMagic, sizeof(kLogMagic)) != 0) {
    return absl::DataLossError("it is not one");
  }
  if (start.version != kLogVersion) {
    return absl::FailedPreconditionError(absl::StrCat("another release wrote it (version ",
                                                      start.version, ", this one knows ",
                                                      kLogVersion, ")"));
  }
  uint32_t crc = 0;
  const uint64_t bytes = start.header_bytes;
  if (bytes < sizeof(start) + sizeof(crc) || bytes > file.size()) {
    return absl::DataLossError("its header is damaged");
  }
  std::memcpy(&crc, file.data() + bytes - sizeof(crc), sizeof(crc));
  if (crc != base::Crc32c(file.data(), bytes - sizeof(crc))) {
    return absl::DataLossError("its header is damaged");
  }
  if (file.substr(0, bytes) != expected) {
    return absl::FailedPreconditionError(absl::StrCat(
        "it is of ", VolumesOf(file.substr(0, bytes)), ", and the agent has ", VolumesOf(expected),
        "; if one has grown or was added: docs/runbooks.md, \"Grow a disk, add a disk\""));
  }
  if (file.size() < size) return absl::DataLossError("it is cut short");
  if (file.size() > size + kSectorBytes) return absl::DataLossError("it is too long");
  return absl::OkStatus();
}

}  // namespace understudy::client
