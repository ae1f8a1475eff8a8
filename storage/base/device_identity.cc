#include "storage/base/device_identity.h"

#include <fstream>
#include <sys/sysmacros.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace understudy::base {
namespace {

// "" when there is none.
std::string Attribute(const std::string& directory, const char* name) {
  std::ifstream file(absl::StrCat(directory, "/", name));
  std::string line;
  std::getline(file, line);
  return std::string(absl::StripAsciiWhitespace(line));
}

}  // namespace

FileIdentity DeviceIdentity(const std::string& sysfs, dev_t device) {
  const std::string self = absl::StrCat(sysfs, "/dev/block/", major(device), ":", minor(device));
  const std::string partition = Attribute(self, "partition");
  const std::string disk = partition.empty() ? self : absl::StrCat(self, "/..");
  for (const char* const name : {"dm/uuid", "wwid", "device/wwid", "serial", "loop/backing_file"}) {
    const std::string id = Attribute(disk, name);
    if (id.empty()) continue;
    return {.file_system = absl::StrCat("device ", name, " ", id,
                                        partition.empty() ? "" : " partition ", partition)};
  }
  return {.file_system = "device", .inode = device};
}

}  // namespace understudy::base
