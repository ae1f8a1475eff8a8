#include "storage/base/signals.h"

#include <cstring>
#include <pthread.h>
#include <signal.h>
#include <thread>
#include <utility>

#include "storage/base/log.h"

namespace understudy::base {
namespace {

int WaitForSignal(const sigset_t& signals) {
  int number = 0;
  while (sigwait(&signals, &number) != 0) {
  }
  return number;
}

void ShutDownOnSignal(const sigset_t& signals, const std::function<void()>& shutdown) {
  const int number = WaitForSignal(signals);
  LogInfo("shutdown_started").With("signal", strsignal(number));
  std::thread([signals] {
    const int again = WaitForSignal(signals);
    LogWarning("shutdown_interrupted").With("signal", strsignal(again));
    ExitWith(1);
  }).detach();
  shutdown();
  LogInfo("shutdown_finished");
  ExitWith(0);
}

}  // namespace

void IgnoreStraySignals() {
  for (const int number : {SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE}) signal(number, SIG_IGN);
}

void HandleShutdownSignals(std::function<void()> shutdown) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGQUIT}) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals, shutdown = std::move(shutdown)] {
    ShutDownOnSignal(signals, shutdown);
  }).detach();
}

}  // namespace understudy::base
