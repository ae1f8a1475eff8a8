#include "storage/base/sealed_text.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "storage/base/crc32c.h"

namespace understudy::base {
namespace {

constexpr absl::string_view kCrc = "crc32c ";

std::string CrcLine(absl::string_view text) {
  return absl::StrFormat("%s%08x\n", kCrc, Crc32c(text.data(), text.size()));
}

}  // namespace

std::string SealText(absl::string_view head, absl::string_view body) {
  const std::string text = absl::StrCat(head, body);
  return text + CrcLine(text);
}

absl::StatusOr<absl::string_view> UnsealText(absl::string_view head, absl::string_view text) {
  if (!absl::StartsWith(text, head)) return absl::DataLossError("it is of another version");
  const size_t crc = text.rfind(kCrc);
  if (crc == absl::string_view::npos || text.substr(crc) != CrcLine(text.substr(0, crc))) {
    return absl::DataLossError("its checksum does not match");
  }
  return text.substr(head.size(), crc - head.size());
}

}  // namespace understudy::base
