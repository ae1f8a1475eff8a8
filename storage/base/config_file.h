// storage/base/config_file.h
//
// The lines of a configuration file, which is docs/operations.md#configuration-files:
//
//     # a comment
//     key = value        the rest of the line; a comment behind it begins with a blank and #
//     key = "value"      as it is, whatever it holds but the quote; or with '
//     key = ["a", 'b']   a list, over several lines if you like; quoted values need no brackets
//     key                a switch that is on
//
// No TOML or INI library does: what is right today has values without quotes, which are no TOML,
// and INI has no standard that says what of a value is cut off. This reader cuts nothing. What it
// does not understand is a problem, of which it tells all.
#ifndef UNDERSTUDY_STORAGE_BASE_CONFIG_FILE_H_
#define UNDERSTUDY_STORAGE_BASE_CONFIG_FILE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace understudy::base {

struct ConfigLine {
  int number = 0;  // from 1; of a list where it begins
  std::string key;
  std::vector<std::string> values;  // none: the key stands alone
  bool quoted = true;               // false: a single value that is the rest of the line
};

struct ConfigProblem {
  int line = 0;
  std::string text;
};

struct ConfigLines {
  std::vector<ConfigLine> lines;
  std::vector<ConfigProblem> problems;
};

// Knows no keys and allows each any number of times.
ConfigLines ParseConfig(absl::string_view text);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_CONFIG_FILE_H_
