#include "client/ctl/volume_spec.h"

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "client/ctl/units.h"
#include "storage/base/text.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::ctl {
namespace {

constexpr absl::string_view kForm =
    "NAME,disk=PATH[,size=BYTES][,create][,top-id=ID][,initial=equal|sync]";

class Parser {
 public:
  explicit Parser(absl::string_view text) : text_(text) {}

  absl::StatusOr<v1::VolumeSpec> Parse() {
    const std::vector<std::string> fields = base::SplitFields(text_);
    spec_.set_name(fields[0]);
    if (fields[0].empty() || fields[0].find('=') != std::string::npos) {
      Problem("it must begin with the volume's name");
    }
    for (size_t i = 1; i < fields.size(); ++i) Field(fields[i]);
    if (seen_.count("disk") == 0) Problem("disk=PATH is missing");
    if (problems_.empty()) return spec_;
    return absl::InvalidArgumentError(
        absl::StrCat(text_, ": ", absl::StrJoin(problems_, "; "), " (the form is ", kForm, ")"));
  }

 private:
  void Problem(const std::string& problem) { problems_.push_back(problem); }

  void Field(const std::string& field) {
    const size_t equals = field.find('=');
    const std::string key = field.substr(0, equals);
    const bool has_value = equals != std::string::npos;
    const std::string value = has_value ? field.substr(equals + 1) : "";
    if (!seen_.insert(key).second) return Problem(absl::StrCat(key, " is given twice"));
    if (key == "create") {
      if (has_value) return Problem("create takes no value");
      return spec_.set_create(true);
    }
    if (key != "disk" && key != "size" && key != "top-id" && key != "initial") {
      return Problem(absl::StrCat("\"", key, "\" is unknown"));
    }
    if (value.empty()) return Problem(absl::StrCat(key, " needs a value"));
    SetValue(key, value);
  }

  void SetValue(const std::string& key, const std::string& value) {
    if (key == "disk") return spec_.set_disk_path(value);
    if (key == "top-id") return spec_.set_top_id(value);
    if (key == "size") return SetSize(value);
    if (value == "equal") return spec_.set_initial(v1::INITIAL_EQUAL);
    if (value == "sync") return spec_.set_initial(v1::INITIAL_SYNC);
    Problem(absl::StrCat("initial is equal or sync, not \"", value, "\""));
  }

  void SetSize(const std::string& value) {
    const absl::StatusOr<uint64_t> bytes = ParseBytes(value);
    if (!bytes.ok()) return Problem(absl::StrCat("size ", bytes.status().message()));
    spec_.set_size_bytes(*bytes);
  }

  const absl::string_view text_;
  v1::VolumeSpec spec_;
  std::set<std::string> seen_;
  std::vector<std::string> problems_;
};

}  // namespace

absl::StatusOr<v1::VolumeSpec> ParseVolumeSpec(absl::string_view text) {
  return Parser(text).Parse();
}

}  // namespace understudy::ctl
