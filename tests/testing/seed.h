// tests/testing/seed.h
//
// The seed of a random test: from UNDERSTUDY_SEED, else random; printed, so that a failure can be
// replayed. And a generator that costs nothing to seed and to copy, for tests that do so in every
// one of many short runs.
#ifndef UNDERSTUDY_TESTS_TESTING_SEED_H_
#define UNDERSTUDY_TESTS_TESTING_SEED_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

namespace understudy::testing {

inline uint64_t TestSeed() {
  const char* const given = std::getenv("UNDERSTUDY_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device()();
  std::printf("UNDERSTUDY_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  return seed;
}

// splitmix64
class Random {
 public:
  using result_type = uint64_t;
  explicit Random(uint64_t seed = 0) : state_(seed) {}
  void seed(uint64_t seed) { state_ = seed; }
  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return UINT64_MAX; }

  uint64_t operator()() {
    uint64_t mixed = state_ += 0x9e3779b97f4a7c15;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    return mixed ^ (mixed >> 31);
  }
  // One draw for eight of them, which is what most of the time goes to in tests that write
  // gigabytes.
  std::string Bytes(size_t size) {
    std::string bytes(size, '\0');
    char* at = bytes.data();
    for (char* const end = at + size / 8 * 8; at != end; at += 8) {
      const uint64_t word = (*this)();
      std::memcpy(at, &word, 8);
    }
    const uint64_t rest = (*this)();
    std::memcpy(at, &rest, size % 8);
    return bytes;
  }

 private:
  uint64_t state_;
};

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_TESTING_SEED_H_
