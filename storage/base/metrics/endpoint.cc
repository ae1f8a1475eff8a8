#include "storage/base/metrics/endpoint.h"

#include <cstdint>
#include <ctime>
#include <exception>
#include <fstream>
#include <sstream>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include "storage/base/address.h"
#include "storage/base/file_limit.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"

#ifndef UNDERSTUDY_VERSION
#define UNDERSTUDY_VERSION "unknown"
#endif
#ifndef UNDERSTUDY_REVISION
#define UNDERSTUDY_REVISION "unknown"
#endif
#ifdef __clang__
#define UNDERSTUDY_COMPILER __VERSION__
#else
#define UNDERSTUDY_COMPILER "GCC " __VERSION__
#endif

namespace understudy::base {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

// Fields of /proc/self/stat, counted as in proc(5) from the state (field 3); empty when it cannot
// be read.
std::vector<std::string> StatFields() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const size_t after_name = line.rfind(") ");  // the name may hold blanks and parentheses
  if (after_name == std::string::npos) return {};
  std::istringstream words(line.substr(after_name + 2));
  std::vector<std::string> fields;
  for (std::string word; words >> word;) fields.push_back(word);
  return fields;
}

double Field(const std::vector<std::string>& fields, size_t number_in_manual) {
  double value = 0;
  const size_t index = number_in_manual - 3;
  if (index < fields.size()) (void)absl::SimpleAtod(fields[index], &value);
  return value;
}

double BootUnixSeconds() {
  std::ifstream file("/proc/stat");
  for (std::string word; file >> word;) {
    double seconds = 0;
    if (word == "btime" && file >> seconds) return seconds;
  }
  return 0;
}

MetricFamily Single(const char* name, const char* help, MetricType type, double value) {
  ClientMetric metric;
  metric.gauge.value = type == MetricType::Gauge ? value : 0;
  metric.counter.value = type == MetricType::Counter ? value : 0;
  return MetricFamily{name, help, type, {metric}};
}

MetricFamily BuildInfo() {
  MetricFamily family = Single("understudy_build_info", "Build of the running binary; always 1",
                               MetricType::Gauge, 1);
  family.metric[0].label = {{"version", UNDERSTUDY_VERSION},
                            {"revision", UNDERSTUDY_REVISION},
                            {"compiler", UNDERSTUDY_COMPILER}};
  return family;
}

// Read at each scrape; names and meaning as in the Prometheus client library guidelines.
class ProcessMetrics : public prometheus::Collectable {
 public:
  std::vector<MetricFamily> Collect() const override {
    const auto ticks_per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
    const auto page_bytes = static_cast<double>(sysconf(_SC_PAGESIZE));
    const std::vector<std::string> fields = StatFields();
    return {
        BuildInfo(),
        Single("understudy_log_lines_dropped_total",
               "Log lines that were dropped because nobody read them or they could not be written",
               MetricType::Counter, static_cast<double>(LogLinesDropped())),
        Single("process_cpu_seconds_total", "User and system time", MetricType::Counter,
               (Field(fields, 14) + Field(fields, 15)) / ticks_per_second),
        Single("process_resident_memory_bytes", "Resident memory", MetricType::Gauge,
               Field(fields, 24) * page_bytes),
        Single("process_open_fds", "Open file descriptors", MetricType::Gauge,
               static_cast<double>(OpenFiles())),
        Single("process_max_fds", "How many there may be", MetricType::Gauge,
               static_cast<double>(OpenFilesMax())),
        Single("process_start_time_seconds", "Start, since the epoch", MetricType::Gauge,
               BootUnixSeconds() + Field(fields, 22) / ticks_per_second),
    };
  }
};

absl::Status CheckAddress(const std::string& listen) {
  if (IsHostAndPortToListen(listen)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("address \"", listen, "\" is not host:port; correct --metrics-listen"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(const std::string& listen) {
  RETURN_IF_ERROR(CheckAddress(listen));
  std::unique_ptr<MetricsEndpoint> endpoint(new MetricsEndpoint);
  try {
    endpoint->exposer_ = new prometheus::Exposer(listen);
  } catch (const std::exception& error) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cannot serve metrics on ", listen,
        ": another process listens there, or it is no address of this host; choose another "
        "with --metrics-listen (",
        error.what(), ")"));
  }
  // Kept reachable for good: it lives as long as the process.
  static auto* const exposers = new std::vector<prometheus::Exposer*>;
  exposers->push_back(endpoint->exposer_);
  const std::vector<int> ports = endpoint->exposer_->GetListeningPorts();
  endpoint->address_ =
      absl::StrCat(listen.substr(0, listen.rfind(':')), ":", ports.empty() ? 0 : ports.front());
  endpoint->process_ = std::make_shared<ProcessMetrics>();
  endpoint->Register(endpoint->process_);
  return endpoint;
}

void MetricsEndpoint::Register(const std::shared_ptr<prometheus::Collectable>& collectable) {
  exposer_->RegisterCollectable(collectable);
}

}  // namespace understudy::base
