// storage/base/device_identity.h
//
// What a block device is called by who makes it, which stays when the kernel numbers its devices in another order: after a reboot
// /dev/sdb may be another disk, under the same number.
//
//     device-mapper, LVM, multipath     dm/uuid
//     NVMe; SCSI, SATA, SAS             wwid; device/wwid
//     virtio                            serial, if the hypervisor gives one
//     loop                              loop/backing_file
//     a partition                       its disk, and its number there
//
// A device with none of them is known by its number alone.
//
// And what a file system is called:
//
//     by its id (statfs), which ext4, btrfs, tmpfs and others make from their UUID
//     XFS, whose id is the number of its device: by its UUID
//     any other with such an id: by what names its device
//     one without an id or a device, as NFS and FUSE: by type, source and place of the mount
#ifndef UNDERSTUDY_STORAGE_BASE_DEVICE_IDENTITY_H_
#define UNDERSTUDY_STORAGE_BASE_DEVICE_IDENTITY_H_

#include <cstdint>
#include <string>
#include <sys/types.h>

#include "storage/base/file_system.h"

namespace understudy::base {

// `sysfs`: where it is mounted.
FileIdentity DeviceIdentity(const std::string& sysfs, dev_t device);

struct FileSystemFacts {
  uint64_t id = 0;        // statfs
  std::string uuid;       // where the file system tells it and makes no id from it
  dev_t device = 0;       // stat
  uint64_t mount_id = 0;  // statx
};
// `mountinfo`: the file of this name below /proc.
std::string FileSystemName(const std::string& sysfs, const std::string& mountinfo,
                           const FileSystemFacts& facts);
// As earlier releases called it, who took any id for one that stays.
std::string FormerFileSystemName(const FileSystemFacts& facts);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_DEVICE_IDENTITY_H_
