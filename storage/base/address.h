// storage/base/address.h
//
// What may stand where a daemon's address is asked for. One rule for every flag and for whoever
// connects.
#ifndef UNDERSTUDY_STORAGE_BASE_ADDRESS_H_
#define UNDERSTUDY_STORAGE_BASE_ADDRESS_H_

#include "absl/strings/string_view.h"

namespace understudy::base {

// host:port, port 1 to 65535: a name, an IPv4 address, or an IPv6 address in brackets. No URL:
// neither a scheme nor a path.
bool IsHostAndPort(absl::string_view address);
// The same to listen on: port 0 is any free one.
bool IsHostAndPortToListen(absl::string_view address);
// unix:/path
bool IsUnixAddress(absl::string_view address);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_ADDRESS_H_
