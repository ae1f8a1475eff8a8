#include "storage/base/ids.h"

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace understudy {
namespace {

bool LowerOrDigit(char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c); }

bool WellFormed(absl::string_view name, size_t length_max, absl::string_view punctuation) {
  if (name.empty() || name.size() > length_max) return false;
  for (const char c : name) {
    if (!LowerOrDigit(c) && punctuation.find(c) == absl::string_view::npos) return false;
  }
  return LowerOrDigit(name.front()) && LowerOrDigit(name.back());
}

}  // namespace

std::string Incarnation::ToHex() const { return absl::StrFormat("%016x%016x", high, low); }

absl::StatusOr<Incarnation> Incarnation::FromHex(absl::string_view hex) {
  Incarnation incarnation;
  if (hex.size() != 32 || !absl::SimpleHexAtoi(hex.substr(0, 16), &incarnation.high) ||
      !absl::SimpleHexAtoi(hex.substr(16), &incarnation.low)) {
    return absl::InvalidArgumentError(
        absl::StrCat("incarnation \"", hex, "\" is not 32 hexadecimal digits"));
  }
  return incarnation;
}

absl::string_view StageName(Stage stage) {
  switch (stage) {
    case Stage::kNone:
      return "NONE";
    case Stage::kRunning:
      return "RUNNING";
    case Stage::kFailover:
      return "FAILOVER";
    case Stage::kFailoverFailed:
      return "FAILOVER_FAILED";
    case Stage::kDone:
      return "DONE";
  }
  return "UNKNOWN";
}

absl::Status CheckName(absl::string_view what, absl::string_view name) {
  if (WellFormed(name, 63, "-.")) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      what, " name \"", name,
      "\" is invalid: use 1 to 63 of a-z 0-9 - . beginning and ending with a letter or digit"));
}

absl::Status CheckTopId(absl::string_view top_id) {
  if (WellFormed(top_id, 127, "-./")) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "top-id \"", top_id,
      "\" is invalid: use 1 to 127 of a-z 0-9 - . / beginning and ending with a letter or digit"));
}

}  // namespace understudy
