// storage/base/nearest.h
//
// For "unknown: stauts; did you mean status?".
#ifndef UNDERSTUDY_STORAGE_BASE_NEAREST_H_
#define UNDERSTUDY_STORAGE_BASE_NEAREST_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace understudy::base {

// Which of `known` somebody may have meant by `word`; of several the first. Empty when none is like
// it: one letter in three may be wrong, missing, too many, or change places with its neighbour.
// Case does not count.
std::string Nearest(absl::string_view word, const std::vector<std::string>& known);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_NEAREST_H_
