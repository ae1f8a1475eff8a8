// storage/base/ids.h
//
// The numbers that must not be mixed up, as types of their own, and the words that both daemons share.
#ifndef UNDERSTUDY_STORAGE_BASE_IDS_H_
#define UNDERSTUDY_STORAGE_BASE_IDS_H_

#include <compare>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace understudy {

// An explicit wrapper: Epoch{3} and Term{3} do not compare, value() gives the number.
template <typename Tag, typename Number = uint64_t>
class StrongNumber {
 public:
  constexpr StrongNumber() = default;
  explicit constexpr StrongNumber(Number value) : value_(value) {}
  constexpr Number value() const { return value_; }
  constexpr StrongNumber Next() const { return StrongNumber(value_ + 1); }
  friend constexpr auto operator<=>(const StrongNumber&, const StrongNumber&) = default;
  template <typename H>
  friend H AbslHashValue(H hash, const StrongNumber& number) {
    return H::combine(std::move(hash), number.value_);
  }

 private:
  Number value_ = 0;
};

using Epoch = StrongNumber<struct EpochTag>;  // interval between two checkpoints, from 1
using Term = StrongNumber<struct TermTag>;    // primaryship, from 1; 0: none granted yet
using VolumeId =
    StrongNumber<struct VolumeTag, uint32_t>;       // index of the volume in its group, from 0
using OverlayId = StrongNumber<struct OverlayTag>;  // never repeats in a data directory; 0: none

// 128 random bits that name one pairing of a primary with a replica. All zero: none.
struct Incarnation {
  uint64_t high = 0;
  uint64_t low = 0;
  bool none() const { return high == 0 && low == 0; }
  std::string ToHex() const;                                          // 32 lower-case digits
  static absl::StatusOr<Incarnation> FromHex(absl::string_view hex);  // kInvalidArgument
  friend auto operator<=>(const Incarnation&, const Incarnation&) = default;
};

enum class Stage : uint8_t {
  kNone = 0,
  kRunning = 1,
  kFailover = 2,
  kFailoverFailed = 3,
  kDone = 4
};
absl::string_view StageName(Stage stage);  // "RUNNING"

enum class Initial : uint8_t { kEqual = 0, kSync = 1 };

// Names of groups and volumes: 1 to 63 of a-z 0-9 - . ; top-ids: 1 to 127, also / ; first and last a letter or digit.
// kInvalidArgument, naming `what`.
absl::Status CheckName(absl::string_view what, absl::string_view name);
absl::Status CheckTopId(absl::string_view top_id);

}  // namespace understudy

#endif  // UNDERSTUDY_STORAGE_BASE_IDS_H_
