// proto/nbd/figures.h
//
// What an NBD server counts, for metrics: read at scrape, written with relaxed atomics.
#ifndef UNDERSTUDY_PROTO_NBD_FIGURES_H_
#define UNDERSTUDY_PROTO_NBD_FIGURES_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "storage/base/clock.h"

namespace understudy::nbd {

inline absl::Duration SteadyNow() { return base::Clock::Real().Monotonic(); }

enum class Kind : uint8_t { kRead = 0, kWrite, kFlush, kTrim, kWriteZeroes, kCache, kBlockStatus };
inline constexpr size_t kKinds = 7;
inline constexpr std::array<absl::string_view, kKinds> kKindNames = {
    "read", "write", "flush", "discard", "write_zeroes", "cache", "block_status"};

// A request waits to be begun; is worked on by its device; may wait in the window of the write
// stream meanwhile (window_time.h); and its reply waits until the client's socket has taken it.
enum class Stage : uint8_t { kQueued = 0, kLocal, kWindow, kReplied };
inline constexpr size_t kStages = 4;
inline constexpr std::array<absl::string_view, kStages> kStageNames = {"queued", "local", "window",
                                                                       "replied"};

// Why a connection ended. kVanished: with requests under way; without any, an end that was not
// announced is kOrderly, as many clients do it. kSlow: it took no replies while others waited for
// the memory, or did not end its handshake. kRefused: beyond the bounds on connections, or no such
// export.
enum class End : uint8_t { kOrderly = 0, kVanished, kProtocolError, kSlow, kRefused, kClosed };
inline constexpr size_t kEnds = 6;
inline constexpr std::array<absl::string_view, kEnds> kEndNames = {
    "orderly", "vanished", "protocol_error", "slow", "refused", "closed"};

// Durations by upper bound, in microseconds; the last bucket has the rest.
class Histogram {
 public:
  static constexpr std::array<uint32_t, 15> kBoundsMicros = {
      10,   20,     50,     100,     200,       500,       1000,      2000,
      5000, 10'000, 50'000, 200'000, 1'000'000, 5'000'000, 30'000'000};

  void Add(absl::Duration duration, uint64_t count = 1) {
    const auto micros = static_cast<uint64_t>(absl::ToInt64Microseconds(duration));
    size_t bucket = 0;
    while (bucket < kBoundsMicros.size() && micros > kBoundsMicros[bucket]) ++bucket;
    buckets_[bucket].fetch_add(count, std::memory_order_relaxed);
    sum_micros_.fetch_add(micros * count, std::memory_order_relaxed);
  }
  uint64_t bucket(size_t index) const { return buckets_[index].load(std::memory_order_relaxed); }
  uint64_t sum_micros() const { return sum_micros_.load(std::memory_order_relaxed); }

 private:
  std::array<std::atomic<uint64_t>, kBoundsMicros.size() + 1> buckets_ = {};
  std::atomic<uint64_t> sum_micros_{0};
};

struct Figures {
  struct OfKind {
    std::atomic<uint64_t> requests{0};  // that were answered
    std::atomic<uint64_t> errors{0};    // of these, with an error
    std::atomic<uint64_t> bytes{0};     // of the others
    std::array<Histogram, kStages> latency;
  };
  std::array<OfKind, kKinds> kinds;
  std::atomic<uint64_t> connections{0};  // now
  std::atomic<uint64_t> bytes_held{0};   // of requests in flight, now
  std::array<std::atomic<uint64_t>, kEnds> ends = {};
};

}  // namespace understudy::nbd

#endif  // UNDERSTUDY_PROTO_NBD_FIGURES_H_
