#include "storage/base/address.h"

#include <gtest/gtest.h>

namespace understudy::base::address_test {
namespace {

TEST(AddressTest, AHostIsANameOrAnAddressAndNoUrl) {
  for (const char* address : {"host:1", "standby-0.vm.svc:7410", "127.0.0.1:65535", "[::1]:7410",
                              "[fe80::1%eth0]:7410", "a_b:7410"}) {
    EXPECT_TRUE(IsHostAndPort(address)) << address;
    EXPECT_TRUE(IsHostAndPortToListen(address)) << address;
  }
  for (const char* address :
       {"", "host", "host:", ":7410", "host:+1", "host:65536", "host: 1", "http://host:7410",
        "dns:///host:7410", "host/path:7410", "::1:7410", "[]:7410", "ho st:7410", "unix:/run/s"}) {
    EXPECT_FALSE(IsHostAndPort(address)) << address;
    EXPECT_FALSE(IsHostAndPortToListen(address)) << address;
  }
  EXPECT_FALSE(IsHostAndPort("host:0"));
  EXPECT_TRUE(IsHostAndPortToListen("host:0"));
}

TEST(AddressTest, AUnixAddressHasAPath) {
  EXPECT_TRUE(IsUnixAddress("unix:/run/s"));
  EXPECT_TRUE(IsUnixAddress("unix:s"));
  EXPECT_FALSE(IsUnixAddress("unix:"));
  EXPECT_FALSE(IsUnixAddress("/run/s"));
}

}  // namespace
}  // namespace understudy::base::address_test
