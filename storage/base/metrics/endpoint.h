// storage/base/metrics/endpoint.h
//
// The Prometheus endpoint of a daemon: GET /metrics over HTTP with everything in the registered
// collectables, plus process_*, which prometheus-cpp does not bring, understudy_build_info and
// understudy_log_lines_dropped_total.
#ifndef UNDERSTUDY_STORAGE_BASE_METRICS_ENDPOINT_H_
#define UNDERSTUDY_STORAGE_BASE_METRICS_ENDPOINT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include <prometheus/collectable.h>

namespace prometheus {
class Exposer;
}

namespace understudy::base {

class MetricsEndpoint {
 public:
  // `listen` is host:port, port 0 for any free one. kInvalidArgument / kFailedPrecondition name the address and the flag.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(const std::string& listen);

  // Scraped from now on, while the caller keeps it alive.
  void Register(const std::shared_ptr<prometheus::Collectable>& collectable);
  const std::string& address() const { return address_; }

 private:
  MetricsEndpoint() = default;
  std::string address_;
  prometheus::Exposer* exposer_ =
      nullptr;  // never deleted: its destructor takes seconds, and it lives as long as the process
  std::shared_ptr<prometheus::Collectable> process_;
};

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_METRICS_ENDPOINT_H_
