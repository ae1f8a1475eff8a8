// storage/base/text.h
//
// What the texts that people give, and those that they get, have in common: they are UTF-8, as
// protobuf sends no other string; and a comma within a field of "NAME,key=value,..." is written
// twice, as in QEMU's options.
#ifndef UNDERSTUDY_STORAGE_BASE_TEXT_H_
#define UNDERSTUDY_STORAGE_BASE_TEXT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace understudy::base {

// `text`, with each byte that is no UTF-8 as \xNN. A path of Linux, and so a message of the kernel
// or a link, may hold any bytes.
std::string ToUtf8(absl::string_view text);

// kInvalidArgument unless `text` is UTF-8. `what` names it: a flag, a field.
absl::Status CheckUtf8(absl::string_view what, absl::string_view text);

// "vda,disk=/srv/a,,b.raw" -> "vda", "disk=/srv/a,b.raw". At least one field. None but the last can
// be empty, and none begins with a comma.
std::vector<std::string> SplitFields(absl::string_view text);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_TEXT_H_
