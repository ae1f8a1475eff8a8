#include "client/ctl/volume_spec.h"

#include <string>

#include "absl/strings/match.h"
#include <gtest/gtest.h>

#include "understudy/v1/replication.pb.h"

namespace understudy::ctl::volume_spec_test {
namespace {

TEST(VolumeSpecTest, TheShortestFormNamesVolumeAndDisk) {
  const auto spec = ParseVolumeSpec("root,disk=/srv/a=b.raw");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->name(), "root");
  EXPECT_EQ(spec->disk_path(), "/srv/a=b.raw");
  EXPECT_EQ(spec->size_bytes(), 0u);
  EXPECT_EQ(spec->top_id(), "");
  EXPECT_FALSE(spec->create());
  EXPECT_EQ(spec->initial(), v1::INITIAL_UNSPECIFIED);
}

TEST(VolumeSpecTest, ACommaWithinAPathIsWrittenTwice) {
  const auto spec = ParseVolumeSpec("root,disk=/srv/a,,b.raw,size=1M");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->disk_path(), "/srv/a,b.raw");
  EXPECT_EQ(spec->size_bytes(), 1u << 20);
}

TEST(VolumeSpecTest, EveryKeyInAnyOrder) {
  const auto spec = ParseVolumeSpec("root,initial=sync,top-id=a/b,create,size=10G,disk=/d");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->size_bytes(), 10ull << 30);
  EXPECT_EQ(spec->top_id(), "a/b");
  EXPECT_TRUE(spec->create());
  EXPECT_EQ(spec->initial(), v1::INITIAL_SYNC);
  EXPECT_EQ(ParseVolumeSpec("r,disk=/d,initial=equal")->initial(), v1::INITIAL_EQUAL);
}

TEST(VolumeSpecTest, EverythingWrongIsToldAtOnce) {
  const absl::Status status =
      ParseVolumeSpec("disk=/d,size=12Q,create=yes,initial=maybe,color=red,top-id=").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  for (const char* part :
       {"begin with the volume's name", "disk=PATH is missing", "\"12Q\"", "create takes no value",
        "not \"maybe\"", "\"color\" is unknown", "top-id needs a value"}) {
    EXPECT_TRUE(absl::StrContains(status.message(), part)) << part << " in " << status;
  }
}

TEST(VolumeSpecTest, WhatCannotBeMeantIsRefused) {
  for (const char* text :
       {"", "root", ",disk=/d", "root,disk=", "root,disk", "root,disk=/a,disk=/b", "root,disk=/d,",
        "root,disk=/d,create,create", "root,disk=/d,size="}) {
    EXPECT_EQ(ParseVolumeSpec(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace understudy::ctl::volume_spec_test
