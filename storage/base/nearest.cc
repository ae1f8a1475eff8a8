#include "storage/base/nearest.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace understudy::base {
namespace {

std::string Folded(absl::string_view name) {
  return absl::StrReplaceAll(absl::AsciiStrToLower(name), {{"_", "-"}});
}

// Letters to insert, delete, replace, or swap with the next one, to make one of the other.
size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> least(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        least[i][j] = i + j;
        continue;
      }
      const bool same = a[i - 1] == b[j - 1];
      least[i][j] = std::min(
          {least[i - 1][j] + 1, least[i][j - 1] + 1, least[i - 1][j - 1] + (same ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) least[i][j] = std::min(least[i][j], least[i - 2][j - 2] + 1);
    }
  }
  return least[a.size()][b.size()];
}

}  // namespace

std::string Nearest(absl::string_view word, const std::vector<std::string>& names) {
  constexpr size_t kBeginning = 5;
  constexpr size_t kLookedAt = 100;  // bounds the work
  const std::string wanted = Folded(word.substr(0, kLookedAt));
  // Of a short word nearly everything is a misspelling.
  size_t limit = wanted.size() < 3 ? 1 : std::max<size_t>(2, wanted.size() / 4);
  std::string nearest;
  for (const std::string& name : names) {
    const std::string folded = Folded(name);
    const size_t distance = Distance(wanted, folded);
    if (distance > limit || (distance == limit && !nearest.empty())) continue;
    limit = distance;
    nearest = name;
  }
  if (!nearest.empty() || wanted.size() < kBeginning) return nearest;
  for (const std::string& name : names) {
    if (absl::StartsWith(Folded(name), wanted)) return name;
  }
  return "";
}

std::string DidYouMean(absl::string_view word, const std::vector<std::string>& names) {
  const std::string nearest = Nearest(word, names);
  return nearest.empty() ? "" : absl::StrCat(", did you mean ", nearest, "?");
}

}  // namespace understudy::base
