// tests/testing/seed.h
//
// The seed of a random test: from UNDERSTUDY_SEED, else random; printed, so that a failure can be replayed.
#ifndef UNDERSTUDY_TESTS_TESTING_SEED_H_
#define UNDERSTUDY_TESTS_TESTING_SEED_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace understudy::testing {

inline uint64_t TestSeed() {
  const char* const given = std::getenv("UNDERSTUDY_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device()();
  std::printf("UNDERSTUDY_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  return seed;
}

}  // namespace understudy::testing

#endif  // UNDERSTUDY_TESTS_TESTING_SEED_H_
