#include "proto/nbd/metrics/metrics.h"

#include <limits>
#include <string>
#include <utility>

#include <prometheus/metric_family.h>

namespace understudy::nbd {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily Family(const char* name, const char* help, MetricType type) {
  return {.name = name, .help = help, .type = type, .metric = {}};
}

ClientMetric& Add(MetricFamily& family, const char* label, absl::string_view value) {
  ClientMetric& metric = family.metric.emplace_back();
  metric.label.push_back({.name = label, .value = std::string(value)});
  return metric;
}

double Value(const std::atomic<uint64_t>& counter) {
  return static_cast<double>(counter.load(std::memory_order_relaxed));
}

MetricFamily Gauge(const char* name, const char* help, const std::atomic<uint64_t>& value) {
  MetricFamily family = Family(name, help, MetricType::Gauge);
  family.metric.emplace_back().gauge.value = Value(value);
  return family;
}

void Fill(ClientMetric& metric, const Histogram& from) {
  uint64_t cumulative = 0;
  for (size_t i = 0; i <= Histogram::kBoundsMicros.size(); ++i) {
    cumulative += from.bucket(i);
    const double bound = i < Histogram::kBoundsMicros.size()
                             ? Histogram::kBoundsMicros[i] / 1e6
                             : std::numeric_limits<double>::infinity();
    metric.histogram.bucket.push_back({.cumulative_count = cumulative, .upper_bound = bound});
  }
  metric.histogram.sample_count = cumulative;
  metric.histogram.sample_sum = static_cast<double>(from.sum_micros()) / 1e6;
}

}  // namespace

std::vector<MetricFamily> Metrics::Collect() const {
  MetricFamily requests =
      Family("understudy_nbd_requests_total", "Requests of NBD clients that were answered.",
             MetricType::Counter);
  MetricFamily errors =
      Family("understudy_nbd_errors_total",
             "Requests of NBD clients that were answered with an error.", MetricType::Counter);
  MetricFamily bytes = Family("understudy_nbd_bytes_total",
                              "Bytes of ranges of requests that succeeded.", MetricType::Counter);
  MetricFamily latency = Family(
      "understudy_nbd_latency_seconds",
      "How long requests take. queued: until work on them begins. local: the work, on local disks "
      "and logs. window: in the write stream's window, those that enter it. replied: until the "
      "client's socket has the reply.",
      MetricType::Histogram);
  for (size_t kind = 0; kind < kKinds; ++kind) {
    const Figures::OfKind& figures = figures_.kinds[kind];
    Add(requests, "op", kKindNames[kind]).counter.value = Value(figures.requests);
    Add(errors, "op", kKindNames[kind]).counter.value = Value(figures.errors);
    Add(bytes, "op", kKindNames[kind]).counter.value = Value(figures.bytes);
    for (size_t stage = 0; stage < kStages; ++stage) {
      ClientMetric& metric = Add(latency, "op", kKindNames[kind]);
      metric.label.push_back({.name = "stage", .value = std::string(kStageNames[stage])});
      Fill(metric, figures.latency[stage]);
    }
  }
  MetricFamily ends =
      Family("understudy_nbd_disconnects_total",
             "Connections of NBD clients that have ended, by reason. vanished: with requests under "
             "way. slow: a handshake that took too long, or memory held while others waited.",
             MetricType::Counter);
  for (size_t end = 0; end < kEnds; ++end) {
    Add(ends, "reason", kEndNames[end]).counter.value = Value(figures_.ends[end]);
  }
  std::vector<MetricFamily> families;
  families.push_back(Gauge("understudy_nbd_connections", "Connections of NBD clients, now.",
                           figures_.connections));
  families.push_back(Gauge("understudy_nbd_held_bytes",
                           "Memory that requests of NBD clients hold, now.", figures_.bytes_held));
  for (MetricFamily* family : {&requests, &errors, &bytes, &latency, &ends}) {
    families.push_back(std::move(*family));
  }
  return families;
}

}  // namespace understudy::nbd
