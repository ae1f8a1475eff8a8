// The csi-addons messages are re-declared here: what goes over the wire must be what github.com/csi-addons/spec publishes.
#include <string>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <gtest/gtest.h>

#include "csi_addons/replication.pb.h"

namespace understudy::proto::csi_fields_test {
namespace {

struct Row {
  const char* message;
  const char* field;
  int number;
  const char* type;  // a scalar, the full name of a message or enum, or "map"
};

// replication/replication.proto of the specification; volume_id as in the releases before it was
// reserved.
constexpr Row kPublished[] = {
    {"replication.EnableVolumeReplicationRequest", "volume_id", 1, "string"},
    {"replication.EnableVolumeReplicationRequest", "parameters", 2, "map"},
    {"replication.EnableVolumeReplicationRequest", "secrets", 3, "map"},
    {"replication.EnableVolumeReplicationRequest", "replication_id", 4, "string"},
    {"replication.EnableVolumeReplicationRequest", "replication_source", 5,
     "replication.ReplicationSource"},
    {"replication.DisableVolumeReplicationRequest", "volume_id", 1, "string"},
    {"replication.DisableVolumeReplicationRequest", "parameters", 2, "map"},
    {"replication.DisableVolumeReplicationRequest", "secrets", 3, "map"},
    {"replication.DisableVolumeReplicationRequest", "replication_id", 4, "string"},
    {"replication.DisableVolumeReplicationRequest", "replication_source", 5,
     "replication.ReplicationSource"},
    {"replication.PromoteVolumeRequest", "volume_id", 1, "string"},
    {"replication.PromoteVolumeRequest", "force", 2, "bool"},
    {"replication.PromoteVolumeRequest", "parameters", 3, "map"},
    {"replication.PromoteVolumeRequest", "secrets", 4, "map"},
    {"replication.PromoteVolumeRequest", "replication_id", 5, "string"},
    {"replication.PromoteVolumeRequest", "replication_source", 6, "replication.ReplicationSource"},
    {"replication.DemoteVolumeRequest", "volume_id", 1, "string"},
    {"replication.DemoteVolumeRequest", "force", 2, "bool"},
    {"replication.DemoteVolumeRequest", "parameters", 3, "map"},
    {"replication.DemoteVolumeRequest", "secrets", 4, "map"},
    {"replication.DemoteVolumeRequest", "replication_id", 5, "string"},
    {"replication.DemoteVolumeRequest", "replication_source", 6, "replication.ReplicationSource"},
    {"replication.ResyncVolumeRequest", "volume_id", 1, "string"},
    {"replication.ResyncVolumeRequest", "force", 2, "bool"},
    {"replication.ResyncVolumeRequest", "parameters", 3, "map"},
    {"replication.ResyncVolumeRequest", "secrets", 4, "map"},
    {"replication.ResyncVolumeRequest", "replication_id", 5, "string"},
    {"replication.ResyncVolumeRequest", "replication_source", 6, "replication.ReplicationSource"},
    {"replication.ResyncVolumeResponse", "ready", 1, "bool"},
    {"replication.GetVolumeReplicationInfoRequest", "volume_id", 1, "string"},
    {"replication.GetVolumeReplicationInfoRequest", "secrets", 2, "map"},
    {"replication.GetVolumeReplicationInfoRequest", "replication_id", 3, "string"},
    {"replication.GetVolumeReplicationInfoRequest", "replication_source", 4,
     "replication.ReplicationSource"},
    {"replication.GetVolumeReplicationInfoResponse", "last_sync_time", 1,
     "google.protobuf.Timestamp"},
    {"replication.GetVolumeReplicationInfoResponse", "last_sync_duration", 2,
     "google.protobuf.Duration"},
    {"replication.GetVolumeReplicationInfoResponse", "last_sync_bytes", 3, "int64"},
    {"replication.GetVolumeReplicationInfoResponse", "status", 4,
     "replication.GetVolumeReplicationInfoResponse.Status"},
    {"replication.GetVolumeReplicationInfoResponse", "status_message", 5, "string"},
    {"replication.GetReplicationDestinationInfoRequest", "secrets", 1, "map"},
    {"replication.GetReplicationDestinationInfoRequest", "replication_source", 2,
     "replication.ReplicationSource"},
    {"replication.GetReplicationDestinationInfoResponse", "replication_destination", 1,
     "replication.ReplicationDestination"},
    {"replication.ReplicationDestination", "volume", 1,
     "replication.ReplicationDestination.VolumeDestination"},
    {"replication.ReplicationDestination", "volumegroup", 2,
     "replication.ReplicationDestination.VolumeGroupDestination"},
    {"replication.ReplicationDestination.VolumeDestination", "volume_id", 1, "string"},
    {"replication.ReplicationDestination.VolumeGroupDestination", "volume_group_id", 1, "string"},
    {"replication.ReplicationDestination.VolumeGroupDestination", "volume_ids", 2, "map"},
    {"replication.ReplicationSource", "volume", 1, "replication.ReplicationSource.VolumeSource"},
    {"replication.ReplicationSource", "volumegroup", 2,
     "replication.ReplicationSource.VolumeGroupSource"},
    {"replication.ReplicationSource.VolumeSource", "volume_id", 1, "string"},
    {"replication.ReplicationSource.VolumeGroupSource", "volume_group_id", 1, "string"},
};

std::string TypeOf(const google::protobuf::FieldDescriptor& field) {
  if (field.is_map()) return "map";
  if (field.message_type() != nullptr) return field.message_type()->full_name();
  if (field.enum_type() != nullptr) return field.enum_type()->full_name();
  return field.type_name();
}

int Fields(const google::protobuf::Descriptor& message) {
  int count = message.options().map_entry() ? 0 : message.field_count();
  for (int i = 0; i < message.nested_type_count(); ++i) count += Fields(*message.nested_type(i));
  return count;
}

TEST(CsiFieldsTest, NumbersAndTypesAreThePublishedOnes) {
  const google::protobuf::FileDescriptor& file =
      *replication::ReplicationSource::descriptor()->file();
  for (const Row& row : kPublished) {
    SCOPED_TRACE(std::string(row.message) + "." + row.field);
    const auto* const message = file.pool()->FindMessageTypeByName(row.message);
    ASSERT_NE(message, nullptr);
    const auto* const field = message->FindFieldByName(row.field);
    ASSERT_NE(field, nullptr);
    EXPECT_EQ(field->number(), row.number);
    EXPECT_EQ(TypeOf(*field), row.type);
  }
  int fields = 0;
  for (int i = 0; i < file.message_type_count(); ++i) fields += Fields(*file.message_type(i));
  EXPECT_EQ(fields, static_cast<int>(std::size(kPublished))) << "a field that the table lacks";
  using Info = replication::GetVolumeReplicationInfoResponse;
  EXPECT_EQ(Info::UNKNOWN, 0);
  EXPECT_EQ(Info::HEALTHY, 1);
  EXPECT_EQ(Info::DEGRADED, 2);
  EXPECT_EQ(Info::ERROR, 3);
}

TEST(CsiFieldsTest, ThePathsOfTheServicesAreThePublishedOnes) {
  const google::protobuf::FileDescriptor& file =
      *replication::ReplicationSource::descriptor()->file();
  const auto* const controller = file.FindServiceByName("Controller");
  ASSERT_NE(controller, nullptr);
  EXPECT_EQ(controller->full_name(), "replication.Controller");
  for (const char* const method :
       {"EnableVolumeReplication", "DisableVolumeReplication", "PromoteVolume", "DemoteVolume",
        "ResyncVolume", "GetVolumeReplicationInfo", "GetReplicationDestinationInfo"}) {
    EXPECT_NE(controller->FindMethodByName(method), nullptr) << method;
  }
}

}  // namespace
}  // namespace understudy::proto::csi_fields_test
