// storage/base/signals.h
//
// What a daemon does when it gets a signal.
#ifndef UNDERSTUDY_STORAGE_BASE_SIGNALS_H_
#define UNDERSTUDY_STORAGE_BASE_SIGNALS_H_

#include <functional>

namespace understudy::base {

// Signals that a daemon gets without being asked to end: SIGHUP (a terminal was closed, somebody
// wants a reload), SIGUSR1 and SIGUSR2 (somebody wants the log opened anew), SIGPIPE (whoever read
// the log has gone). First thing in main(): ignores them.
void IgnoreStraySignals();

// Orderly shutdown on SIGTERM, SIGINT and SIGQUIT. Call it before other threads exist: blocks the
// signals for all threads made later. One thread waits for a signal, runs `shutdown` once and then
// ends the process with status 0 (ExitWith() in log.h). A second signal during shutdown ends it at
// once with status 1.
void HandleShutdownSignals(std::function<void()> shutdown);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_SIGNALS_H_
