// client/metrics/metrics.h
//
// What the agent says to Prometheus, computed at each scrape from the monotonic clock, so that a hung stream cannot freeze at
// a pleasant number. Every label combination exists from the start, at 0. Names and labels: their help texts. `peer` is the host part
// of --server.
#ifndef UNDERSTUDY_CLIENT_METRICS_METRICS_H_
#define UNDERSTUDY_CLIENT_METRICS_METRICS_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include <prometheus/collectable.h>

#include "storage/base/mutex.h"

namespace understudy::client {

class Primary;

class Metrics : public prometheus::Collectable {
 public:
  // `primary` outlives this. `checkpoint_interval` zero: on demand only.
  Metrics(Primary* primary, const std::string& server, absl::Duration checkpoint_interval);
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  static constexpr std::array<double, 14> kBoundsSeconds = {
      .0002, .0005, .001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5};

  prometheus::MetricFamily CheckpointDurations() const;

  Primary& primary_;
  const std::string peer_;
  const absl::Duration checkpoint_interval_;
  mutable base::Mutex mutex_;
  mutable std::array<uint64_t, kBoundsSeconds.size() + 1> counts_ ABSL_GUARDED_BY(mutex_) = {};
  mutable double sum_seconds_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace understudy::client

#endif  // UNDERSTUDY_CLIENT_METRICS_METRICS_H_
