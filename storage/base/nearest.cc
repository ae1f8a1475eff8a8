#include "storage/base/nearest.h"

#include <algorithm>

#include "absl/strings/ascii.h"

namespace understudy::base {
namespace {

// Edits from one to the other, of the kinds that the header names.
size_t Distance(const std::string& one, const std::string& other) {
  std::vector<std::vector<size_t>> edits(one.size() + 1, std::vector<size_t>(other.size() + 1));
  for (size_t i = 0; i <= one.size(); ++i) {
    for (size_t j = 0; j <= other.size(); ++j) {
      if (i == 0 || j == 0) {
        edits[i][j] = i + j;
        continue;
      }
      const size_t changed = edits[i - 1][j - 1] + (one[i - 1] != other[j - 1] ? 1 : 0);
      edits[i][j] = std::min({changed, edits[i - 1][j] + 1, edits[i][j - 1] + 1});
      if (i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1]) {
        edits[i][j] = std::min(edits[i][j], edits[i - 2][j - 2] + 1);
      }
    }
  }
  return edits[one.size()][other.size()];
}

}  // namespace

std::string Nearest(absl::string_view word, const std::vector<std::string>& known) {
  const std::string typed = absl::AsciiStrToLower(word.substr(0, 100));
  std::string nearest;
  size_t least = typed.size() / 3 + 1;  // no more than that minus one
  for (const std::string& candidate : known) {
    const size_t distance = Distance(typed, absl::AsciiStrToLower(candidate));
    if (distance >= least) continue;
    least = distance;
    nearest = candidate;
  }
  return nearest;
}

}  // namespace understudy::base
