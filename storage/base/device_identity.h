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
#ifndef UNDERSTUDY_STORAGE_BASE_DEVICE_IDENTITY_H_
#define UNDERSTUDY_STORAGE_BASE_DEVICE_IDENTITY_H_

#include <string>
#include <sys/types.h>

#include "storage/base/file_system.h"

namespace understudy::base {

// `sysfs`: where it is mounted.
FileIdentity DeviceIdentity(const std::string& sysfs, dev_t device);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_DEVICE_IDENTITY_H_
