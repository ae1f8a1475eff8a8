#include "proto/status_codec.h"

#include <optional>
#include <string>
#include <utility>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

#include "storage/base/reason.h"
#include "storage/base/text.h"

namespace understudy::proto {
namespace {

constexpr char kDomain[] = "understudy";

google::rpc::ErrorInfo ToErrorInfo(const Reason& reason) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason.reason);
  info.set_domain(kDomain);
  info.mutable_metadata()->insert(reason.metadata.begin(), reason.metadata.end());
  return info;
}

std::optional<Reason> ReasonIn(const std::string& details) {
  google::rpc::Status rich;
  if (details.empty() || !rich.ParseFromString(details)) return std::nullopt;
  for (const google::protobuf::Any& detail : rich.details()) {
    google::rpc::ErrorInfo info;
    if (!detail.UnpackTo(&info) || info.domain() != kDomain || info.reason().empty()) continue;
    return Reason{.reason = info.reason(),
                  .metadata = {info.metadata().begin(), info.metadata().end()}};
  }
  return std::nullopt;
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message = base::ToUtf8(status.message());
  const std::optional<Reason> reason = ReasonOf(status);
  if (!reason.has_value()) return grpc::Status(code, message);
  google::rpc::Status rich;
  rich.set_code(static_cast<int>(code));
  rich.set_message(message);
  rich.add_details()->PackFrom(ToErrorInfo(*reason));
  return grpc::Status(code, message, rich.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status converted(static_cast<absl::StatusCode>(status.error_code()),
                         status.error_message());
  std::optional<Reason> reason = ReasonIn(status.error_details());
  if (!reason.has_value()) return converted;
  return WithReason(std::move(converted), *std::move(reason));
}

}  // namespace understudy::proto
