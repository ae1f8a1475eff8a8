// Preloaded into a program (jumping_clock_test.py): its wall clock is off by as many seconds as the
// file says that UNDERSTUDY_JUMPING_CLOCK names, a number of 8 bytes that may change at any time.
// What waits for a wall-clock time waits for that clock's, as it does when somebody sets the host's.
#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>

namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kSlice = kSecond / 100;

int64_t SetBy() {
  static const auto* const seconds = []() -> const volatile int64_t* {
    const char* const name = std::getenv("UNDERSTUDY_JUMPING_CLOCK");
    const int file = name == nullptr ? -1 : open(name, O_RDONLY | O_CLOEXEC);
    void* const map =
        file < 0 ? MAP_FAILED : mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    return map == MAP_FAILED ? nullptr : static_cast<const volatile int64_t*>(map);
  }
  ();
  return seconds == nullptr ? 0 : *seconds * kSecond;
}

template <typename Function>
Function* Next(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

int RealTime(clockid_t clock, timespec* time) {
  static auto* const next = Next(clock_gettime, "clock_gettime");
  return next(clock, time);
}

int64_t Nanos(const timespec& time) { return time.tv_sec * kSecond + time.tv_nsec; }
timespec Time(int64_t nanos) { return {.tv_sec = nanos / kSecond, .tv_nsec = nanos % kSecond}; }

// `wait` takes a real time and gives ETIMEDOUT when that has come.
template <typename Wait>
int WaitUntil(const timespec& until, Wait wait) {
  while (true) {
    timespec now;
    RealTime(CLOCK_REALTIME, &now);
    const int64_t left = Nanos(until) - SetBy() - Nanos(now);
    const timespec slice = Time(Nanos(now) + std::clamp<int64_t>(left, 0, kSlice));
    const int result = wait(slice);
    if (result != ETIMEDOUT || left <= kSlice) return result;
  }
}

bool IsWallClock(clockid_t clock) {
  return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const int result = RealTime(clock, time);
  if (result == 0 && IsWallClock(clock)) *time = Time(Nanos(*time) + SetBy());
  return result;
}

extern "C" int gettimeofday(timeval* time, void*) noexcept {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  *time = {.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
  return 0;
}

extern "C" time_t time(time_t* seconds) noexcept {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (seconds != nullptr) *seconds = now.tv_sec;
  return now.tv_sec;
}

extern "C" int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                                      const timespec* until) {
  static auto* const next = Next(pthread_cond_timedwait, "pthread_cond_timedwait");
  // Of a condition that is timed by the steady clock, which no host has run for decades.
  if (until->tv_sec < 1'000'000'000) return next(condition, mutex, until);
  return WaitUntil(*until, [&](const timespec& slice) { return next(condition, mutex, &slice); });
}

extern "C" int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                                      clockid_t clock, const timespec* until) {
  static auto* const next = Next(pthread_cond_clockwait, "pthread_cond_clockwait");
  if (!IsWallClock(clock)) return next(condition, mutex, clock, until);
  return WaitUntil(*until,
                   [&](const timespec& slice) { return next(condition, mutex, clock, &slice); });
}

// Abseil's waits.
extern "C" long syscall(long number, ...) noexcept {
  static auto* const next = Next(syscall, "syscall");
  va_list list;
  va_start(list, number);
  long a[6];
  for (long& argument : a) argument = va_arg(list, long);
  va_end(list);
  const bool timed = number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) != 0 && a[3] != 0;
  if (!timed) return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  long result = 0;
  WaitUntil(*reinterpret_cast<const timespec*>(a[3]), [&](const timespec& slice) {
    result = next(number, a[0], a[1], a[2], reinterpret_cast<long>(&slice), a[4], a[5]);
    return result < 0 ? errno : 0;
  });
  return result;
}
