#include "storage/base/device_identity.h"

#include <fstream>
#include <sys/sysmacros.h>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace understudy::base {
namespace {

// "" when there is none.
std::string Attribute(const std::string& directory, const char* name) {
  std::ifstream file(absl::StrCat(directory, "/", name));
  std::string line;
  std::getline(file, line);
  return std::string(absl::StripAsciiWhitespace(line));
}

// As Linux packs it where an id is made of it.
uint64_t PackedNumber(dev_t device) {
  const uint64_t low = minor(device);
  return (low & 0xff) | uint64_t{major(device)} << 8 | (low & ~uint64_t{0xff}) << 12;
}

// Whether the source says which file system it is, wherever that is mounted: of NFS, CIFS, Ceph,
// sshfs, 9p, virtiofs.
bool IsRemote(const std::string& type, const std::string& source) {
  return absl::StrContains(source, ":/") || absl::StartsWith(source, "//") || type == "9p" ||
         type == "virtiofs";
}

// "TYPE SOURCE", and "PLACE" where the source does not say which it is; "" when it is not there. A
// line:
//     36 35 0:42 /root /place rw,noatime shared:1 - type source options
std::string MountName(const std::string& mountinfo, uint64_t mount_id) {
  std::ifstream file(mountinfo);
  for (std::string line; std::getline(file, line);) {
    const std::pair<std::string, std::string> halves =
        absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    const std::vector<std::string> mount = absl::StrSplit(halves.first, ' ');
    const std::vector<std::string> source = absl::StrSplit(halves.second, ' ');
    if (mount.size() < 5 || source.size() < 2 || mount[0] != absl::StrCat(mount_id)) continue;
    const std::string name = absl::StrCat(source[0], " ", source[1]);
    return IsRemote(source[0], source[1]) ? name : absl::StrCat(name, " ", mount[4]);
  }
  return "";
}

}  // namespace

std::string FileSystemName(const std::string& sysfs, const std::string& mountinfo,
                           const FileSystemFacts& facts) {
  if (!facts.uuid.empty()) return absl::StrCat("uuid ", facts.uuid);
  const bool numbered = facts.id == 0 || facts.id == PackedNumber(facts.device);
  if (!numbered) return FormerFileSystemName(facts);
  const FileIdentity device = DeviceIdentity(sysfs, facts.device);
  if (device.inode == 0) return absl::StrCat("on ", device.file_system);
  const std::string mount = MountName(mountinfo, facts.mount_id);
  return mount.empty() ? FormerFileSystemName(facts) : absl::StrCat("mount ", mount);
}

std::string FormerFileSystemName(const FileSystemFacts& facts) {
  return facts.id != 0 ? absl::StrCat(absl::Hex(facts.id)) : absl::StrCat("dev", facts.device);
}

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
