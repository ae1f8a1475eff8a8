#include "storage/data_version.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

#include "storage/base/status_macros.h"

namespace understudy::storage {
namespace {

constexpr absl::string_view kVersionPrefix = "understudy ";
constexpr absl::string_view kIncompatiblePrefix = "incompatible: ";
constexpr absl::string_view kReadOnlyPrefix = "read-only: ";
constexpr absl::string_view kCompatiblePrefix = "compatible: ";
constexpr char kUnfinished[] = "unfinished";

absl::Status Damaged() {
  return absl::DataLossError(
      "damaged or not of Understudy; nothing was touched: restore the file (of release 0.1 it says "
      "\"understudy 1\"), or give another data directory");
}

// One line of names.
void AddLine(absl::string_view prefix, const std::vector<std::string>& names, std::string* text) {
  if (!names.empty()) absl::StrAppend(text, prefix, absl::StrJoin(names, " "), "\n");
}

}  // namespace

absl::StatusOr<DataVersion> DataVersion::Parse(absl::string_view text) {
  DataVersion found;
  if (!absl::ConsumeSuffix(&text, "\n")) return Damaged();
  std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  if (!absl::ConsumePrefix(&lines[0], kVersionPrefix) ||
      !absl::SimpleAtoi(lines[0], &found.version) || found.version < 1) {
    return Damaged();
  }
  for (size_t i = 1; i < lines.size(); ++i) {
    std::vector<std::string>* names = nullptr;
    if (absl::ConsumePrefix(&lines[i], kIncompatiblePrefix)) names = &found.incompatible;
    if (absl::ConsumePrefix(&lines[i], kReadOnlyPrefix)) names = &found.read_only;
    if (absl::ConsumePrefix(&lines[i], kCompatiblePrefix)) names = &found.compatible;
    if (names == nullptr) return Damaged();
    for (const absl::string_view name : absl::StrSplit(lines[i], ' ', absl::SkipEmpty())) {
      names->emplace_back(name);
    }
  }
  return found;
}

DataVersion DataVersion::Unfinished() {
  DataVersion version;
  version.incompatible = {kUnfinished};
  return version;
}

bool DataVersion::unfinished() const {
  return version == kFormatVersion && incompatible == std::vector<std::string>{kUnfinished};
}

std::string DataVersion::ToString() const {
  std::string text = absl::StrCat(kVersionPrefix, version, "\n");
  AddLine(kIncompatiblePrefix, incompatible, &text);
  AddLine(kReadOnlyPrefix, read_only, &text);
  AddLine(kCompatiblePrefix, compatible, &text);
  return text;
}

absl::Status DataVersion::CheckReadable() const {
  if (version > kFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("format version ", version, ", this program knows up to ", kFormatVersion,
                     ": use the newer release that wrote it; nothing was touched"));
  }
  if (incompatible.empty()) return absl::OkStatus();
  if (unfinished()) {
    return absl::FailedPreconditionError(
        "its first start did not end, and nothing is in it: start understudyd again");
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the data uses ", absl::StrJoin(incompatible, ", "),
                   ", which this release cannot read: use the newer release that wrote it; nothing "
                   "was touched"));
}

absl::Status DataVersion::CheckWritable() const {
  RETURN_IF_ERROR(CheckReadable());
  if (read_only.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the data uses ", absl::StrJoin(read_only, ", "),
      ", which this release can read but not keep up: use the newer release that wrote "
      "it, or look at it with understudy-inspect; nothing was touched"));
}

absl::StatusOr<DataVersion> ReadDataVersion(base::FileSystem& file_system,
                                            const std::string& data_dir) {
  const std::string path = absl::StrCat(data_dir, "/VERSION");
  ASSIGN_OR_RETURN(const std::string text, file_system.ReadWholeFile(path));
  absl::StatusOr<DataVersion> version = DataVersion::Parse(text);
  if (!version.ok()) return Annotate(version.status(), path);
  return version;
}

}  // namespace understudy::storage
