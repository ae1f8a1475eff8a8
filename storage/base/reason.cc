#include "storage/base/reason.h"

#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/str_split.h"

namespace understudy {
namespace {
constexpr absl::string_view kPayloadUrl = "understudy/reason";
constexpr char kFieldEnd =
    '\x1f';  // never part of a reason, a key or a value: they are printable text
}  // namespace

absl::Status WithReason(absl::Status status, Reason reason) {
  if (status.ok()) return status;
  std::string payload = std::move(reason.reason);
  for (const auto& [key, value] : reason.metadata) {
    payload.push_back(kFieldEnd);
    payload.append(key);
    payload.push_back(kFieldEnd);
    payload.append(value);
  }
  status.SetPayload(kPayloadUrl, absl::Cord(payload));
  return status;
}

std::optional<Reason> ReasonOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayloadUrl);
  if (!payload.has_value()) return std::nullopt;
  const std::vector<std::string> fields = absl::StrSplit(std::string(*payload), kFieldEnd);
  Reason reason{.reason = fields[0], .metadata = {}};
  for (size_t i = 1; i + 1 < fields.size(); i += 2) reason.metadata[fields[i]] = fields[i + 1];
  return reason;
}

bool HasReason(const absl::Status& status, absl::string_view reason) {
  const auto found = ReasonOf(status);
  return found.has_value() && found->reason == std::string(reason);
}

}  // namespace understudy
