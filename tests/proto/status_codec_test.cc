#include "proto/status_codec.h"

#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include <gtest/gtest.h>

#include "storage/base/reason.h"

namespace understudy::proto::status_codec_test {
namespace {

TEST(StatusCodecTest, EveryCodeGoesThereAndBackAsTheSameNumber) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    const grpc::Status wire = ToGrpcStatus(status);
    EXPECT_EQ(static_cast<int>(wire.error_code()), code);
    EXPECT_EQ(wire.error_message(), "why");
    EXPECT_EQ(wire.error_details(), "");
    EXPECT_EQ(FromGrpcStatus(wire), status);
  }
}

TEST(StatusCodecTest, AReasonSurvivesTheWire) {
  const absl::Status status =
      WithReason(absl::FailedPreconditionError("term 3 is over"),
                 Reason{.reason = std::string(kReasonFenced), .metadata = {{"term", "4"}}});
  const absl::Status back = FromGrpcStatus(ToGrpcStatus(status));
  EXPECT_EQ(back, status);
  ASSERT_TRUE(ReasonOf(back).has_value());
  EXPECT_EQ(ReasonOf(back)->metadata.at("term"), "4");
}

// A link may lead to a path of any bytes, and protobuf refuses a message that holds them.
TEST(StatusCodecTest, ATextThatIsNoUtf8ArrivesReadableWithItsReason) {
  const absl::Status back = FromGrpcStatus(
      ToGrpcStatus(WithReason(absl::FailedPreconditionError("/srv/\xfc"), kReasonWrongDisk)));
  EXPECT_EQ(back.message(), "/srv/\\xfc");
  EXPECT_TRUE(HasReason(back, kReasonWrongDisk));
}

// What any other gRPC client sees.
TEST(StatusCodecTest, TheReasonIsAGoogleRpcErrorInfoOfOurDomain) {
  const grpc::Status wire =
      ToGrpcStatus(WithReason(absl::AbortedError("writes are missing"), kReasonIncomplete));
  google::rpc::Status rich;
  ASSERT_TRUE(rich.ParseFromString(wire.error_details()));
  EXPECT_EQ(rich.code(), 10);
  EXPECT_EQ(rich.message(), "writes are missing");
  ASSERT_EQ(rich.details_size(), 1);
  EXPECT_EQ(rich.details(0).type_url(), "type.googleapis.com/google.rpc.ErrorInfo");
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(rich.details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "INCOMPLETE");
  EXPECT_EQ(info.domain(), "understudy");
}

TEST(StatusCodecTest, DetailsThatAreNotOursAreDropped) {
  google::rpc::ErrorInfo info;
  info.set_reason("FENCED");
  info.set_domain("example.com");
  google::rpc::Status rich;
  rich.add_details()->PackFrom(info);
  for (const std::string& details :
       {rich.SerializeAsString(), std::string("\xff\xff not a proto")}) {
    const absl::Status status =
        FromGrpcStatus(grpc::Status(grpc::StatusCode::ABORTED, "x", details));
    EXPECT_EQ(status, absl::AbortedError("x"));
  }
}

}  // namespace
}  // namespace understudy::proto::status_codec_test
