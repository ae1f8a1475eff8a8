// client/ctl/units.h
//
// Numbers as people type and read them: sizes with binary units, durations, ages. Binary units throughout: K is 1024.
#ifndef UNDERSTUDY_CLIENT_CTL_UNITS_H_
#define UNDERSTUDY_CLIENT_CTL_UNITS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace understudy::ctl {

// "4096", "64K", "10G", "2t": a whole number with an optional K, M, G or T. kInvalidArgument, also when it overflows.
absl::StatusOr<uint64_t> ParseBytes(absl::string_view text);

// "10s", "1m30s", "500ms": positive. kInvalidArgument otherwise.
absl::StatusOr<absl::Duration> ParseTimeout(absl::string_view text);

// The same up to a year, and with "2d" for days.
absl::StatusOr<absl::Duration> ParseTimeToLive(absl::string_view text);

std::string HumanBytes(uint64_t bytes);    // "512 B", "1.5 MiB", "10 GiB"
std::string HumanSeconds(double seconds);  // "0 s", "3.1 ms", "2.5 s", "4 min", "3 h", "2 d"

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_UNITS_H_
