// client/ctl/volume_spec.h
//
// The value of --volume: NAME,disk=PATH[,size=BYTES][,create][,top-id=ID][,initial=equal|sync]. A
// comma within a path is written twice.
#ifndef UNDERSTUDY_CLIENT_CTL_VOLUME_SPEC_H_
#define UNDERSTUDY_CLIENT_CTL_VOLUME_SPEC_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace understudy::v1 {
class VolumeSpec;
}  // namespace understudy::v1

namespace understudy::ctl {

// Checks the form only: names, sizes and disks are the service's to judge. kInvalidArgument names every problem at once,
// separated by "; ".
absl::StatusOr<v1::VolumeSpec> ParseVolumeSpec(absl::string_view text);

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_VOLUME_SPEC_H_
