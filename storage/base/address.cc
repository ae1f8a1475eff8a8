#include "storage/base/address.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"

namespace understudy::base {
namespace {

bool IsHost(absl::string_view host) {
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  return !host.empty() && std::all_of(host.begin(), host.end(), [&](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_' || c >= 0x80 ||
           (bracketed && (c == ':' || c == '%'));
  });
}

bool IsHostAndPortFrom(absl::string_view address, uint32_t port_min) {
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos) return false;
  const absl::string_view digits = address.substr(colon + 1);
  const bool number = std::all_of(digits.begin(), digits.end(), absl::ascii_isdigit);
  uint32_t port = 0;
  return IsHost(address.substr(0, colon)) && number && absl::SimpleAtoi(digits, &port) &&
         port >= port_min && port <= 65535;
}

}  // namespace

bool IsHostAndPort(absl::string_view address) { return IsHostAndPortFrom(address, 1); }
bool IsHostAndPortToListen(absl::string_view address) { return IsHostAndPortFrom(address, 0); }
bool IsUnixAddress(absl::string_view address) {
  return absl::StartsWith(address, "unix:") && address.size() > 5;
}

}  // namespace understudy::base
