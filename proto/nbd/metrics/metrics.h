// proto/nbd/metrics/metrics.h
//
// What Prometheus sees of an NBD server: connections, requests and bytes by kind, how long they
// take by kind and stage, and why connections end. The same at both daemons; by volume there is
// understudy_io_*.
//
// Threads  any.
#ifndef UNDERSTUDY_PROTO_NBD_METRICS_METRICS_H_
#define UNDERSTUDY_PROTO_NBD_METRICS_METRICS_H_

#include <vector>

#include <prometheus/collectable.h>

#include "proto/nbd/figures.h"

namespace understudy::nbd {

class Metrics : public prometheus::Collectable {
 public:
  // `figures` outlives it.
  explicit Metrics(const Figures* figures) : figures_(*figures) {}

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const Figures& figures_;
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_METRICS_METRICS_H_
