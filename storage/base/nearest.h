// storage/base/nearest.h
//
// What somebody may have meant who has misspelt a name: of a flag, a key, a variable, a command.
#ifndef UNDERSTUDY_STORAGE_BASE_NEAREST_H_
#define UNDERSTUDY_STORAGE_BASE_NEAREST_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace understudy::base {

// The one of `names` that is spelt almost like `word`: at most two letters too many, missing,
// other, or swapped with their neighbour (of eight or more letters a quarter), or `word` is how it
// begins (five letters or more). Upper and lower case are the same, as are - and _. Empty: none is.
std::string Nearest(absl::string_view word, const std::vector<std::string>& names);

// ", did you mean NAME?", or nothing.
std::string DidYouMean(absl::string_view word, const std::vector<std::string>& names);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_NEAREST_H_
