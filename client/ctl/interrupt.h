// client/ctl/interrupt.h
//
// Ctrl-C for commands that have something to put right before they end.
#ifndef UNDERSTUDY_CLIENT_CTL_INTERRUPT_H_
#define UNDERSTUDY_CLIENT_CTL_INTERRUPT_H_

#include <atomic>
#include <csignal>

namespace understudy::ctl {

// While it lives, SIGINT and SIGTERM only set interrupted().
class CatchSignals {
 public:
  CatchSignals() {
    struct sigaction action = {};
    action.sa_handler = [](int) { interrupted_.store(true); };
    sigaction(SIGINT, &action, &old_int_);
    sigaction(SIGTERM, &action, &old_term_);
  }
  ~CatchSignals() {
    sigaction(SIGINT, &old_int_, nullptr);
    sigaction(SIGTERM, &old_term_, nullptr);
  }
  CatchSignals(const CatchSignals&) = delete;
  CatchSignals& operator=(const CatchSignals&) = delete;

  static bool interrupted() { return interrupted_.load(); }

 private:
  static inline std::atomic<bool> interrupted_{false};
  struct sigaction old_int_ = {};
  struct sigaction old_term_ = {};
};

}  // namespace understudy::ctl

#endif  // UNDERSTUDY_CLIENT_CTL_INTERRUPT_H_
