#include <arpa/inet.h>
#include <string>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/numbers.h"
#include <gtest/gtest.h>
#include <prometheus/counter.h>
#include <prometheus/registry.h>

#include "storage/base/metrics/endpoint.h"

namespace understudy::base::metrics_endpoint_test {
namespace {

std::string Get(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  EXPECT_TRUE(absl::SimpleAtoi(address.substr(colon + 1), &port));
  sockaddr_in peer = {};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(port));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &peer.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)), 0);
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t got; (got = read(fd, buffer, sizeof(buffer))) > 0;) {
    answer.append(buffer, static_cast<size_t>(got));
  }
  close(fd);
  return answer;
}

double ValueOf(const std::string& scrape, const std::string& series) {
  const size_t at = scrape.find("\n" + series + " ");
  double value = -1;
  if (at == std::string::npos) return value;
  const size_t begin = at + series.size() + 2;
  EXPECT_TRUE(absl::SimpleAtod(scrape.substr(begin, scrape.find('\n', begin) - begin), &value));
  return value;
}

TEST(MetricsEndpointTest, ShowsTheProcessItsBuildAndWhatIsRegistered) {
  auto endpoint = MetricsEndpoint::Start("127.0.0.1:0");
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  auto registry = std::make_shared<prometheus::Registry>();
  prometheus::BuildCounter().Name("test_total").Help("h").Register(*registry).Add({}).Increment(3);
  (*endpoint)->Register(registry);
  const std::string scrape = Get((*endpoint)->address());
  EXPECT_EQ(ValueOf(scrape, "test_total"), 3);
  EXPECT_GT(ValueOf(scrape, "process_resident_memory_bytes"), 1e6);
  EXPECT_GE(ValueOf(scrape, "process_cpu_seconds_total"), 0);
  EXPECT_GT(ValueOf(scrape, "process_open_fds"), 3);
  EXPECT_LT(ValueOf(scrape, "process_open_fds"), 200);
  const double start = ValueOf(scrape, "process_start_time_seconds");
  EXPECT_NEAR(start, static_cast<double>(time(nullptr)), 60);
  EXPECT_EQ(ValueOf(scrape, "understudy_log_lines_dropped_total"), 0);
  EXPECT_NE(scrape.find("understudy_build_info{"), std::string::npos);
  EXPECT_NE(scrape.find("version=\"0."), std::string::npos);
}

TEST(MetricsEndpointTest, APortInUseIsRefusedWithAddressAndFlag) {
  auto first = MetricsEndpoint::Start("127.0.0.1:0");
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = MetricsEndpoint::Start((*first)->address()).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition) << second;
  EXPECT_NE(std::string(second.message()).find((*first)->address()), std::string::npos);
  EXPECT_NE(std::string(second.message()).find("--metrics-listen"), std::string::npos);
}

TEST(MetricsEndpointTest, AMalformedAddressIsRefused) {
  for (const char* address : {"", "7411", "unix:/x", "127.0.0.1:", "127.0.0.1:70000", ":1"}) {
    EXPECT_EQ(MetricsEndpoint::Start(address).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
}

}  // namespace
}  // namespace understudy::base::metrics_endpoint_test
