#include "server/stats.h"

#include <algorithm>

namespace understudy::server {

void DurationHistogram::Observe(absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  const auto bound = std::lower_bound(kBoundsSeconds.begin(), kBoundsSeconds.end(), seconds);
  buckets_[bound - kBoundsSeconds.begin()].Add();
  nanoseconds_.Add(static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Nanoseconds(duration))));
}

DurationHistogram::View DurationHistogram::view() const {
  View view;
  uint64_t total = 0;
  for (size_t i = 0; i < buckets_.size(); ++i) view.cumulative[i] = total += buckets_[i].value();
  view.sum_seconds = static_cast<double>(nanoseconds_.value()) / 1e9;
  return view;
}

}  // namespace understudy::server
