// client/intent_file.h
//
// The bytes of the write-intent log's file, as client/intent_log.h lays them out.
#ifndef UNDERSTUDY_CLIENT_INTENT_FILE_H_
#define UNDERSTUDY_CLIENT_INTENT_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

#include "client/client_types.h"

namespace understudy::client {

inline constexpr uint64_t kIntentBitmapBytes = 504;  // of a sector

std::string EncodeIntentHeader(const std::vector<VolumeSpec>& volumes);
// A sector of one bitmap.
std::string EncodeIntentSector(absl::string_view bitmap);
bool IntentSectorIntact(absl::string_view sector);
// The sector of the ids.
std::string EncodeIntentIds(uint64_t id, uint64_t before);
// `sector`: what there is of it; an older file has none.
bool HasIntentId(absl::string_view sector, uint64_t id);
// Whether `file` is one with this header, and whole. `size`: without the sector of the ids.
// kDataLoss, or kFailedPrecondition when another release wrote it or it is of other volumes.
absl::Status CheckIntentFile(absl::string_view file, absl::string_view expected, uint64_t size);

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_INTENT_FILE_H_
