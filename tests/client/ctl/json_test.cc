#include "client/ctl/json.h"

#include <limits>
#include <string>

#include <gtest/gtest.h>

#include "understudy/v1/replication.pb.h"

namespace understudy::ctl::json_test {
namespace {

TEST(JsonTest, FieldsAtTheirDefaultAreThereInTheOrderOfTheProto) {
  EXPECT_EQ(ToJson(v1::StopResponse()),
            R"({"stage": "UNSPECIFIED", "ignored": false, "epoch": 0, "term": 0})");
  EXPECT_EQ(ToJson(v1::ListGroupsRequest()), "{}");
}

TEST(JsonTest, EnumsLoseTheirPrefixAndBytesAreHexadecimal) {
  v1::StartResponse response;
  response.set_stage(v1::STAGE_FAILOVER_FAILED);
  response.set_incarnation(std::string("\x00\x01\xab\xff", 4));
  response.set_term(std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(ToJson(response),
            R"({"stage": "FAILOVER_FAILED", "ignored": false, )"
            R"("incarnation": "0001abff", "term": 18446744073709551615, "warnings": []})");
}

TEST(JsonTest, EnumNamesOfEveryType) {
  EXPECT_EQ(EnumName(*v1::SyncState_descriptor(), v1::SYNC_STATE_IN_SYNC), "IN_SYNC");
  EXPECT_EQ(EnumName(*v1::Mode_descriptor(), v1::MODE_SECONDARY), "SECONDARY");
  EXPECT_EQ(EnumName(*v1::CheckpointMode_descriptor(), v1::CHECKPOINT_MODE_FULL), "FULL");
  EXPECT_EQ(EnumName(*v1::Stage_descriptor(), 99), "99");  // of a newer service
}

TEST(JsonTest, StringsAreEscaped) {
  v1::ListGroupsResponse response;
  response.add_groups("a\"b\\c\nd\x01");
  response.add_groups("\xc3\xa4");
  EXPECT_EQ(ToJson(response), "{\"groups\": [\"a\\\"b\\\\c\\u000ad\\u0001\", \"\xc3\xa4\"]}");
}

TEST(JsonTest, MessagesNestAndNumbersReadBackTheSame) {
  v1::GroupStatus status;
  status.set_group("vm1");
  status.set_lag_seconds(0.1);
  status.set_committed_unix_seconds(-1);
  status.add_volumes()->set_name("root");
  status.add_jobs()->set_kind("apply");
  const std::string json = ToJson(status);
  EXPECT_NE(json.find(R"("lag_seconds": 0.1, )"), std::string::npos) << json;
  EXPECT_NE(json.find(R"("committed_unix_seconds": -1)"), std::string::npos) << json;
  EXPECT_NE(json.find(R"("errors": [], "volumes": [{"name": "root", "top_id": "")"),
            std::string::npos)
      << json;
  EXPECT_NE(json.find(R"("jobs": [{"kind": "apply", "done_bytes": 0, "total_bytes": 0}])"),
            std::string::npos)
      << json;
  status.set_lag_seconds(1.0 / 3);
  EXPECT_NE(ToJson(status).find("0.333333333333333"), std::string::npos);
  status.set_lag_seconds(std::numeric_limits<double>::infinity());
  EXPECT_NE(ToJson(status).find(R"("lag_seconds": null)"), std::string::npos);
}

}  // namespace
}  // namespace understudy::ctl::json_test
