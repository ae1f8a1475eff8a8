#include "proto/nbd/metrics/metrics.h"

#include <string>

#include "absl/strings/match.h"
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

namespace understudy::nbd::metrics_test {
namespace {

std::string Page(const Figures& figures) {
  return prometheus::TextSerializer().Serialize(Metrics(&figures).Collect());
}

TEST(NbdMetricsTest, APageSaysWhatWasCounted) {
  Figures figures;
  Figures::OfKind& writes = figures.kinds[static_cast<size_t>(Kind::kWrite)];
  writes.requests = 7;
  writes.errors = 2;
  writes.bytes = 20480;
  Histogram& window = writes.latency[static_cast<size_t>(Stage::kWindow)];
  window.Add(absl::Microseconds(10));
  window.Add(absl::Microseconds(11), 4);
  window.Add(absl::Minutes(1));
  figures.connections = 3;
  figures.bytes_held = 4096;
  figures.ends[static_cast<size_t>(End::kVanished)] = 5;
  const std::string page = Page(figures);
  for (const char* line :
       {"understudy_nbd_requests_total{op=\"write\"} 7\n",
        "understudy_nbd_errors_total{op=\"write\"} 2\n",
        "understudy_nbd_bytes_total{op=\"write\"} 20480\n",
        "understudy_nbd_requests_total{op=\"block_status\"} 0\n",
        "understudy_nbd_latency_seconds_count{op=\"write\",stage=\"window\"} 6\n",
        "understudy_nbd_latency_seconds_bucket{op=\"write\",stage=\"window\",le=\"1e-05\"} 1\n",
        "understudy_nbd_latency_seconds_bucket{op=\"write\",stage=\"window\",le=\"2e-05\"} 5\n",
        "understudy_nbd_latency_seconds_bucket{op=\"write\",stage=\"window\",le=\"30\"} 5\n",
        "understudy_nbd_latency_seconds_bucket{op=\"write\",stage=\"window\",le=\"+Inf\"} 6\n",
        "understudy_nbd_connections 3\n", "understudy_nbd_held_bytes 4096\n",
        "understudy_nbd_disconnects_total{reason=\"vanished\"} 5\n",
        "understudy_nbd_disconnects_total{reason=\"protocol_error\"} 0\n"}) {
    EXPECT_TRUE(absl::StrContains(page, line)) << line << page;
  }
}

}  // namespace
}  // namespace understudy::nbd::metrics_test
