// tests/crash/report.h
//
// What the crash tests share of talking about their runs.
#ifndef UNDERSTUDY_TESTS_CRASH_REPORT_H_
#define UNDERSTUDY_TESTS_CRASH_REPORT_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include <gtest/gtest.h>

#include "storage/base/log.h"
#include "tests/crash/sweep.h"

namespace understudy::crash {

// A sanitizer looks for other mistakes and takes its time: fewer runs are made.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// Counts; says how many and how fast when the program ends.
class RunCounter {
 public:
  ~RunCounter() {
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun_;
    std::printf("crash runs: %llu in %.1f s, %.0f per second\n",
                static_cast<unsigned long long>(runs_.load()), took.count(),
                static_cast<double>(runs_.load()) / took.count());
  }
  void Add() { ++runs_; }

 private:
  const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  std::atomic<uint64_t> runs_ = 0;
};

inline void CountRun() {
  static RunCounter counter;
  counter.Add();
}

inline void SilenceLog() {
  base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
}

// What went wrong, and how to see it again.
inline std::string Describe(const CrashRun& run, const absl::Status& verdict) {
  return absl::StrCat(verdict.ToString(), "\n  replay: UNDERSTUDY_CRASH_RUN='", run.ToString(),
                      "' ", testing::SimParent(::testing::internal::GetArgvs()[0]),
                      "/crash_sweep_test"
                      " --gtest_filter='*ReplayTest*'");
}

}  // namespace understudy::crash

#endif  // UNDERSTUDY_TESTS_CRASH_REPORT_H_
