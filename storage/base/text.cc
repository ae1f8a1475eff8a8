#include "storage/base/text.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace understudy::base {
namespace {

// Bytes of the character that `text` begins with; 0: it begins with none. As RFC 3629: neither
// overlong forms nor surrogates, and nothing above U+10FFFF.
size_t CharacterBytes(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const size_t bytes = first < 0xC2   ? 0
                       : first < 0xE0 ? 2
                       : first < 0xF0 ? 3
                       : first < 0xF5 ? 4
                                      : 0;
  if (bytes == 0 || bytes > text.size()) return 0;
  const uint8_t least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const uint8_t most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < least || byte(1) > most) return 0;
  for (size_t i = 2; i < bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return bytes;
}

}  // namespace

std::string ToUtf8(absl::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  while (!text.empty()) {
    const size_t bytes = CharacterBytes(text);
    if (bytes == 0) {
      absl::StrAppendFormat(&clean, "\\x%02x", static_cast<uint8_t>(text[0]));
      text.remove_prefix(1);
    } else {
      clean.append(text.data(), bytes);
      text.remove_prefix(bytes);
    }
  }
  return clean;
}

absl::Status CheckUtf8(absl::string_view what, absl::string_view text) {
  const std::string clean = ToUtf8(text);
  if (clean == text) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      what, ": \"", clean, "\" is not UTF-8; remedy: rename it, or name a link that leads to it"));
}

std::vector<std::string> SplitFields(absl::string_view text) {
  std::vector<std::string> fields(1);
  for (size_t i = 0; i < text.size(); ++i) {
    const bool comma = text[i] == ',';
    const bool doubled = comma && i + 1 < text.size() && text[i + 1] == ',';
    if (comma && !doubled) {
      fields.emplace_back();
    } else {
      fields.back().push_back(text[i]);
    }
    if (doubled) ++i;
  }
  return fields;
}

}  // namespace understudy::base
