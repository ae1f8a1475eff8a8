// server/metrics.h
//
// What the service says to Prometheus, computed at each scrape, so that a hung stream cannot freeze at a pleasant number.
// Series of a group come with Open and go with Remove; every label combination exists from the start, at 0. Names and
// labels: their help texts. `peer` is the agent's id, "" while none is bound.
#ifndef UNDERSTUDY_SERVER_METRICS_H_
#define UNDERSTUDY_SERVER_METRICS_H_

#include <vector>

#include <prometheus/collectable.h>

namespace understudy::server {

class Service;

class Metrics : public prometheus::Collectable {
 public:
  explicit Metrics(const Service& service) : service_(service) {}  // which outlives this
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const Service& service_;
};

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_METRICS_H_
