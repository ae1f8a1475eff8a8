// storage/base/sealed_text.h
//
// The small text files that are replaced as a whole (errors, contacts):
//
//     HEAD             one line, the kind and the version
//     ...              the body: whole lines
//     crc32c HEX       CRC32C of everything before this line, 8 digits
//
// Errors   kDataLoss with what is wrong; the caller knows the path.
#ifndef UNDERSTUDY_STORAGE_BASE_SEALED_TEXT_H_
#define UNDERSTUDY_STORAGE_BASE_SEALED_TEXT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace understudy::base {

// `head` ends in its only newline.
std::string SealText(absl::string_view head, absl::string_view body);

// The body, a part of `text`.
absl::StatusOr<absl::string_view> UnsealText(absl::string_view head, absl::string_view text);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_SEALED_TEXT_H_
