#include "client/ctl/units.h"

#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace understudy::ctl {
namespace {

constexpr absl::string_view kSuffixes = "KMGT";

absl::Status NotASize(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", text, "\" is not a size: a whole number of bytes, or one with K, M, G or T behind it"));
}

// One digit after the point, and none when it would be 0.
std::string Short(double value) {
  std::string text = absl::StrFormat("%.1f", value);
  if (absl::EndsWith(text, ".0")) text.resize(text.size() - 2);
  return text;
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(absl::string_view text) {
  absl::string_view digits = text;
  int shift = 0;
  if (!digits.empty()) {
    const size_t unit = kSuffixes.find(absl::ascii_toupper(digits.back()));
    if (unit != absl::string_view::npos) {
      shift = 10 * static_cast<int>(unit + 1);
      digits.remove_suffix(1);
    }
  }
  uint64_t number = 0;
  const bool plain = !digits.empty() && absl::ascii_isdigit(digits.front()) &&
                     absl::ascii_isdigit(digits.back()) && absl::SimpleAtoi(digits, &number);
  if (!plain || number > (std::numeric_limits<uint64_t>::max() >> shift)) return NotASize(text);
  return number << shift;
}

absl::StatusOr<absl::Duration> ParseTimeout(absl::string_view text) {
  absl::Duration duration;
  if (absl::ParseDuration(text, &duration) && duration > absl::ZeroDuration() &&
      duration <= absl::Hours(24)) {
    return duration;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is not a duration up to 24h: write 10s, 500ms or 1m30s"));
}

absl::StatusOr<absl::Duration> ParseTimeToLive(absl::string_view text) {
  absl::Duration duration;
  int days = 0;
  if (absl::EndsWith(text, "d") && absl::SimpleAtoi(text.substr(0, text.size() - 1), &days)) {
    duration = absl::Hours(24) * days;
  } else if (!absl::ParseDuration(text, &duration)) {
    duration = absl::ZeroDuration();
  }
  if (duration >= absl::Microseconds(1) && duration <= absl::Hours(24 * 365)) return duration;
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is not a time up to 365d: write 30m, 8h or 2d"));
}

std::string HumanBytes(uint64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (value >= 1023.95 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return absl::StrCat(Short(value), " ", kUnits[unit]);
}

std::string HumanSeconds(double seconds) {
  if (seconds <= 0) return "0 s";
  if (seconds < 0.9995) return absl::StrCat(Short(seconds * 1e3), " ms");
  if (seconds < 120) return absl::StrCat(Short(seconds), " s");
  if (seconds < 2 * 3600) return absl::StrFormat("%.0f min", seconds / 60);
  if (seconds < 2 * 86400) return absl::StrFormat("%.0f h", seconds / 3600);
  return absl::StrFormat("%.0f d", seconds / 86400);
}

}  // namespace understudy::ctl
