// storage/base/status_macros.h
//
// RETURN_IF_ERROR and ASSIGN_OR_RETURN for absl::Status, and Annotate(), which prepends the noun and its id once, where
// they are known, keeping the code and the payloads.
#ifndef UNDERSTUDY_STORAGE_BASE_STATUS_MACROS_H_
#define UNDERSTUDY_STORAGE_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace understudy {

// "volume 7 epoch 12: " + message. OK stays OK.
inline absl::Status Annotate(const absl::Status& status, absl::string_view prefix) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), absl::StrCat(prefix, ": ", status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    annotated.SetPayload(url, payload);
  });
  return annotated;
}

}  // namespace understudy

#define RETURN_IF_ERROR(expression)                                                     \
  do {                                                                                  \
    if (absl::Status status_of_expression = (expression); !status_of_expression.ok()) { \
      return status_of_expression;                                                      \
    }                                                                                   \
  } while (false)

#define UNDERSTUDY_CONCAT_INNER(a, b) a##b
#define UNDERSTUDY_CONCAT(a, b) UNDERSTUDY_CONCAT_INNER(a, b)
#define ASSIGN_OR_RETURN(declaration, expression) \
  UNDERSTUDY_ASSIGN_OR_RETURN(UNDERSTUDY_CONCAT(statusor_, __LINE__), declaration, expression)
#define UNDERSTUDY_ASSIGN_OR_RETURN(statusor, declaration, expression) \
  auto statusor = (expression);                                        \
  if (!statusor.ok()) return std::move(statusor).status();             \
  declaration = *std::move(statusor)

#endif  // UNDERSTUDY_STORAGE_BASE_STATUS_MACROS_H_
