#include "proto/strings.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "understudy/v1/replication.pb.h"

namespace understudy::proto::strings_test {
namespace {

using ::testing::HasSubstr;

TEST(StringsTest, AStringThatIsNoUtf8IsNamed) {
  v1::StartRequest request;
  request.set_group("vm1");
  request.add_volumes()->set_name("vda");
  request.add_volumes()->set_disk_path("/srv/a.raw");
  EXPECT_TRUE(CheckStrings(request).ok());
  request.mutable_volumes(1)->set_disk_path("/srv/\xfc.raw");
  const absl::Status status = CheckStrings(request);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("volumes.disk_path: \"/srv/\\xfc.raw\" is not UTF-8"));
  request.mutable_volumes(1)->clear_disk_path();
  request.set_group("\xff");
  EXPECT_THAT(std::string(CheckStrings(request).message()), HasSubstr("group: "));
}

TEST(StringsTest, BytesMayBeAnything) {
  v1::StartRequest request;
  request.mutable_expected()->set_incarnation("\xff\xfe");
  EXPECT_TRUE(CheckStrings(request).ok());
}

}  // namespace
}  // namespace understudy::proto::strings_test
